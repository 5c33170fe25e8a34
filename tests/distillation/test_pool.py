"""D3 on a real pool: CIFAR-10's pictures without labels, for a network that knows three of their classes."""

import os
import pathlib

import keras
import numpy as np
import pytest
from conftest import tiny_network

from keras_mnv4 import distillation
from keras_mnv4 import training
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.data import PictureData
from keras_mnv4.data import PictureSet

FOLDER = os.environ.get("MNV4_CIFAR", "")  # with sub-folders `train` and `test`, and in these one for each class
KNOWN = ("airplane", "automobile", "horse")
SEEN_BY_TEACHER = 96  # in pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif(not FOLDER, reason="MNV4_CIFAR must be a folder of CIFAR-10's pictures, one sub-folder a class"),
]


def files_of(split, name, start, count):
    return sorted((pathlib.Path(FOLDER) / split / name).iterdir())[start : start + count]


def labelled(split, count, size, shuffle=False):
    files = [path for name in KNOWN for path in files_of(split, name, 0, count)]
    return PictureSet(files, np.repeat(range(len(KNOWN)), count), size, shuffle=shuffle)


@pytest.fixture(scope="module")
def teacher():
    """ImageNet's features, and a head that knows 100 pictures of each class."""
    shape = (SEEN_BY_TEACHER, SEEN_BY_TEACHER, 3)
    body = EfficientNetLite0(weights="imagenet", include_top=False, pooling="avg", input_shape=shape)
    head = keras.Sequential([keras.Input(body.output_shape[1:]), keras.layers.Dense(len(KNOWN), "softmax")])
    head.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    pictures, labels = labelled("train", 100, SEEN_BY_TEACHER).arrays()
    head.fit(body.predict(pictures, verbose=0), labels, epochs=30, verbose=0)
    return keras.Model(body.input, head(body.output))


@pytest.fixture(scope="module")
def pool():
    """Other pictures, 200 of each of the ten classes."""
    classes = sorted(path.name for path in (pathlib.Path(FOLDER) / "train").iterdir())
    assert len(classes) == 10
    return [path for name in classes for path in files_of("train", name, 100, 200)]


def test_what_is_relevant_is_of_the_class(teacher, pool):
    shown = PictureSet(pool, np.zeros(len(pool)), SEEN_BY_TEACHER)
    chosen = distillation.select_relevant(teacher.predict(shown, verbose=0), per_class=120, threshold=0.9)
    assert len(chosen) == 3 * 120
    shares = [
        np.mean([pool[index].parent.name == name for index in indices])
        for name, indices in zip(KNOWN, np.split(chosen, 3), strict=True)
    ]
    print("share of its class among the relevant pictures of each, 0.1 of the pool:", shares)
    assert min(shares) > 0.4


def test_a_student_learns_from_the_pool(teacher, pool):
    data = PictureData(KNOWN, labelled("train", 100, 32, shuffle=True), *(labelled("test", 100, 32) for _ in range(2)))
    student = tiny_network()
    before = training.top1(student, data.test)
    history = training.distill(student, teacher, data, epochs=20, ratio=(1, 1, 2), pool=pool, verbose=0)
    losses = history.history["loss"]
    print(f"top-1 {training.top1(teacher_at_32(teacher), data.test):.1%} of the teacher", end=", ")
    print(f"{before:.1%} of the student, {training.top1(student, data.test):.1%} when taught")
    assert losses[-1] < losses[0]
    assert training.top1(student, data.test) > max(before, 0.5)


def teacher_at_32(teacher):
    image = keras.Input((32, 32, 3))
    return keras.Model(image, teacher(keras.layers.Resizing(SEEN_BY_TEACHER, SEEN_BY_TEACHER)(image)))
