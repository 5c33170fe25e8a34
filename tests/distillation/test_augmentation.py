"""`Augmentation`: crops within their ranges, operations against arithmetic by hand, one picture for one seed."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_mnv4.distillation import D1
from keras_mnv4.distillation import D2
from keras_mnv4.distillation import D3
from keras_mnv4.distillation import Augmentation
from keras_mnv4.distillation.augmentation import OPERATIONS

pytestmark = pytest.mark.once


@pytest.fixture
def photo(real_photos):
    return real_photos(1, 48)[0]


def changed(photo, name, level, sign=1):
    return np.asarray(OPERATIONS[name](Image.fromarray(photo), level, sign)).astype(int)


def test_the_papers_sets():
    assert (D1.operations, D1.magnitude, D1.mixup) == (2, 9, None)
    assert (D2.operations, D2.mixup) == (0, 1.0)
    assert (D3.operations, D3.magnitude, D3.mixup) == (2, 5, None)


def test_operations_by_hand(photo):
    values = photo.astype(int)
    np.testing.assert_array_equal(changed(photo, "identity", 0.9), values)
    np.testing.assert_array_equal(changed(photo, "invert", 0.9), 255 - values)
    np.testing.assert_array_equal(changed(photo, "posterize", 0.9), values & 0b11100000)  # three bits
    np.testing.assert_array_equal(changed(photo, "posterize", 2.0), values)
    np.testing.assert_array_equal(changed(photo, "posterize", 0.0), values & 0b10000000)  # a bit at least
    np.testing.assert_array_equal(changed(photo, "solarize", 0.5), np.where(values < 128, values, 255 - values))
    added = np.where(values < 128, np.minimum(values + 55, 255), values)
    np.testing.assert_array_equal(changed(photo, "solarize_add", 0.5), added)
    brighter = np.clip(values * 1.72, 0, 255)  # 0.1 + 1.8 * 0.9
    np.testing.assert_allclose(changed(photo, "brightness", 0.9), brighter, atol=1)
    for name in ("color", "contrast", "brightness", "sharpness"):
        np.testing.assert_array_equal(changed(photo, name, 0.5), values)


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_take_all_magnitudes(photo, name, level):
    assert changed(photo, name, level).shape == photo.shape


def test_moves_by_hand(photo):
    # 0.45 of 48 pixels at magnitude 10.
    for name, axis in (("translate_x", 1), ("translate_y", 0)):
        moved = changed(photo, name, 10 / 21.6)
        np.testing.assert_array_equal(np.take(moved, range(38), axis), np.take(photo, range(10, 48), axis))
        assert np.all(np.take(moved, range(38, 48), axis) == 128)
        back = changed(photo, name, 10 / 21.6, sign=-1)
        np.testing.assert_array_equal(np.take(back, range(10, 48), axis), np.take(photo, range(38), axis))
    np.testing.assert_array_equal(changed(photo, "rotate", 3.0), np.rot90(photo).astype(int))  # 90 degrees
    sheared = changed(photo, "shear_x", 0.5)
    for row in (0, 20, 40):
        shift = round(0.15 * (row + 0.5))
        np.testing.assert_array_equal(
            sheared[row, : 48 - shift - 1], photo[row, shift:-1] if shift else photo[row, :-1]
        )


def test_crops_stay_within_their_ranges():
    augmentation, random = Augmentation(), np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(500):
        left, top, right, bottom = augmentation._crop_box(300, 200, random)
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        areas.append((right - left) * (bottom - top) / 60_000)
        ratios.append((right - left) / (bottom - top))
    assert 0.079 < min(areas) < 0.1
    assert 0.8 < max(areas) <= 1
    assert 0.75 <= min(ratios) < 0.8
    assert 1.25 < max(ratios) <= 4 / 3 + 1e-9


@pytest.mark.parametrize("size", [(300, 10), (10, 300)])
def test_pictures_too_long_for_any_crop_are_cut_in_the_middle(size):
    augmentation = Augmentation(crop_area=(0.9, 1.0))
    left, top, right, bottom = augmentation._crop_box(*size, np.random.default_rng(0))
    assert (right - left) / (bottom - top) == pytest.approx(4 / 3 if size[0] > size[1] else 3 / 4)
    assert (left + right, top + bottom) == size


@pytest.mark.parametrize("augmentation", [D1, D2, D3])
def test_one_generator_gives_one_picture(photo, augmentation):
    first, again, other = (augmentation(photo, 32, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (first.shape, first.dtype) == ((32, 32, 3), np.uint8)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_mirrors_and_probabilities(photo):
    whole = {"crop_area": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    random = np.random.default_rng(0)
    mirrored = [np.array_equal(Augmentation(**whole)(photo, 48, random), photo[:, ::-1]) for _ in range(200)]
    assert 70 < sum(mirrored) < 130
    others = tuple(name for name in OPERATIONS if name != "invert")
    inverts = Augmentation(**whole, flip=False, operations=1, probability=0.5, excluded=others)
    assert inverts.choices == ("invert",)
    inverted = [np.array_equal(inverts(photo, 48, random), 255 - photo) for _ in range(200)]
    assert 70 < sum(inverted) < 130


def test_grey_files_of_16_bits_keep_their_greys(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 48).astype("uint16"), (48, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    whole = Augmentation(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    picture = whole(tmp_path / "ramp.png", 48, np.random.default_rng(0))
    np.testing.assert_array_equal(picture, np.repeat(ramp[..., None] // 256, 3, -1))


def test_files_and_their_bytes_are_pictures_too(photo, tmp_path):
    whole = Augmentation(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "png")
    (tmp_path / "photo.png").write_bytes(file.getvalue())
    for picture in (photo, tmp_path / "photo.png", file.getvalue()):
        np.testing.assert_array_equal(whole(picture, 48, np.random.default_rng(0)), photo)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_area": (0.0, 1.0)}, "`crop_area`"),
        ({"crop_ratio": (2.0, 1.0)}, "`crop_ratio`"),
        ({"magnitude": -1}, "`magnitude`"),
        ({"probability": 1.5}, "`probability`"),
        ({"mixup": 0.0}, "`mixup`"),
        ({"excluded": ("cutout",)}, "Received: cutout"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)
