"""Strategies: their gradients against formulas, differences and sums, and a planted benchmark that each solves."""

import itertools

import keras
import numpy as np
import planted
import pytest
from devices import on_one_and_two
from keras import ops

from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import choice
from keras_mnv4.datafree import SoftLabelLoss
from keras_mnv4.gradients import value_and_gradients
from keras_mnv4.tuner.cost_goal import CostGoal
from keras_mnv4.tuner.gates import Gates
from keras_mnv4.tuner.gates import Table
from keras_mnv4.tuner.strategies.optimizer import SearchOptimizer
from keras_mnv4.tuner.strategies.tunas import TuNASSchedule

TINY = tuner.tiny_space()
MICRO = tuner.SearchSpace(
    Architecture(
        "micro",
        (
            Conv(8, kernel=3, stride=2),
            UIB(choice(8, 16), expand=2, start=choice(0, 3), middle=3, stride=2),
            choice(None, UIB(16, expand=2, middle=choice(0, 3))),
        ),
    )
)


class PlantedNetwork(keras.Model):
    """Stands for a supernet of `planted.SPACE`: as many of its answers are right as the planted accuracy says.

    What it takes for pictures are numbers between 0 and 1. Class 0 is likely where the number is below the accuracy.
    """

    gives_logits = False

    def __init__(self):
        super().__init__()
        self.space = planted.SPACE
        self.coder = Gates(self.space)
        self.bias = self.add_weight(name="bias", shape=(), initializer="zeros")
        self.table = Table.over(self.space, tuple(self.space.decisions), self.accuracy_of)
        self.gates = self.add_weight(name="gates", shape=(self.coder.size,), trainable=False, initializer="zeros")
        self.built = True

    def accuracy_of(self, candidate):
        return planted.accuracy_of(candidate) if self.space.is_network(candidate) else 0.0

    def call(self, inputs, gates=None, training=False):
        margin = 8.0 * (self.table.expect(self.coder.split(gates)) - inputs[:, 0]) + self.bias - self.bias
        return ops.softmax(ops.stack([margin, ops.zeros_like(margin)], -1))


@pytest.fixture(scope="module")
def planted_network():
    return PlantedNetwork()


def numbers(count):
    """Evenly spread, so that accuracies are exact, in an order of their own."""
    places = np.random.default_rng(0).permutation(count)
    return (places[:, None].astype("float32") + 0.5) / count, np.zeros(count, "int32")


def share_of_better(candidate):
    return (planted.all_accuracies() > planted.accuracy_of(candidate) + 1e-9).mean()


STRATEGIES = {
    "darts": lambda network: tuner.DARTS(network),
    "darts of second order": lambda network: tuner.DARTS(network, unrolled_rate=0.1),
    "proxyless": lambda network: tuner.ProxylessNAS(network, every=1),
    "tunas": lambda network: tuner.TuNAS(network, total_steps=1500),
}


@pytest.mark.once
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "tunas" else pytest.mark.slow) for name in STRATEGIES]
)
def test_the_planted_best_is_found(name, planted_network):
    """1,500 steps; the rates of the papers are for hundreds of thousands."""
    strategy = STRATEGIES[name](planted_network)
    rate = TuNASSchedule(5e-3, 1500) if name == "tunas" else 1e-2
    strategy.compile("sgd", architecture_optimizer=keras.optimizers.Adam(rate, beta_1=0.0))
    data = numbers(1500 * 64)
    strategy.fit(tuner.search_batches(data, data, 64), verbose=0)
    assert share_of_better(strategy.best_candidate()) < 0.01


class Curved(keras.Model):
    """A small smooth network in place of a supernet."""

    gives_logits = False

    def __init__(self, space=TINY):
        super().__init__()
        self.space, self.coder = space, Gates(space)
        how = {"initializer": keras.initializers.RandomNormal(stddev=0.5, seed=0)}
        self.first = self.add_weight(name="first", shape=(3, self.coder.size), **how)
        self.last = self.add_weight(name="last", shape=(self.coder.size, 2), **how)
        self.gates = self.add_weight(name="gates", shape=(self.coder.size,), trainable=False, initializer="zeros")
        self.built = True

    def call(self, inputs, gates=None, training=False):
        return ops.softmax(ops.matmul(ops.tanh(ops.matmul(inputs, self.first)) * gates, self.last))


def curved_data(seed):
    random = np.random.default_rng(seed)
    return random.normal(size=(16, 3)).astype("float32"), random.integers(0, 2, 16)


def test_darts_of_second_order_is_the_gradient_behind_a_step():
    """Against differences of the loss, each at weights that have taken their own step."""
    rate, network = 0.5, Curved()
    strategy = tuner.DARTS(network, unrolled_rate=rate)
    strategy.compile("sgd")
    training, search = curved_data(0), curved_data(1)
    weights = [ops.convert_to_tensor(each) for each in network.trainable_variables]

    def loss_behind_a_step(logits):
        gates = network.coder.join({name: ops.softmax(each) for name, each in network.coder.split(logits).items()})
        _, steps = value_and_gradients(lambda values: strategy.loss_of(*training, gates, values), weights)
        moved = [weight - rate * step for weight, step in zip(weights, steps, strict=True)]
        return float(strategy.loss_of(*search, gates, moved))

    logits = np.random.default_rng(2).normal(size=network.coder.size).astype("float32")
    found = ops.convert_to_numpy(strategy.unrolled_gradient(ops.convert_to_tensor(logits), search, training))
    nudges = 0.02 * np.eye(len(logits), dtype="float32")
    expected = [(loss_behind_a_step(logits + each) - loss_behind_a_step(logits - each)) / 0.04 for each in nudges]
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())
    strategy.unrolled_rate = 1e-9
    first_order = ops.convert_to_numpy(strategy.unrolled_gradient(ops.convert_to_tensor(logits), search, training))
    assert np.abs(first_order - expected).max() > 0.1 * np.abs(expected).max()  # the second order is not nothing


def test_the_gradient_of_binary_gates_is_their_formula():
    strategy = tuner.ProxylessNAS(Curved())
    logits = np.random.default_rng(0).normal(size=strategy.coder.size).astype("float32")
    of_gates = np.random.default_rng(1).normal(size=strategy.coder.size).astype("float32")
    drawn = []

    def loss(values):
        vector = strategy.coder.join(strategy.binary_gates(values[0]))
        drawn.append(vector)
        return ops.sum(vector * of_gates)

    _, (found,) = value_and_gradients(loss, [logits])
    expected = np.empty_like(logits)
    for part in strategy.coder.slices.values():
        chances = np.exp(logits[part]) / np.exp(logits[part]).sum()
        for i, j in itertools.product(range(len(chances)), repeat=2):
            if j == 0:
                expected[part][i] = 0.0
            expected[part][i] += of_gates[part][j] * chances[j] * ((i == j) - chances[i])
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)
    vector = strategy.coder.join(strategy.binary_gates(ops.convert_to_tensor(logits)))
    np.testing.assert_allclose(sorted(ops.convert_to_numpy(vector)), [0.0] * 9 + [1.0] * 9, atol=1e-6)


IDLE = "block_2/middle"  # of no consequence where there is no second block


@pytest.mark.once
def test_the_mean_gradient_of_reinforcement_is_that_of_the_mean_reward():
    """Over all candidates of a space: each with its chance, of which decisions on rows left out are no part."""
    strategy = tuner.TuNAS(Curved(MICRO), total_steps=100)
    coder, random = strategy.coder, np.random.default_rng(0)
    logits = random.normal(size=coder.size).astype("float32")
    merits = {(name, value): random.normal() for name, values in MICRO.decisions.items() for value in values}
    candidates = [MICRO.decode(each) for each in np.ndindex(*coder.sizes.values())]
    vectors = np.stack([coder.of(each) for each in candidates])
    rewards = np.array(
        [
            sum(merits[each] for each in candidate.items() if candidate["block_2"] == "UIB" or each[0] != IDLE)
            for candidate in candidates
        ]
    )

    def chances_of(logits):
        logs = np.concatenate([logits[part] - np.log(np.exp(logits[part]).sum()) for part in coder.slices.values()])
        return np.exp(vectors @ logs)

    def loss(values, vector):
        return strategy.log_probability(coder.split(values[0]), coder.split(vector))

    found = sum(
        chance * reward * ops.convert_to_numpy(value_and_gradients(lambda v, w=vector: loss(v, w), [logits])[1][0])
        for chance, reward, vector in zip(chances_of(logits), rewards, vectors, strict=True)
    )
    nudges = 1e-4 * np.eye(coder.size)
    differences = [(chances_of(logits + each) - chances_of(logits - each)) @ rewards / 2e-4 for each in nudges]
    np.testing.assert_allclose(found, differences, atol=1e-3)


def test_rewards_by_hand():
    costs = tuner.CostModel(TINY, classes=2)
    network = Curved()
    candidate = TINY.largest
    parts = network.coder.split(network.coder.of(candidate))
    targets = {"macs": 2.0 * costs.cost(candidate, "macs"), "parameters": costs.cost(candidate, "parameters") / 4}
    expected = {
        "absolute": 0.75 - 0.1 * 0.5 - 0.1 * 3.0,
        "mnas": 0.75 * 0.5**-0.1 * 4**-0.1,
        "mnas_hard": 0.75 * 4**-0.1,
    }
    for form, value in expected.items():
        strategy = tuner.TuNAS(network, 100, costs, targets, reward=form)
        assert float(strategy.reward_of(0.75, parts)) == pytest.approx(value, rel=1e-5)
    nothing = network.coder.of({**candidate, "block_1/start": 0, "block_1/middle": 0})
    assert float(tuner.TuNAS(network, 100).reward_of(0.75, network.coder.split(nothing))) == 0.0


@pytest.mark.once
def test_whether_all_values_are_trained_is_drawn_for_each_decision():
    """In the middle of the warm-up for every second one, at its end for none."""
    strategy = tuner.TuNAS(Curved(), total_steps=8000)
    shares = {}
    for step in (0, 1000, 2000):
        strategy.steps.assign(step)
        drawn = [strategy.draw() for _ in range(16)]
        are_for_all = np.array(
            [[np.array_equal(each[name], strategy._all_values(name)) for name in TINY.decisions] for each in drawn]
        )
        averaged = [name not in strategy._widths for name in TINY.decisions]  # a width may be the largest by chance
        shares[step] = are_for_all[:, averaged].mean(-1)
    assert shares[0].min() == 1
    assert shares[2000].max() == 0
    assert 0.3 < shares[1000].mean() < 0.7
    assert np.mean((shares[1000] > 0) & (shares[1000] < 1)) > 0.5


@pytest.mark.once
def test_the_schedule_of_tunas():
    schedule = TuNASSchedule(3e-4, 1000)
    rates = [float(schedule(step)) for step in (0, 249, 250, 625, 1000)]
    assert rates == pytest.approx([0.0, 0.0, 3e-4, 3e-4 * 10**0.5, 3e-3])


def test_two_optimizers_are_as_each_alone():
    weights, logits = (keras.Variable(np.ones(3, "float32")) for _ in range(2))
    lone = [keras.Variable(np.ones(3, "float32")) for _ in range(2)]
    both = SearchOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.01), [logits])
    alone = keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.01)
    for step in range(3):
        gradients = [ops.convert_to_tensor(np.full(3, value + step, "float32")) for value in (0.5, -2.0)]
        both.apply(gradients[::-1], [logits, weights])
        for optimizer, gradient, variable in zip(alone, gradients, lone, strict=True):
            optimizer.apply([gradient], [variable])
    for variable, expected in zip((weights, logits), lone, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(expected))
    assert int(both.iterations) == 3
    assert both.learning_rate == alone[0].learning_rate


def test_costs_are_drawn_evenly():
    costs = tuner.CostModel(TINY, {"macs": 6e5}, classes=2)
    strategy = tuner.SPOS(Curved(), costs, paths=200, uniform_in="macs")
    drawn = [
        strategy.coder.candidate_of(ops.convert_to_numpy(strategy.coder.join(strategy.draw()))) for _ in range(300)
    ]
    prices = np.array([costs.cost(each, "macs") for each in drawn])
    assert prices.max() <= 6e5
    counts, _ = np.histogram(prices, bins=10, range=(prices.min(), prices.max()))
    plain = tuner.SPOS(Curved(), costs, paths=200)
    unweighted = [costs.cost(plain.coder.candidate_of(each), "macs") for each in plain._paths]
    before, _ = np.histogram(unweighted, bins=10)
    assert counts.std() / counts.mean() < 0.7 * before.std() / before.mean()


FITTED = {
    "spos": lambda supernet, costs: tuner.SPOS(supernet, costs, paths=16),
    "tunas": lambda supernet, costs: tuner.TuNAS(supernet, 8, costs, {"macs": 5e5}),
    "darts": lambda supernet, costs: tuner.DARTS(supernet),
    "darts of second order": lambda supernet, costs: tuner.DARTS(supernet, unrolled_rate=0.01),
    "proxyless": lambda supernet, costs: tuner.ProxylessNAS(supernet, 2, costs, ("macs", 5e5), every=1),
}
FITTED_MARKS = {"spos": pytest.mark.once, "darts": ()}  # the others' steps run on the planted benchmark, too


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=FITTED_MARKS.get(name, pytest.mark.slow)) for name in FITTED]
)
def test_a_supernet_is_trained_with_fit(name):
    random = np.random.default_rng(0)
    data = random.integers(0, 256, (16, 32, 32, 3)).astype("uint8"), np.arange(16) % 2
    supernet = tuner.SuperNet(TINY, classes=2)
    strategy = FITTED[name](supernet, tuner.CostModel(TINY, classes=2))
    strategy.compile(keras.optimizers.SGD(0.01), metrics=["accuracy"], architecture_optimizer=None)
    before = [ops.convert_to_numpy(each) for each in (supernet.trainable_variables[0], *_logits(strategy))]
    history = strategy.fit(*(data if name == "spos" else [tuner.search_batches(data, data, 4)]), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert 0.0 <= history.history["accuracy"][-1] <= 1.0
    after = [ops.convert_to_numpy(each) for each in (supernet.trainable_variables[0], *_logits(strategy))]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    assert TINY.is_network(strategy.best_candidate())
    assert strategy.evaluate(*data, verbose=0, return_dict=True).keys() >= {"loss", "accuracy"}
    if strategy.logits is not None:
        supernet.choose(strategy.coder.candidate_of(ops.convert_to_numpy(strategy.logits)))
    np.testing.assert_allclose(strategy.predict(data[0], verbose=0), supernet.predict(data[0], verbose=0), atol=1e-6)


def test_augmentation_takes_pictures_of_bytes():
    """Layers of Keras that do not cast for themselves."""
    pictures, labels = np.zeros((4, 32, 32, 3), "uint8"), np.arange(4) % 2
    supernet = tuner.SuperNet(TINY, classes=2)
    strategy = tuner.SPOS(supernet, tuner.CostModel(TINY, classes=2), augmentation=[keras.layers.GaussianNoise(1.0)])
    strategy.compile("sgd")
    assert np.isfinite(strategy.fit(pictures, labels, verbose=0).history["loss"][0])


ASKING = {
    "spos": lambda supernet, **how: tuner.SPOS(supernet, tuner.CostModel(TINY, classes=2), paths=16, **how),
    "darts": lambda supernet, **how: tuner.DARTS(supernet, **how),
    "darts of second order": lambda supernet, **how: tuner.DARTS(supernet, unrolled_rate=0.01, **how),
    "proxyless": lambda supernet, **how: tuner.ProxylessNAS(supernet, every=1, **how),
    "tunas": lambda supernet, **how: tuner.TuNAS(supernet, total_steps=8, **how),
}


def make_teacher():
    """A classifier that says another thing of each picture, and would not be the same if its statistics moved."""
    keras.utils.set_random_seed(3)
    pictures = keras.Input((32, 32, 3))
    maps = keras.layers.BatchNormalization()(keras.layers.Rescaling(1 / 128)(pictures))
    maps = keras.layers.Conv2D(4, 8, strides=8, activation="relu")(maps)
    return keras.Model(pictures, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(maps)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("spos", "darts") else pytest.mark.slow) for name in ASKING]
)
def test_a_teacher_is_asked_about_pictures_as_they_were_changed(name):
    """As if its probabilities were the labels, of the weights' pictures changed beforehand and others as they are."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, 4, 32, 32, 3)).astype("float32")
    teacher, classes = make_teacher(), np.zeros((2, 4), "int32")
    before = [ops.convert_to_numpy(weight) for weight in teacher.weights]
    changed = np.stack([255.0 - pictures[0], pictures[1]])
    soft_labels = [teacher.predict(each, verbose=0) for each in changed]
    invert = keras.layers.Rescaling(-1.0, offset=255.0)

    def trained(pictures, labels, **how):
        keras.utils.set_random_seed(0)
        supernet = tuner.SuperNet(TINY, classes=2)
        strategy = ASKING[name](supernet, **how)
        strategy.compile(keras.optimizers.SGD(0.1), None if how else SoftLabelLoss(times_square=name != "spos"))
        pictures, labels = (pictures[0], labels[0]) if name == "spos" else (tuple(pictures), tuple(labels))
        loss = strategy.train_on_batch(pictures, labels)
        asked = strategy.evaluate(changed[1], classes[1] if how else soft_labels[1], verbose=0)
        return [loss, asked], [ops.convert_to_numpy(each) for each in strategy.trainable_variables]

    losses, weights = trained(pictures, classes, augmentation=[invert], teacher=teacher)
    expected_losses, expected = trained(changed, soft_labels)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for each, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-4, atol=1e-5)
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


def test_pictures_for_the_architecture_are_not_changed():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, 4, 32, 32, 3)).astype("float32")
    invert = keras.layers.Rescaling(-1.0, offset=255.0)
    logits = []
    for shown, changes in ((pictures, [invert]), (np.stack([255.0 - pictures[0], pictures[1]]), [])):
        keras.utils.set_random_seed(0)
        strategy = tuner.DARTS(tuner.SuperNet(TINY, classes=2), augmentation=changes)
        strategy.compile(keras.optimizers.SGD(0.1), architecture_optimizer=keras.optimizers.SGD(1.0))
        strategy.train_on_batch(tuple(shown), (np.arange(4) % 2, np.arange(4) // 2))
        logits.append(ops.convert_to_numpy(strategy.logits))
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-7)


@pytest.mark.once
def test_a_teacher_may_be_a_function():
    teacher, pictures = make_teacher(), np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    losses = []
    for each in (teacher, lambda shown: teacher(shown, training=False)):
        keras.utils.set_random_seed(0)
        strategy = tuner.SPOS(tuner.SuperNet(TINY, classes=2), tuner.CostModel(TINY, classes=2), teacher=each)
        strategy.compile("sgd")
        losses.append(strategy.train_on_batch(pictures, np.zeros(4, "int32")))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, "softmax")

    def call(self, pictures):
        return self.dense(ops.reshape(pictures, (1, -1)))


@pytest.mark.once
def test_teachers_that_do_not_say_what_they_give_are_refused():
    tanh = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "tanh")])
    subclassed = Subclassed()
    subclassed(np.zeros((1, 32, 32, 3), "float32"))
    for unclear in (tanh, subclassed):
        with pytest.raises(ValueError, match="give a function from pictures to probabilities"):
            tuner.DARTS(tuner.SuperNet(TINY, classes=2), teacher=unclear)
    with pytest.raises(ValueError, match="`teacher` must be a built"):
        tuner.DARTS(tuner.SuperNet(TINY, classes=2), teacher=keras.Sequential([keras.layers.Dense(2)]))


def _logits(strategy):
    return [] if strategy.logits is None else [strategy.logits]


def test_logits_rest_between_their_steps():
    """Their optimizer, too: the first step after a warm-up is as long as any first step of Adam."""
    strategy = tuner.ProxylessNAS(Curved(), warmup_steps=2, every=3)
    strategy.compile("sgd")
    data = [[each, each] for each in curved_data(0)]
    seen = []
    for _ in range(8):
        strategy.train_on_batch(*data)
        seen.append(ops.convert_to_numpy(strategy.logits))
    lengths = [np.abs(after - before).max() for before, after in itertools.pairwise(seen)]
    assert lengths[:3] + lengths[4:6] == [0.0] * 5
    assert lengths[3] == pytest.approx(1e-3, rel=1e-2)
    assert 0 < lengths[6] <= 1.5e-3
    assert int(strategy.optimizer.inner_optimizers[1].iterations) == 2


def test_logits_learn_nothing_of_what_regularises_weights():
    network = Curved()
    strategy = tuner.DARTS(network)
    strategy.compile("sgd")
    gates = network.coder.join(strategy.draw())
    before = float(strategy.loss_of(*curved_data(0), gates))
    network.first.regularizer = keras.regularizers.L2(1.0)
    assert network.losses
    assert float(strategy.loss_of(*curved_data(0), gates)) == before


@pytest.mark.once
def test_weights_are_averaged_and_logits_are_not():
    strategy = tuner.DARTS(Curved())
    strategy.compile(keras.optimizers.AdamW(0.01, use_ema=True))
    data = [[each, each] for each in curved_data(0)]
    strategy.fit(*data, batch_size=4, epochs=2, verbose=0)
    average = strategy.optimizer.inner_optimizers[0]._model_variables_moving_average
    first = strategy.supernet.first
    place = strategy.supernet.trainable_variables.index(first)
    np.testing.assert_allclose(ops.convert_to_numpy(first), ops.convert_to_numpy(average[place]), rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.once
def test_binary_gates_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        strategy = tuner.ProxylessNAS(Curved(), every=1)
    finally:
        keras.config.set_dtype_policy("float32")
    strategy.compile("sgd")
    before = ops.convert_to_numpy(strategy.logits)
    strategy.fit(*([each, each] for each in curved_data(0)), batch_size=4, verbose=0)
    assert np.abs(ops.convert_to_numpy(strategy.logits) - before).max() > 1e-4


def test_what_is_drawn_goes_on_from_a_file(tmp_path):
    costs = tuner.CostModel(TINY, classes=2)
    first, second = (tuner.SPOS(Curved(), costs, paths=200) for _ in range(2))
    for _ in range(3):
        first.draw()
    first.save_weights(tmp_path / "spos.weights.h5")
    second.load_weights(tmp_path / "spos.weights.h5")
    for _ in range(3):
        one, other = (ops.convert_to_numpy(each.coder.join(each.draw())) for each in (first, second))
        np.testing.assert_array_equal(one, other)


def test_goals_by_hand():
    costs = tuner.CostModel(TINY, classes=2)
    coder = Gates(TINY)
    parts = coder.split(coder.of(TINY.largest))
    cost = costs.cost(TINY.largest, "macs")
    for target in (2.0 * cost, 0.5 * cost):
        expected = {
            "mul": 1.5 * 0.2 * (np.log(cost) / np.log(target)) ** 0.3,
            "add": 1.5 + 0.1 * (cost / target - 1.0),
            "limit": 1.5 + 0.01 * max(cost / target - 1.0, 0.0) * (cost / target - 1.0),
        }
        for form, value in expected.items():
            assert float(CostGoal(costs, ("macs", target), form).count_in(1.5, parts)) == pytest.approx(value, rel=1e-5)


def test_the_price_of_a_limit_is_for_the_likeliest_network():
    """Chances that are nearly the same: the mean cost is much the same, and what would be found is not."""
    costs = tuner.CostModel(TINY, classes=2)
    coder, prices = Gates(TINY), []
    smallest = min(
        (TINY.sample(np.random.default_rng(seed)) for seed in range(50)), key=lambda c: costs.cost(c, "macs")
    )
    for candidate in (smallest, TINY.largest):
        chances = {
            name: ops.softmax(0.01 * ops.convert_to_tensor(each))
            for name, each in coder.split(coder.of(candidate)).items()
        }
        goal = CostGoal(costs, ("macs", 1.2e5), "limit")
        mean = float(goal.table.expect(chances))
        assert mean > 1.4e5
        price = 0.01 * max(costs.cost(candidate, "macs") / 1.2e5 - 1.0, 0.0)
        assert float(goal.count_in(1.5, chances)) == pytest.approx(1.5 + price * (mean / 1.2e5 - 1.0), rel=1e-5)
        prices.append(float(goal.price))
    assert prices[0] == 0.0 < prices[1]


def test_the_price_of_a_limit_waits_until_the_logits_move():
    """The cost is beyond the limit throughout: of twelve steps, five of warm-up, those of the logits are 8 and 11."""
    costs = tuner.CostModel(TINY, classes=2)
    how = {"warmup_steps": 5, "every": 3, "form": "limit", "costs": costs, "target": ("macs", 1e4)}
    strategy = tuner.ProxylessNAS(Curved(), price_rate=0.5, **how)
    strategy.compile("sgd", architecture_optimizer=keras.optimizers.SGD(0.0))
    prices = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: prices.append(float(strategy.goal.price)))
    pictures, labels = (each[:4] for each in curved_data(0))
    strategy.fit([pictures, pictures], [labels, labels], batch_size=4, epochs=12, verbose=0, callbacks=[note])
    assert [step for step in range(1, 12) if prices[step] > prices[step - 1]] == [7, 10]
    assert prices[6] == 0.0


def test_networks_that_give_logits_are_trained_as_such():
    """The same network, with the same weights and pictures: its loss is that of its softmax."""
    pictures, labels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)), np.array([0, 1, 1, 0])
    soft = np.eye(2, dtype="float32")[labels]
    for teacher in (None, lambda shown: ops.convert_to_tensor(soft)):
        losses = []
        for activation in ("softmax", None):
            keras.utils.set_random_seed(0)
            supernet = tuner.SuperNet(TINY, classes=2, classifier_activation=activation)
            strategy = tuner.SPOS(supernet, tuner.CostModel(TINY, classes=2), teacher=teacher)
            strategy.compile("sgd")
            losses.append(strategy.evaluate(pictures, labels, batch_size=4, verbose=0))
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("how", [{"penalty": 0.1}, {"total_steps": 0}, {"batch_size": 0}])
def test_bad_arguments_of_tunas(how):
    with pytest.raises(ValueError, match=next(iter(how))):
        tuner.TuNAS(Curved(), **{"total_steps": 10, **how})


@pytest.mark.once
def test_the_rate_of_tunas_is_proportional_to_the_batch():
    optimizers = [tuner.TuNAS(Curved(), 100, batch_size=batch).default_optimizer() for batch in (256, 64)]
    assert [float(each._learning_rate(100)) for each in optimizers] == pytest.approx([3e-3, 7.5e-4])


@pytest.mark.once
def test_logits_of_short_searches_have_larger_rates():
    supernet = Curved()
    rates = [tuner.DARTS(supernet).default_rate(steps) for steps in (0, 100, 2000, 50_000)]
    assert rates == pytest.approx([0.02, 0.02, 4 / 2000, 3e-4])
    proxyless = tuner.ProxylessNAS(supernet, warmup_steps=500, every=5)
    rates = [proxyless.default_rate(steps) for steps in (100, 2000, 50_000)]
    assert rates == pytest.approx([0.02, 4 / 300, 1e-3])
    assert tuner.TuNAS(supernet, 100).default_rate(100) is None


@pytest.mark.parametrize("name", ["darts", "proxyless"])
def test_costs_stay_within_their_limit(name):
    """Those of the space are from 0.8 to 2.4e5: one limit binds, the other does not."""
    costs, found = tuner.CostModel(TINY, classes=2), []
    for limit in (1e5, 3e5):
        how = {"costs": costs, "target": ("macs", limit), "price_rate": 0.1}
        if name == "darts":
            strategy = tuner.DARTS(Curved(), **how)
        else:
            strategy = tuner.ProxylessNAS(Curved(), form="limit", every=1, **how)
        strategy.compile("sgd", architecture_optimizer=keras.optimizers.Adam(0.02, beta_1=0.0))
        strategy.fit(*([each, each] for each in curved_data(0)), batch_size=4, epochs=100, verbose=0)
        found.append(costs.cost(strategy.best_candidate(), "macs"))
    tight, loose = found
    assert tight <= 1.1e5 < loose
    assert float(strategy.goal.price) == 0.0


@pytest.mark.once
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"target": ("macs", 0.3)}, "far above 1"),
        ({"target": ("macs", 1e6), "form": "hinge"}, "'limit'.*'hinge'"),
        ({}, "belong together"),
    ],
)
def test_goals_that_say_nothing(how, message):
    with pytest.raises(ValueError, match=message):
        tuner.ProxylessNAS(Curved(), costs=tuner.CostModel(TINY), **how)


@pytest.mark.once
def test_batches_of_two_kinds():
    first = np.arange(10), np.arange(10) + 100
    second = np.arange(4) + 1000, np.arange(4) + 1100
    batches = tuner.search_batches(first, second, batch_size=3)
    assert len(batches) == 3
    seen = [batches[place] for place in range(3)]
    for (x, search_x), (y, search_y) in seen:
        np.testing.assert_array_equal(y, x + 100)
        np.testing.assert_array_equal(search_y, search_x + 100)
    assert len({number for (x, _), _ in seen for number in x}) == 9
    before = batches[0][0][0].tolist()
    batches.on_epoch_end()
    second_epoch = batches[0][0][0].tolist()
    assert second_epoch != before
    batches.turn_to(0)
    assert batches[0][0][0].tolist() == before
    batches.turn_to(1)
    assert batches[0][0][0].tolist() == second_epoch
    assert tuner.search_batches(first, second, 3, seed=1)[0][0][0].tolist() != before
    with pytest.raises(ValueError, match="number of pictures"):
        tuner.search_batches(first, second, batch_size=5)
    strategy = tuner.DARTS(Curved())
    strategy.compile("sgd")
    with pytest.raises(ValueError, match="search_batches"):
        strategy.fit(*curved_data(0), verbose=0)
    with pytest.raises(ValueError, match="no logits"):
        tuner.SPOS(Curved(), tuner.CostModel(TINY), paths=4).compile("sgd", architecture_optimizer="adam")


@pytest.mark.tensorflow
def test_batches_of_data_sets():
    import tensorflow as tf

    first = tf.data.Dataset.from_tensor_slices((np.arange(6), np.arange(6) + 100)).batch(2)
    second = tf.data.Dataset.from_tensor_slices((np.arange(2) + 1000, np.arange(2) + 1100)).batch(2)
    batches = [tf.nest.map_structure(lambda each: each.numpy().tolist(), each) for each in
               tuner.search_batches(first, second)]  # fmt: skip
    assert batches[1] == (([2, 3], [1000, 1001]), ([102, 103], [1100, 1101]))
    assert len(batches) == 3
    with pytest.raises(ValueError, match="both"):
        tuner.search_batches(first, (np.arange(2), np.arange(2)))


def trained():
    """All variables of each strategy after six steps, whose batches are two pictures twice.

    So each of two devices sees those two: their normalisations are as on one device, which they are not in general.
    """
    found = {}
    pairs = np.random.default_rng(0).uniform(0, 255, (6, 1, 2, 32, 32, 3)).astype("float32")
    pictures = np.tile(pairs, (1, 2, 1, 1, 1, 1)).reshape(-1, 32, 32, 3)
    labels = np.tile(np.arange(6)[:, None] % 2, (1, 4)).reshape(-1)
    for name in ("spos", "tunas", "darts", "proxyless"):
        keras.utils.set_random_seed(0)
        supernet = tuner.SuperNet(TINY, classes=2)
        strategy = FITTED[name](supernet, tuner.CostModel(TINY, classes=2))
        strategy.compile(keras.optimizers.SGD(0.05))
        data = pictures, labels
        if strategy.logits is not None:  # others, for the architecture
            data = [[each, each[::-1].copy()] for each in data]
        strategy.fit(*data, batch_size=4, shuffle=False, verbose=0)
        found |= {f"{name}/{index}": ops.convert_to_numpy(each) for index, each in enumerate(strategy.variables)}
    return found


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras trains on one device there")
def test_two_devices_train_like_one(tmp_path):
    one, two = on_one_and_two(trained, tmp_path)
    for path in one:
        np.testing.assert_allclose(two[path], one[path], rtol=0, atol=1e-5, err_msg=path)
