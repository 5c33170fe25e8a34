"""Every constructor behaves as users of `keras.applications` expect."""

import inspect
import pickle

import family
import keras
import numpy as np
import pytest

from keras_mnv4 import applications
from keras_mnv4.applications import efficientnet_lite
from keras_mnv4.applications import mobilenet_v4
from keras_mnv4.applications import resnet

# `no_cover` is pytest-cov's: what these run many times is covered elsewhere, and measuring takes a third more time.
pytestmark = [pytest.mark.once, pytest.mark.no_cover]


# The same code as their siblings, with longer tables: these tests run with `make test-slow`.
LONG = (
    "MobileNetV4ConvMedium",
    "MobileNetV4ConvAAMedium",
    "MobileNetV4ConvBlurMedium",
    "MobileNetV4ConvLarge",
    "MobileNetV4HybridLarge",
    "MobileNetV4ConvAALarge",
    "MobileNetV4ConvMediumSeg",
    "EfficientNetLite1",
    "EfficientNetLite2",
    *(name for name in resnet.ARCHITECTURES if name != "ResNet18"),
)


NAMES = [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in family.CONSTRUCTORS]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def build(name):
    return getattr(applications, name)


# Without a tag for published weights.
UNTRAINED = ("MobileNetV4ConvAAMedium", "MobileNetV4ConvMediumSeg", *resnet.ARCHITECTURES)
CHANNELS_FIRST = ("MobileNetV4ConvSmall", "MobileNetV4HybridMedium", "MobileNetV4ConvBlurMedium", "EfficientNetLite0")


@pytest.fixture(params=["channels_last", "channels_first"])
def data_format(request, name):
    """Each with the global setting; channels_first for one network of each kind."""
    if request.param == "channels_first" and name not in CHANNELS_FIRST:
        pytest.skip("one network of each kind is enough")
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(request.param)
    yield request.param
    keras.config.set_image_data_format(before)


def shape(data_format, *sides_and_channels):
    *sides, channels = sides_and_channels
    return (channels, *sides) if data_format == "channels_first" else (*sides, channels)


@pytest.mark.parametrize("name", family.CONSTRUCTORS)
def test_signature_is_that_of_keras_applications(name):
    build = getattr(applications, name)
    parameters = inspect.signature(build).parameters
    expected = {
        "include_top": True,
        "weights": None if name in UNTRAINED else "imagenet",
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": 1000,
        "classifier_activation": "softmax",
    }
    assert {key: parameters[key].default for key in list(parameters)[:7]} == expected
    assert list(parameters)[7] == "name"
    assert parameters["include_preprocessing"].default is True
    assert build.__name__ == name
    assert pickle.loads(pickle.dumps(build)) is build
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'width'"):
        build(width=2)
    assert "Example" in build.__doc__


def test_without_top(name, build, data_format):
    channels, _ = family.CONSTRUCTORS[name]
    for inputs in (1, 4):
        model = build(weights=None, include_top=False, input_shape=shape(data_format, None, None, inputs))
        assert model.output_shape == (None, *shape(data_format, None, None, channels))
    odd = build(weights=None, include_top=False, input_shape=shape(data_format, 123, 123, 3))
    side = 4 if "AA" not in name else 3  # average pooling leaves out an odd last row
    assert odd.output_shape == (None, *shape(data_format, side, side, channels))
    assert build(weights=None, include_top=False, pooling="max").output_shape == (None, channels)
    assert build(weights=None, include_top=False, pooling="avg").output_shape == (None, channels)


def test_input_tensor(name, build, data_format):
    inputs = keras.Input(shape(data_format, 200, 200, 4))
    tensor = keras.layers.Conv2D(3, 2, 2)(inputs)
    model = build(weights=None, include_top=False, input_tensor=tensor)
    assert model.input_shape == (None, *shape(data_format, 200, 200, 4))
    assert model.inputs[0] is inputs
    assert model.output_shape[1 if data_format == "channels_first" else -1] == family.CONSTRUCTORS[name][0]
    with pytest.raises(ValueError, match="leave `input_shape` out"):
        build(weights=None, include_top=False, input_tensor=tensor, input_shape=shape(data_format, 64, 64, 3))


def test_classifier(name, build):
    _, size = family.CONSTRUCTORS[name]
    model = build(weights=None)
    assert model.input_shape == (None, size, size, 3)
    assert model.output_shape == (None, 1000)
    assert type(model).__name__ == "Functional"
    assert model.name == inspect.signature(build).parameters["name"].default
    assert model.layers[-1].name == "predictions"
    assert model.layers[-1].activation.__name__ == "softmax"
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert [weight.path for weight in again.weights] == [weight.path for weight in model.weights]
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in model.weights]


def test_any_size_even_if_unknown_or_not_square(build):
    model = build(weights=None, input_shape=(None, None, 3), classes=5, classifier_activation=None, name="mine")
    assert model.name == "mine"
    assert model(np.zeros((1, 64, 96, 3), "float32")).shape == (1, 5)
    assert model(np.zeros((2, 77, 61, 3), "float32")).shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "no/such/file"}, "`weights`"),
        ({"weights": "imagenet", "alpha": 1.25}, "there is none"),
        ({"input_shape": (16, 224, 3)}, "at least 32"),
        ({"input_shape": (224, 224)}, "three dimensions"),
        ({"input_shape": (224, 224, None)}, "number of channels"),
        ({"input_shape": (224, 224, 0)}, "number of channels, 1 or more"),
        ({"input_shape": ("224", "224", "3")}, "`input_shape` must be of whole numbers"),
        ({"pooling": "median"}, "`pooling`"),
        ({"input_tensor": np.zeros((1, 64, 64, 3))}, "`input_tensor`"),
        ({"padding": "valid"}, "`padding`"),
        ({"definition": "torch"}, "`definition`"),
        ({"definition": ""}, "`definition`"),
        ({"activation": ""}, "activation function"),
        ({"dropout_rate": 1}, "`dropout_rate` must be at least 0 and below 1. Received: dropout_rate=1"),
        ({"drop_path_rate": 1.5}, "`drop_path_rate` must be at least 0 and below 1"),
        ({"drop_path_rate": "0.1"}, "`drop_path_rate` must be at least 0 and below 1"),
        ({"weights": [1]}, "`weights`"),
        ({"alpha": 0}, "`alpha`"),
        ({"alpha": None}, "`alpha`"),
        ({"classes": 0}, "`classes`"),
        ({"classes": None}, "`classes`"),
        ({"input_shape": 224}, "three dimensions"),
        ({"input_tensor": keras.Input((16,))}, "`input_tensor` must have three dimensions"),
        ({"input_tensor": keras.Input((16, 16, 3))}, "`input_tensor` .* at least 32 pixels. Received: input_tensor"),
    ],
)
def test_wrong_arguments_are_named(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"weights": None, **arguments})


@pytest.mark.parametrize("module", [mobilenet_v4, efficientnet_lite, resnet])
def test_modules_have_the_two_functions(module):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    assert module.preprocess_input(pictures) is pictures
    ((best,),) = module.decode_predictions(np.eye(1000)[[281]], top=1)
    assert best == ("n02123045", "tabby", 1.0)
