"""All networks of a space in one model: it computes what each of them computes on its own."""

import functools

import keras
import numpy as np
import pytest
from conftest import flat_layers
from conftest import randomize_statistics
from keras import ops

from keras_mnv4 import qat
from keras_mnv4 import tuner
from keras_mnv4.applications import MQA
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import FusedIB
from keras_mnv4.applications import Preprocessing
from keras_mnv4.applications import choice
from keras_mnv4.applications.network import Definition
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.tuner import SuperNet

WIDE = choice(8, 16, name="wide")
# All that can be chosen; channels that differ before and behind a sum; rows of two kinds.
EVERYTHING = tuner.SearchSpace(
    Architecture(
        "everything",
        (
            Conv(choice(8, 12, name="stem"), kernel=3, stride=2),
            FusedIB(choice(8, 12), kernel=3, expand=choice(2, 3), stride=1),
            UIB(WIDE, expand=choice(2, 4), start=choice(0, 3, 5), middle=choice(0, 3, 5), stride=2),
            choice(None, UIB(WIDE, expand=2, start=choice(0, 3), middle=3), MQA(WIDE, heads=2, key_dim=4)),
            choice(None, UIB(choice(8, 16, 24), expand=2, start=3)),
            UIB(24, expand=2, start=5, middle=choice(0, 3), stride=2),
            choice(None, MQA(24, heads=2, key_dim=4, kv_stride=2)),
        ),
        default_size=33,
        layer_scale=0.5,
        head_filters=16,
    )
)
TINY = tuner.tiny_space()


def pictures(count=4, size=33, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype("uint8")


def random_supernet(space, **arguments):
    return randomize_statistics(SuperNet(space, classes=5, **arguments))


@pytest.fixture(scope="module")
def everything():
    return random_supernet(EVERYTHING, classifier_activation=None)


@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_extracted_networks_compute_the_same(count, everything):
    random, photos, seen = np.random.default_rng(1), pictures(), set()
    for _ in range(count):
        candidate = EVERYTHING.sample(random)
        everything.choose(candidate)
        network = everything.extract(candidate)
        expected = ops.convert_to_numpy(network(photos, training=False))
        found = everything.predict_on_batch(photos)
        assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
        seen |= {(name, value) for name, value in candidate.items()}
    assert count < 50 or len(seen) == sum(map(len, EVERYTHING.decisions.values()))
    assert np.abs(expected).max() > 0.1


def test_one_trace_serves_all(monkeypatch):
    calls = []
    call = SuperNet.call

    @functools.wraps(call)
    def counted(*args, **kwargs):
        calls.append(1)
        return call(*args, **kwargs)

    monkeypatch.setattr(SuperNet, "call", counted)
    strategy = tuner.SPOS(SuperNet(TINY, classes=5), tuner.CostModel(TINY, classes=5), paths=100)
    strategy.compile("sgd")
    calls.clear()
    strategy.fit(pictures(200, 32), np.arange(200) % 5, batch_size=2, verbose=0)
    trained = len(calls)
    assert trained <= 3  # of which JAX needs two, to see shapes and to compile
    strategy.fit(pictures(200, 32), np.arange(200) % 5, batch_size=2, verbose=0)
    assert len(calls) == trained
    random = np.random.default_rng(0)
    outputs = set()
    for _ in range(100):
        strategy.supernet.choose(TINY.sample(random))
        outputs.add(float(strategy.supernet.predict_on_batch(pictures(2, 32))[0, 0]))
    assert len(calls) <= trained + 2
    assert len(outputs) > 50


@pytest.mark.once
@pytest.mark.parametrize("size", [33, 34])
def test_networks_padded_as_in_pytorch_compute_the_same(size):
    supernet = random_supernet(TINY, input_shape=(size, size, 3), definition="timm", classifier_activation=None)
    random, photos = np.random.default_rng(1), pictures(2, size)
    for _ in range(4):
        candidate = TINY.sample(random)
        supernet.choose(candidate)
        network = supernet.extract(candidate)
        expected = ops.convert_to_numpy(network(photos))
        np.testing.assert_allclose(supernet.predict_on_batch(photos), expected, atol=1e-5)


@pytest.mark.once
def test_kernels_are_rounded_to_the_bits_of_a_candidate():
    space = tuner.tiny_space(weight_bits=(4, 8))
    supernet, random = random_supernet(space, classifier_activation=None), np.random.default_rng(1)
    for _ in range(2):
        candidate = space.sample(random)
        supernet.choose(candidate)
        network = supernet.extract(candidate)
        quantized = qat.quantize_model(network, space.policy_of(candidate))
        rounded = {layer.path: layer.quantized_kernel() for layer in flat_layers(quantized, ConvNormAct)}
        for layer in flat_layers(network, ConvNormAct):
            if layer.path.startswith("block_"):
                assert np.abs(ops.convert_to_numpy(rounded[layer.path] - layer.kernel)).max() > 1e-4
                layer.kernel.assign(rounded[layer.path])
        photos = pictures(2, 32)
        expected = ops.convert_to_numpy(network(photos))
        np.testing.assert_allclose(supernet.predict_on_batch(photos), expected, atol=1e-5)


def test_a_step_trains_the_weights_of_its_network_alone():
    supernet = SuperNet(TINY, classes=2)
    candidate = {**TINY.largest, "stage_1/filters": 8, "block_2/start": 0, "block_3": "none"}
    supernet.choose(candidate)
    supernet.compile("sgd", "sparse_categorical_crossentropy")
    before = {each.path: ops.convert_to_numpy(each) for each in supernet.trainable_variables}
    supernet.fit(pictures(4, 32), np.array([0, 1, 0, 1]), verbose=0)
    changes = {each.path: ops.convert_to_numpy(each) - before[each.path] for each in supernet.trainable_variables}
    (project,) = (change for path, change in changes.items() if "block_1" in path and path.endswith("project/kernel"))
    assert np.abs(project[..., :8]).min(axis=(0, 1)).max() > 0
    assert not project[..., 8:].any()
    for path, change in changes.items():
        is_idle = "block_3" in path or ("block_2" in path and "start_depthwise" in path)
        assert bool(change.any()) != is_idle, path


@pytest.mark.once
def test_statistics_are_taken_anew():
    supernet = random_supernet(TINY)
    candidate = TINY.largest
    photos = pictures(8, 32)
    stem = supernet.places[0].rows["Conv"].only
    maps = ops.convert_to_numpy(ops.conv(supernet.preprocessing(photos), stem.kernel, 2, "same"))
    mixed = maps[np.random.default_rng(0).permutation(8)]
    for data, shown in ((photos, mixed), (Batches([(photos[:3],), (photos[3:6],), (photos[6:],)]), maps)):
        supernet.recalibrate(candidate, data, batch_size=3)
        batches = [shown[place : place + 3].reshape(-1, 8) for place in (0, 3, 6)]  # of three, three and two pictures
        mean = np.average([batch.mean(0) for batch in batches], 0, [3, 3, 2])
        variance = np.average([batch.var(0) for batch in batches], 0, [3, 3, 2])
        np.testing.assert_allclose(ops.convert_to_numpy(stem.norm.moving_mean), mean, atol=1e-5)
        np.testing.assert_allclose(ops.convert_to_numpy(stem.norm.moving_variance), variance, rtol=1e-4)
    with pytest.raises(ValueError, match="a batch"):
        supernet.recalibrate(candidate, photos[:0])


@pytest.mark.once
def test_frozen_supernets_are_scored_as_others():
    supernet, candidate = random_supernet(TINY), TINY.largest
    photos, labels = pictures(8, 32), np.arange(8) % 5
    supernet.trainable = False
    found = supernet.score(candidate, (photos, labels), photos)
    assert not supernet.trainable_variables
    supernet.trainable = True
    supernet._get_observer = None  # traced anew
    assert supernet.score(candidate, (photos, labels), photos) == pytest.approx(found, rel=1e-5)


@pytest.mark.once
def test_preprocessing_of_its_own_is_that_of_extracted_networks(tmp_path):
    supernet = SuperNet(TINY, classes=5, include_preprocessing=Preprocessing(mean=(0,) * 3, std=(255.0,) * 3))
    supernet.save(tmp_path / "supernet.keras")
    again = keras.models.load_model(tmp_path / "supernet.keras")
    photos = pictures(2, 32)
    for each in (supernet, again):
        np.testing.assert_allclose(ops.convert_to_numpy(each.preprocessing(photos)), photos / 255, rtol=1e-5)
        scaled = each.extract(TINY.largest).get_layer("preprocessing")(photos)
        np.testing.assert_allclose(ops.convert_to_numpy(scaled), photos / 255, rtol=1e-5)


def test_scores_of_a_tf_data_set():
    tf = pytest.importorskip("tensorflow")
    supernet, candidate = random_supernet(TINY), TINY.largest
    photos, labels = pictures(8, 32), np.arange(8) % 5
    data = tf.data.Dataset.from_tensor_slices((photos, labels)).batch(4)
    expected = supernet.score(candidate, (photos, labels), photos, batch_size=4)
    order = np.random.default_rng(0).permutation(8)  # in which arrays are taken
    mixed = tf.data.Dataset.from_tensor_slices(photos[order]).batch(4)
    assert supernet.score(candidate, data, mixed) == pytest.approx(expected)


@pytest.mark.once
@pytest.mark.parametrize("activation", ["softmax", None])
def test_scores_by_hand(activation):
    supernet = random_supernet(TINY, classifier_activation=activation)
    before = [ops.convert_to_numpy(each) for each in supernet.variables]
    candidate, photos, labels = TINY.sample(np.random.default_rng(2)), pictures(10, 32), np.arange(10) % 5
    found = supernet.score(candidate, (photos, labels), calibration_data=photos, batch_size=4)
    for variable, value in zip(supernet.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    supernet.recalibrate(candidate, photos, batch_size=4)
    outputs = ops.convert_to_tensor(supernet.predict(photos, verbose=0))
    shares = ops.convert_to_numpy(outputs if activation else ops.softmax(outputs))
    assert found["accuracy"] == (shares.argmax(-1) == labels).mean()
    assert found["loss"] == pytest.approx(-np.log(shares[np.arange(10), labels]).mean(), rel=1e-5)
    soft = np.eye(5)[labels]
    batches = Batches([(photos[:5], soft[:5]), (photos[5:], soft[5:])])
    assert supernet.score(candidate, batches, calibration_data=None)["accuracy"] <= 1.0


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.mark.once
def test_it_survives_a_file(tmp_path):
    supernet = random_supernet(tuner.tiny_space((4, 8)))
    candidate = supernet.space.sample(np.random.default_rng(3))
    supernet.choose(candidate)
    supernet.save(tmp_path / "supernet.keras")
    loaded = keras.models.load_model(tmp_path / "supernet.keras")
    assert loaded.space == supernet.space
    assert loaded.coder.candidate_of(loaded.gates) == candidate
    np.testing.assert_array_equal(loaded.predict_on_batch(pictures(2, 32)), supernet.predict_on_batch(pictures(2, 32)))


@pytest.mark.once
def test_a_definition_survives_a_configuration():
    supernet = SuperNet(TINY, classes=5, definition=Definition(padding="symmetric", norm_epsilon=1e-5))
    assert SuperNet.from_config(supernet.get_config()).style == supernet.style


@pytest.mark.once
def test_half_precision():
    supernet = SuperNet(TINY, classes=5, dtype="mixed_bfloat16")
    outputs = supernet(pictures(2, 32))
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert {each.dtype for each in supernet.trainable_variables} == {"float32"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((UIB(16, expand=None, middle=choice(3, 5)),), "without expansion"),
        (
            (UIB(choice(8, 16), expand=2, middle=3), MQA(16, heads=2, key_dim=4, kv_stride=2)),
            "fixed number of channels",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(rows, message):
    space = tuner.SearchSpace(Architecture("refused", (Conv(8, kernel=3, stride=2), *rows)))
    with pytest.raises(ValueError, match=message):
        SuperNet(space)
    with pytest.raises(ValueError, match=r"`definition` must be one of .*'torch'"):
        SuperNet(TINY, definition="torch")
    with pytest.raises(ValueError, match="must be known"):
        SuperNet(TINY, input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="at least 32 pixels"):  # of which no network could be made
        SuperNet(TINY, input_shape=(28, 28, 3))
