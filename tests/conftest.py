"""Shared pieces of the suite: real photos, models with random statistics, skips by backend."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
from PIL import Image

from keras_mnv4.applications import MQA
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Basic
from keras_mnv4.applications import Bottleneck
from keras_mnv4.applications import Conv
from keras_mnv4.applications import FusedIB
from keras_mnv4.applications import MaxPool
from keras_mnv4.applications import build_network
from keras_mnv4.data import PictureData
from keras_mnv4.data import PictureSet
from keras_mnv4.layers import Classifier
from keras_mnv4.layers import LayerScale

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


TINY = Architecture(
    "tiny",
    (
        Conv(8, kernel=3, stride=2),
        FusedIB(8, kernel=3, expand=2),
        UIB(16, expand=2, start=3, middle=3, stride=2),
        UIB(16, expand=2, start=3),
        Conv(24, kernel=1),
    ),
)


SMALL = Architecture(
    "small",
    (Conv(8, kernel=3, stride=2), UIB(8, expand=2, start=3, middle=3), UIB(16, expand=2, middle=3, stride=2)),
    default_size=32,
    head_filters=64,
)


def tiny_network(**arguments):
    """A network with one block of each kind, of three classes and 32 pixels, that compiles in seconds."""
    return build_network(TINY, **{"classes": 3, "input_shape": (32, 32, 3), **arguments})


def tiny_hybrid(**arguments):
    """The first blocks of the tiny network, then attention with keys of every fourth pixel, and of every one."""
    blocks = (*TINY.blocks[:3], MQA(16, heads=2, key_dim=8, kv_stride=2), MQA(16, heads=2, key_dim=8))
    architecture = Architecture("tiny_hybrid", blocks, layer_scale=TINY.layer_scale)
    return build_network(architecture, **{"classes": 3, "input_shape": (32, 32, 3), **arguments})


TINY_RESNET = Architecture(
    "tiny_resnet",
    (Conv(8, kernel=7, stride=2), MaxPool(), Basic(8), Basic(16, stride=2), Bottleneck(32)),
    head_filters=None,
    has_fixed_stem=True,
    definition="timm",
)


def tiny_resnet(**arguments):
    """Residual units of both kinds, with and without a convolution on the shortcut, behind the stem of a ResNet."""
    return build_network(TINY_RESNET, **{"classes": 3, "input_shape": (32, 32, 3), **arguments})


def flat_layers(model, kind):
    """All layers of a kind in a model, those inside other layers included, in the order of their names' paths."""
    found = [layer for layer in model._flatten_layers() if isinstance(layer, kind)]
    return sorted(found, key=lambda layer: layer.path)


def randomize_statistics(model, seed=0):
    """Gives every normalisation random parameters and statistics, layer scales and the classifier random values."""
    random = np.random.default_rng(seed)
    for layer in flat_layers(model, (keras.layers.BatchNormalization, LayerScale, Classifier)):
        if isinstance(layer, LayerScale):
            layer.gamma.assign(random.uniform(0.3, 1.0, layer.gamma.shape))
        elif isinstance(layer, Classifier):
            layer.conv.bias.assign(random.normal(0, 0.3, layer.conv.bias.shape))
        else:
            channels = layer.gamma.shape
            layer.gamma.assign(random.uniform(0.7, 1.3, channels))
            layer.beta.assign(random.normal(0, 0.1, channels))
            layer.moving_mean.assign(random.normal(0, 0.1, channels))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, channels))
    return model


def fit_statistics(model, pictures):
    """Sets the moving statistics to those of `pictures`: the network then tells pictures apart, as a trained one."""
    norms = flat_layers(model, keras.layers.BatchNormalization)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(pictures, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def stopping_after(last):
    """A class in place of Keras's `BackupAndRestore`, which is stopped once an epoch, from `last` on, is backed up."""

    class Stopping(keras.callbacks.BackupAndRestore):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch >= last:
                raise KeyboardInterrupt

    return Stopping


def small_network():
    """A network of three convolutions, for two classes."""
    rows = (Conv(8, kernel=3, stride=2), Conv(16, kernel=3, stride=2), Conv(16, kernel=3, stride=2))
    return build_network(Architecture("small", rows, head_filters=None), classes=2, input_shape=(32, 32, 3))


def photo_data():
    """A `PictureData` of 48 crops of two photos, the same ones to train, to validate and to test on."""
    crops = list(photo_crops(48, 32))
    pictures, labels = np.stack([crop for crop, _ in crops]), [label for _, label in crops]
    sets = [PictureSet(pictures, labels, 32, batch_size=16, shuffle=shuffle) for shuffle in (True, False, False)]
    return PictureData(("china", "flower"), *sets)


def pooled_classifier(activation="softmax"):
    """The least classifier: a picture's mean colour, and a dense layer."""
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Dense(2, activation)(keras.layers.GlobalAveragePooling2D()(image)))
