"""Shared pieces of the suite: real photos, models with random statistics, skips by backend."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
from PIL import Image

from keras_mnv4.applications import MobileNetV4
from keras_mnv4.applications.block_spec import conv
from keras_mnv4.applications.block_spec import fused_ib
from keras_mnv4.applications.block_spec import uib
from keras_mnv4.layers import ConvNormAct

PHOTOS_DIR = "MNV4_PHOTOS"  # a folder of photos to test with, instead of crops of those in scikit-learn


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("tensorflow") and keras.backend.backend() != "tensorflow":
            item.add_marker(pytest.mark.skip(reason="TFLite and ONNX files are made on the TensorFlow backend only"))


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def real_photos():
    """A function `(count, size)` -> uint8 photos `(count, size, size, 3)`."""

    def load(count, size):
        if PHOTOS_DIR in os.environ:
            from pathlib import Path

            from keras_mnv4.data import read_picture

            files = sorted(Path(os.environ[PHOTOS_DIR]).rglob("*.jpg"))
            chosen = np.linspace(0, len(files) - 1, count).astype(int)
            return np.stack([read_picture(files[index], size) for index in chosen])
        return np.stack([crop for crop, _ in photo_crops(count, size)])

    return load


def photo_crops(count, size, seed=0):
    """Yields `count` random crops of scikit-learn's two photos, in turn, each with the number of its photo."""
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    random = np.random.default_rng(seed)
    for index in range(count):
        photo = photos[index % 2]
        side = int(random.integers(120, min(photo.shape[:2])))
        top, left = (int(random.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + side, left : left + side]).resize((size, size))
        yield np.asarray(crop), index % 2


@pytest.fixture
def photo_folder(tmp_path):
    """A folder of real photos in two classes, `china` and `flower`, 12 of each."""
    for index, (crop, label) in enumerate(photo_crops(24, 64)):
        folder = tmp_path / "photos" / ("china", "flower")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop).save(folder / f"{index}.jpg")
    return tmp_path / "photos"


TINY_BLOCKS = (
    conv(8, kernel=3, stride=2),
    fused_ib(8, kernel=3, expand=2),
    uib(16, expand=2, start=3, middle=3, stride=2),
    uib(16, expand=2, start=3),
    conv(24, kernel=1),
)


def tiny_network(**arguments):
    """A network with one block of each kind, of three classes and 32 pixels, that compiles in seconds."""
    return MobileNetV4(TINY_BLOCKS, **{"classes": 3, "input_shape": (32, 32, 3), **arguments})


def convolutions(model):
    """All `ConvNormAct` layers of a model, in order of execution."""
    for layer in model.layers:
        if isinstance(layer, ConvNormAct):
            yield layer
        else:
            yield from getattr(layer, "chain", [layer.conv] if hasattr(layer, "conv") else [])


def randomize_statistics(model, seed=0):
    """Gives every batch normalisation random parameters and statistics, and the classifier a random bias."""
    random = np.random.default_rng(seed)
    for layer in convolutions(model):
        if layer.use_bias:
            layer.bias.assign(random.normal(0, 0.3, layer.bias.shape))
        if layer.norm is not None:
            channels = layer.norm.gamma.shape
            layer.norm.gamma.assign(random.uniform(0.7, 1.3, channels))
            layer.norm.beta.assign(random.normal(0, 0.1, channels))
            layer.norm.moving_mean.assign(random.normal(0, 0.1, channels))
            layer.norm.moving_variance.assign(random.uniform(0.5, 1.5, channels))
    return model


def fit_statistics(model, pictures):
    """Sets the moving statistics to those of `pictures`: the network then tells pictures apart, as a trained one."""
    norms = [layer.norm for layer in convolutions(model) if layer.norm is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(pictures, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model
