"""`TuNAS`: one network at a time, drawn from chances that are learnt by reinforcement."""

import keras
import numpy as np
from keras import ops

from keras_mnv4.tuner.controller import MOMENTUM
from keras_mnv4.tuner.controller import WARMUP
from keras_mnv4.tuner.controller import rising_rate
from keras_mnv4.tuner.cost_table import CostTable
from keras_mnv4.tuner.gates import Table
from keras_mnv4.tuner.reward import check_reward
from keras_mnv4.tuner.reward import reward_of
from keras_mnv4.tuner.space import alternatives
from keras_mnv4.tuner.space import name_of
from keras_mnv4.tuner.strategies.strategy import Strategy

RATE = 3e-4  # of Adam for the chances, for 256 pictures


class TuNAS(Strategy):
    """Reinforcement learning: each step draws a network, trains it, and makes it likelier the better it does.

    How well is its reward: its accuracy on the pictures for the architecture, less a penalty for a cost other than
    the target; with a teacher, what that finds likeliest is right. In the first quarter the chances stay as they are,
    and more and more rarely all values of a decision are trained at once, drawn for each decision by itself: their
    results are averaged, and of several numbers of channels the largest is taken.

    Source: Bender et al., "Can Weight Sharing Outperform Random Architecture Search? An Investigation With TuNAS"
    (arXiv 2008.06120), with the constants of its code; used by MobileNetV4 (arXiv 2404.10518, section 6).

    Args:
        supernet: a `SuperNet`.
        total_steps: steps of the whole training, which schedules are for.
        costs: a `CostModel`; None for no regard to cost.
        targets: dictionary from measure of `costs` to the cost to aim at; each has a penalty of its own.
        reward: `"absolute"`, accuracy + `penalty` * |cost / target - 1|; `"mnas"`, accuracy * (cost / target) **
            `penalty`; or `"mnas_hard"`, the same where the cost is above the target, else the accuracy.
        penalty: how much costs count; 0 or below.
        batch_size: pictures of a step, which the chances' learning rate is proportional to: 3e-4 for 256.
        seed: seed of what is drawn.
        **kwargs: `augmentation` and `teacher`, as for `Strategy`, and those of `keras.Model`.

    Raises:
        ValueError: if `reward` is unknown, `penalty` above 0, a number of steps or pictures below 1, or only one of
            `costs` and `targets` is given.

    Example:

    >>> strategy = TuNAS(supernet, total_steps=20_000, costs=costs, targets={"macs": 30e6})
    >>> strategy.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    >>> strategy.fit(search_batches((pictures, labels), (other_pictures, other_labels)), epochs=50)
    """

    def __init__(
        self,
        supernet,
        total_steps,
        costs=None,
        targets=None,
        reward="absolute",
        penalty=-0.1,
        batch_size=256,
        seed=0,
        **kwargs,
    ):
        super().__init__(supernet, seed, "zeros", **kwargs)
        check_reward(reward, penalty)
        if min(total_steps, batch_size) < 1:
            raise ValueError(f"`total_steps` and `batch_size` must be above 0. Received: {total_steps}, {batch_size}")
        if (costs is None) != (not targets):
            raise ValueError(f"`costs` and `targets` belong together. Received: {costs=}, {targets=}")
        self.total_steps = total_steps
        self.rate = RATE * batch_size / 256
        self.reward, self.penalty = reward, penalty
        self.tables = [(CostTable(costs, measure), float(target)) for measure, target in (targets or {}).items()]
        self.baseline = self.add_weight(name="baseline", shape=(), trainable=False, initializer="zeros")
        self.reward_tracker = keras.metrics.Mean(name="reward")
        self._network_tables = _network_tables(self.space)
        self._widths = _widths(self.space)

    def default_optimizer(self, learning_rate=None):
        schedule = TuNASSchedule(learning_rate or self.rate, self.total_steps)
        return keras.optimizers.Adam(schedule, beta_1=0.0, beta_2=0.999, epsilon=1e-8)

    def draw(self):
        parts = {}
        logits = self.coder.split(ops.convert_to_tensor(self.logits))
        progress = ops.cast(self.steps, "float32") / (WARMUP * self.total_steps)
        are_for_all = keras.random.uniform((len(logits),), seed=self.random) > progress
        for place, (name, each) in enumerate(logits.items()):
            value = keras.random.categorical(each[None], 1, seed=self.random)[0, 0]
            drawn = ops.one_hot(value, each.shape[0], dtype="float32")
            parts[name] = ops.where(are_for_all[place], self._all_values(name), drawn)
        return parts

    def _all_values(self, name):
        """Gates that train all values of a decision: their average, or the largest number of channels."""
        values = self.space.decisions[name]
        if name in self._widths:
            return np.array([value == max(values) for value in values], "float32")
        return np.full(len(values), 1.0 / len(values), "float32")

    def architecture_loss(self, pictures, labels, parts, training_data):
        outputs = self.outputs_of(pictures, self.coder.join(parts))
        labels = (
            ops.argmax(labels, -1) if len(labels.shape) > 1 and labels.shape[-1] > 1 else ops.reshape(labels, (-1,))
        )
        hits = ops.cast(ops.argmax(outputs, -1), "int32") == ops.cast(labels, "int32")
        reward = ops.stop_gradient(self.reward_of(ops.mean(ops.cast(hits, "float32")), parts))
        self.reward_tracker.update_state(reward)
        is_first = self.steps == 1  # steps are counted before the loss is computed
        self.baseline.assign(ops.where(is_first, reward, MOMENTUM * self.baseline + (1.0 - MOMENTUM) * reward))
        advantage = ops.stop_gradient(reward - self.baseline)
        return -advantage * self.log_probability(self.coder.split(ops.convert_to_tensor(self.logits)), parts)

    def reward_of(self, accuracy, parts):
        """The reward of a network.

        Args:
            accuracy: from 0 to 1.
            parts: its gates, by decision.
        """
        for table in self._network_tables:  # what is no network is never right
            accuracy = accuracy * table.expect(parts)
        ratios = [table.expect(parts) / target for table, target in self.tables]
        return reward_of(accuracy, ratios, self.penalty, self.reward)

    def log_probability(self, logits, parts):
        """Logarithm of the chance with which a network is drawn. Decisions on rows that are left out do not count.

        Args:
            logits: those of the decisions, by decision.
            parts: its gates, by decision.
        """
        activity = self.coder.activity(parts)
        return sum(
            ops.stop_gradient(activity[name]) * ops.sum(ops.stop_gradient(parts[name]) * ops.log_softmax(each))
            for name, each in logits.items()
        )


@keras.saving.register_keras_serializable(package="keras_mnv4")
class TuNASSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Zero for the first quarter of the steps, then rising tenfold to the end.

    Args:
        learning_rate: what the rise begins with.
        total_steps: steps of the whole training.
    """

    def __init__(self, learning_rate, total_steps):
        self.learning_rate = learning_rate
        self.total_steps = total_steps

    def __call__(self, step):
        progress = ops.cast(step, "float32") / self.total_steps
        return ops.where(progress < WARMUP, 0.0, rising_rate(progress, self.learning_rate))

    def get_config(self):
        return {"learning_rate": self.learning_rate, "total_steps": self.total_steps}


def _widths(space):
    """The decisions that are about numbers of channels."""
    found = set()
    for path, row in space.rows:
        for kind in alternatives(row):
            choices = kind.choices.items()
            found |= {name_of(path, field, each) for field, each in choices if field in ("filters", "expand")}
    return found


def _network_tables(space):
    """For each row that may describe no block a `Table`, 1 where it describes one, else 0."""
    tables = []
    for path, row in space.rows:
        choice = space.choice_at(path, row)
        names = space.decisions_of(path, row) if choice is None else (choice, *space.decisions_of(path, row))
        table = Table.over(space, names, space.is_network)
        if not table.values.all():
            tables.append(table)
    return tables
