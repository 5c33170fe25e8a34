"""What candidates are scored on: pictures as they are, or as weights see them in training."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_mnv4 import data
from keras_mnv4.tuner.scoring import SCORED_PICTURES
from keras_mnv4.tuner.scoring import scoring_data

SIZE = 8


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    sets = {
        name: data.PictureSet(random.integers(0, 256, (300, SIZE, SIZE, 3), "uint8"), np.arange(300) % 4, SIZE)
        for name in ("train", "validation", "test")
    }
    return data.PictureData(("a", "b", "c", "d"), **sets)


def corner_teacher(pictures):
    """Says the class of which quarter of all bytes the first one is in."""
    return ops.one_hot(ops.cast(pictures[:, 0, 0, 0] // 64, "int32"), 4)


def test_pictures_as_they_are_have_their_labels(pictures, tmp_path):
    path = tmp_path / "scored.npz"
    found = scoring_data(pictures, "labels", corner_teacher, [keras.layers.RandomFlip()], path, seed=0)
    for shown, expected in zip(found["validation_data"], pictures.validation.arrays(), strict=True):
        np.testing.assert_array_equal(shown, expected)
    np.testing.assert_array_equal(found["calibration_data"], pictures.train.arrays()[0])
    assert not path.exists()


def test_changed_pictures_have_what_the_teacher_says_of_them(pictures, tmp_path):
    inverted = [keras.layers.Rescaling(-1.0, 255.0)]
    found = scoring_data(pictures, "teacher", corner_teacher, inverted, tmp_path / "scored.npz", seed=0)
    shown, labels = found["validation_data"]
    assert len(shown) == 4200 >= SCORED_PICTURES  # fourteen times 300
    assert shown.dtype == found["calibration_data"].dtype == "uint8"
    negatives = 255 - pictures.validation.arrays()[0]
    expected = sorted(each.tobytes() for each in negatives for _ in range(14))
    assert sorted(each.tobytes() for each in shown) == expected
    np.testing.assert_array_equal(labels, np.eye(4)[shown[:, 0, 0, 0] // 64])
    expected = sorted(each.tobytes() for each in 255 - pictures.train.arrays()[0])
    assert sorted(each.tobytes() for each in found["calibration_data"]) == expected


def test_pictures_are_mixed_with_those_of_other_classes(tmp_path):
    classes = np.repeat(np.arange(4), 64)
    shades = np.broadcast_to((60 * classes)[:, None, None, None], (256, SIZE, SIZE, 3)).astype("uint8")
    sets = {name: data.PictureSet(shades, classes, SIZE) for name in ("train", "validation", "test")}
    sorted_by_class = data.PictureData(("a", "b", "c", "d"), **sets)
    mixed = [keras.layers.MixUp(1.0, seed=0)]
    found = scoring_data(sorted_by_class, "teacher", corner_teacher, mixed, tmp_path / "scored.npz", seed=0)
    for shown in (found["validation_data"][0], found["calibration_data"]):
        assert np.mean(shown[:, 0, 0, 0] % 60 != 0) > 0.3


def test_a_search_that_goes_on_has_the_same_pictures(pictures, tmp_path):
    def found():
        flips = [keras.layers.RandomFlip(), keras.layers.RandomTranslation(0.5, 0.5)]
        return scoring_data(pictures, "teacher", corner_teacher, flips, tmp_path / "scored.npz", seed=0)

    first, again = found(), found()
    for one, other in zip(first["validation_data"], again["validation_data"], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first["calibration_data"], again["calibration_data"])
    (tmp_path / "scored.npz").unlink()
    assert not np.array_equal(found()["calibration_data"], first["calibration_data"])
