"""What a search has found is trained once, whatever is stopped behind that, and quantised as its bits say."""

import keras
import numpy as np
import pytest
from conftest import photo_data
from conftest import randomize_statistics

from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4 import tuner

pytestmark = pytest.mark.once
SPACE = tuner.tiny_space((4, 8))
FOUND = SPACE.mend({**SPACE.largest, "block_1/weight_bits": 4})


@pytest.fixture
def calls(monkeypatch):
    """What `training.train`, which does next to nothing here, and `training.quantize`, which gives None, were given."""
    calls = []

    def train(model, data, epochs, **how):
        randomize_statistics(model, seed=len(calls))
        calls.append(("train", model.get_weights(), {"epochs": epochs, **how}))

    def quantize(model, data, policy, **how):
        calls.append(("quantize", model.get_weights(), {"policy": policy, **how}))

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "quantize", quantize)
    return calls


def test_without_bits_it_is_trained_alone(tmp_path, calls):
    space = tuner.tiny_space()
    model = tuner.train_found(space, space.mend(space.largest), photo_data(), 3, tmp_path, verbose=0)
    assert model.output_shape == (None, 2)
    ((name, _, how),) = calls
    assert (name, how) == (
        "train",
        {"epochs": 3, "flip": True, "verbose": 0, "backup_dir": tmp_path / "backup" / "float"},
    )
    assert not list(tmp_path.iterdir())


def test_what_was_trained_is_not_trained_again(tmp_path, calls):
    data = photo_data()

    def find(epochs=2, candidate=FOUND):
        calls.clear()
        tuner.train_found(SPACE, candidate, data, epochs, tmp_path, flip=False, verbose=0)
        assert calls[-1][0] == "quantize"
        how = {"flip": False, "verbose": 0, "backup_dir": tmp_path / "backup" / "quantized"}
        assert calls[-1][2] == {"policy": SPACE.policy_of(candidate), **how}
        return [name for name, *_ in calls], calls[-1][1]

    names, weights = find()
    assert names == ["train", "quantize"]
    kept = keras.models.load_model(tmp_path / "float.keras").get_weights()
    names, again = find()  # as if the first had been killed when it quantised
    assert names == ["quantize"]
    for each, other, of_file in zip(weights, again, kept, strict=True):
        np.testing.assert_array_equal(other, each)
        np.testing.assert_array_equal(of_file, each)
    others = {**FOUND, "block_1/middle": min(SPACE.decisions["block_1/middle"])}
    for changes in ({"epochs": 3}, {"candidate": SPACE.mend(others)}):
        assert find(**changes)[0] == ["train", "quantize"]
        assert find(**changes)[0] == ["quantize"]


@pytest.mark.slow
def test_blocks_have_their_bits(tmp_path):
    model = tuner.train_found(SPACE, FOUND, photo_data(), 1, tmp_path, verbose=0)
    bits = {layer.quantizer.num_bits for layer in model._flatten_layers() if isinstance(layer, qat.FakeQuantize)}
    assert bits == {4, 8}
