import os
import sys
import warnings

import numpy as np
import pytest
from conftest import photo_data
from PIL import Image

from keras_mnv4 import data


def write(path, colour=(10, 200, 30), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_is_split_class_by_class(photo_folder):
    loaded = data.load_image_folder(photo_folder, 32)
    assert loaded.class_names == ("china", "flower")
    assert not loaded.skipped
    for split, share in zip(data.SPLITS, (7, 1, 4), strict=True):  # 60 : 10 : 30 of 12
        assert np.bincount(getattr(loaded, split).labels).tolist() == [share, share]
    everything = np.concatenate([getattr(loaded, split).arrays()[0] for split in data.SPLITS])
    assert len(np.unique(everything.reshape(24, -1), axis=0)) == 24  # no picture is in two splits


def test_a_split_is_the_same_for_the_same_seed_only(photo_folder):
    first, again, other = (data.load_image_folder(photo_folder, 32, seed=seed).test.arrays()[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_given_splits_are_kept_and_validation_is_taken_from_training(tmp_path):
    write_splits(tmp_path, {"train": 10, "test": 2})
    loaded = data.load_image_folder(tmp_path, 32)
    assert [getattr(loaded, split).num_pictures for split in data.SPLITS] == [18, 2, 4]


def write_splits(folder, counts):
    for split, count in counts.items():
        for name in ("a", "b"):
            for index in range(count):
                write(folder / split / name / f"{index}.png", (index, 0, 0))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": 10, "test": 2, "valid": 3}, [20, 6, 4]),
        ({"train": 10, "val": 3}, [18, 2, 6]),  # ImageNet's: tested on what it calls validation
        ({"Training": 10, "Testing": 2}, [18, 2, 4]),
    ],
)
def test_splits_may_go_by_other_names(counts, expected, tmp_path):
    write_splits(tmp_path, counts)
    loaded = data.load_image_folder(tmp_path, 32)
    assert loaded.class_names == ("a", "b")
    assert [getattr(loaded, split).num_pictures for split in data.SPLITS] == expected


def test_two_folders_of_one_split_are_an_error(tmp_path):
    write_splits(tmp_path, {"train": 3, "test": 3, "val": 3, "Validation": 3})
    with pytest.raises(ValueError, match="two folders of one split"):
        data.load_image_folder(tmp_path, 32)


def test_hidden_copies_of_pictures_are_left_out(tmp_path):
    for name in ("a", "b", "__MACOSX", ".cache"):
        for hidden in ("", ".ipynb_checkpoints", "__MACOSX"):
            for index in range(4):
                write(tmp_path / name / hidden / f"{index}.png", (index, 0, 0))
    write(tmp_path / "a" / "deeper" / "4.TIF")
    write(tmp_path / "a" / "._0.png")
    loaded = data.load_image_folder(tmp_path, 32)
    assert loaded.class_names == ("a", "b")
    assert sum(getattr(loaded, split).num_pictures for split in data.SPLITS) == 9


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names are text")
def test_names_of_classes_are_text(tmp_path):
    for name in ("a", os.fsdecode(b"caf\xe9")):
        write(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match="not UTF-8: rename it"):
        data.load_image_folder(tmp_path, 32)


def test_the_folder_of_one_split_is_not_taken_for_a_class(tmp_path):
    write_splits(tmp_path, {"train": 3, "cats": 3})
    with pytest.raises(ValueError, match=r"\['train'\], but not both"):
        data.load_image_folder(tmp_path, 32)


def test_batches_are_float_bytes_and_an_epoch_holds_every_picture(photo_folder):
    training = data.load_image_folder(photo_folder, 32, batch_size=4).train
    assert len(training) == 4
    pictures, labels = training[0]
    assert (pictures.shape, pictures.dtype, labels.dtype) == ((4, 32, 32, 3), np.float32, np.int32)
    assert pictures.max() > 1
    order = []
    for _ in range(2):
        epoch = np.concatenate([training[index][0] for index in range(len(training))])
        order.append(epoch.sum((1, 2, 3)))
        training.on_epoch_end()
    assert np.any(order[0] != order[1])
    np.testing.assert_array_equal(np.sort(order[0]), np.sort(order[1]))


def test_folders_too_large_for_memory_are_read_again(photo_folder, monkeypatch):
    kept = data.load_image_folder(photo_folder, 32)
    monkeypatch.setattr(data, "CACHE_BYTES", 0)
    read = data.load_image_folder(photo_folder, 32)
    assert not isinstance(read.test.pictures, np.ndarray)
    np.testing.assert_array_equal(read.test.arrays()[0], kept.test.arrays()[0])
    np.testing.assert_array_equal(read.test.arrays()[1], kept.test.arrays()[1])


def test_damaged_files_are_left_out_and_listed(photo_folder):
    whole = next((photo_folder / "china").iterdir()).read_bytes()
    (photo_folder / "china" / "cut_off.jpg").write_bytes(whole[: len(whole) // 3])
    (photo_folder / "flower" / "text.jpg").write_text("not a picture")
    (photo_folder / "flower" / "notes.txt").write_text("not even called one")
    (photo_folder / "flower" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Image.new("F", (40, 40), 0.5).save(photo_folder / "flower" / "floats.tif")
    loaded = data.load_image_folder(photo_folder, 32)
    assert {path.name for path in loaded.skipped} == {"cut_off.jpg", "text.jpg", "phone.HEIC", "floats.tif"}
    assert sum(getattr(loaded, split).num_pictures for split in data.SPLITS) == 24


def test_pictures_too_large_to_be_decoded_are_left_out_and_listed(photo_folder, monkeypatch):
    Image.new("L", (400, 500)).save(photo_folder / "china" / "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90_000)  # an error from twice as many on
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        loaded = data.load_image_folder(photo_folder, 32)
    assert "scan.png" in {path.name for path in loaded.skipped}


def test_grey_pictures_of_16_bits_keep_their_greys(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype("uint16"), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    with Image.open(tmp_path / "ramp.png") as image:
        assert image.mode == "I;16"
    picture = data.read_picture(tmp_path / "ramp.png", 64)
    np.testing.assert_array_equal(picture, np.repeat(ramp[..., None] // 256, 3, -1))


def test_pictures_keep_their_shape_and_their_right_way_up(tmp_path):
    picture = Image.new("RGB", (60, 40))
    picture.paste((255, 0, 0), (10, 0, 30, 40))  # the middle 40 x 40: left half red
    picture.save(tmp_path / "plain.png")
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.jpg", exif=turned, quality=100, subsampling=0)
    plain = data.read_picture(tmp_path / "plain.png", 20)
    assert plain.shape == (20, 20, 3)
    assert plain[:, 2:8, 0].min() > 250
    assert plain[:, 12:].max() < 5
    assert data.read_picture(tmp_path / "turned.jpg", 20)[:, 12:, 0].min() > 200


def test_digits_are_scikit_learns():
    digits = data.load_digits(size=16)
    assert digits.class_names == tuple("0123456789")
    assert sum(getattr(digits, split).num_pictures for split in data.SPLITS) == 1797
    pictures, labels = digits.train.arrays()
    assert pictures.shape == (digits.train.num_pictures, 16, 16, 3)
    assert np.all(pictures[..., 0] == pictures[..., 2])
    assert set(labels) == set(range(10))
    assert digits.test.num_pictures == 539


def test_a_few_pictures_are_spread_over_the_set():
    labels = np.repeat([0, 1], 50)
    pictures = data.PictureSet(np.zeros((100, 8, 8, 3), "uint8"), labels, 8)
    assert np.bincount(pictures.arrays(limit=10)[1]).tolist() == [5, 5]
    assert len(pictures.arrays(limit=1000)[1]) == 100


FEW = np.zeros((4, 8, 8, 3), "uint8")


@pytest.mark.once
@pytest.mark.parametrize(
    ("pictures", "labels", "message"),
    [
        (FEW, [0, 1, 0], r"`labels` must be 4, one a picture. Received: shape \(3,\)"),
        (["a.png", "b.png"], 1, r"`labels` must be 2, one a picture. Received: shape \(\)"),
        (FEW, [0, 1, 0.5, 1], "`labels` must be whole numbers from 0 on, .* Received: 0.5"),
        (FEW, [[0], [1], [0.5], [1]], "`labels` must be whole numbers from 0 on, .* Received: 0.5"),
        (FEW, [0, 1, -1, 1], "`labels` must be whole numbers from 0 on, .* Received: -1"),
        (FEW, [0, 1, np.nan, 1], "`labels` must be whole numbers from 0 on, .* Received: nan"),
        (FEW, np.zeros((4, 2, 3)), r"`labels` must be the index .* Received: shape \(4, 2, 3\)"),
        (FEW[:, :4], [0, 1, 0, 1], r"`pictures` must be .* Received: an array of shape \(4, 4, 8, 3\)"),
        (FEW[..., 0], [0, 1, 0, 1], r"`pictures` must be .* Received: an array of shape \(4, 8, 8\)"),
        (FEW - 1.0, [0, 1, 0, 1], "`pictures` must be bytes, 0 to 255. Received: float64 from -1 to -1$"),
        (FEW + np.float32(0.5), [0, 1, 0, 1], "float32 from 0.5 to 0.5. Multiply them by 255 and use `astype"),
        (FEW + np.int16(256), [0, 1, 0, 1], "`pictures` must be bytes, 0 to 255. Received: int16 from 256 to 256$"),
        (FEW + np.nan, [0, 1, 0, 1], "`pictures` must be bytes, 0 to 255. Received: float64 from nan to nan$"),
        (list(FEW), [0, 1, 0, 1], "`pictures` must be .* Received: a list of ndarray; `np.stack`"),
    ],
)
def test_pictures_and_labels_that_are_no_set_are_refused(pictures, labels, message):
    with pytest.raises(ValueError, match=message):
        data.PictureSet(pictures, labels, 8)


def test_labels_may_be_whole_floats_or_probabilities():
    assert data.PictureSet(FEW, np.array([0.0, 1.0, 2.0, 1.0]), 8).labels.tolist() == [0, 1, 2, 1]
    assert data.PictureSet(FEW, np.full((4, 3), 1 / 3), 8)[0][1].shape == (4, 3)


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["int32", "float16", "float64"])
def test_bytes_of_other_types_are_rounded(dtype):
    pictures = np.broadcast_to(np.array([0, 254.6, 255]), FEW.shape).astype(dtype)
    made = data.PictureSet(pictures, [0, 1, 0, 1], 8)
    shown, _ = made.arrays()
    assert shown.dtype == np.uint8
    assert shown[0, 0, 0].tolist() == [0, 254 if dtype == "int32" else 255, 255]
    np.testing.assert_array_equal(made[0][0], shown.astype("float32"))


@pytest.mark.once
def test_black_pictures_are_bytes():
    assert data.PictureSet(FEW.astype("float32"), [0, 1, 0, 1], 8).arrays()[0].max() == 0


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "object"])
def test_a_column_of_labels_is_class_indices(dtype):
    """As `keras.datasets.cifar10.load_data` gives them."""
    labels = data.PictureSet(FEW, np.array([[0], [1], [2], [1]], dtype), 8).labels
    assert (labels.tolist(), labels.dtype) == ([0, 1, 2, 1], np.int32)


def test_folders_that_hold_no_two_classes_are_errors(tmp_path):
    with pytest.raises(ValueError, match="must be a folder"):
        data.load_image_folder(tmp_path / "missing", 32)
    with pytest.raises(ValueError, match=r"Found: \[\]"):
        data.load_image_folder(tmp_path, 32)
    for index in range(4):
        write(tmp_path / "only" / f"{index}.png")
    with pytest.raises(ValueError, match=r"Found: \['only'\]"):
        data.load_image_folder(tmp_path, 32)


def test_a_folder_of_other_things_is_no_class(tmp_path):
    for name in "ab":
        write(tmp_path / name / "0.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"'notes' of .* holds no picture"):
        data.load_image_folder(tmp_path, 32)


def test_classes_that_cannot_be_split_are_errors(tmp_path):
    for index in range(4):
        write(tmp_path / "many" / f"{index}.png")
    write(tmp_path / "few" / "0.png")
    with pytest.raises(ValueError, match="'few' has 1 pictures"):
        data.load_image_folder(tmp_path, 32)
    for path in (tmp_path / "few").iterdir():
        path.write_text("damaged")
    with pytest.raises(ValueError, match="No readable picture of class 'few'"):
        data.load_image_folder(tmp_path, 32)


def test_splits_of_other_classes_are_an_error(tmp_path):
    for split, names in (("train", "ab"), ("test", "ac")):
        for name in names:
            write(tmp_path / split / name / "0.png")
    with pytest.raises(ValueError, match=r"`test` differs in \['b', 'c'\]"):
        data.load_image_folder(tmp_path, 32)


def test_orders_of_a_seed():
    train = photo_data().train
    train.reseed(5)
    first = train[0][1].tolist()
    train.on_epoch_end()
    assert train[0][1].tolist() != first
    train.reseed(5)
    assert train[0][1].tolist() == first
