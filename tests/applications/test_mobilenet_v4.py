import pathlib

import keras
import numpy as np
import pytest
from conftest import convolutions
from golden import reference
from keras import ops

from keras_mnv4 import cost
from keras_mnv4.applications import BlockSpec
from keras_mnv4.applications import MobileNetV4
from keras_mnv4.applications import MobileNetV4ConvLarge
from keras_mnv4.applications import MobileNetV4ConvMedium
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import mobilenet_v4
from keras_mnv4.applications.block_spec import conv
from keras_mnv4.applications.block_spec import uib

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "timm_logits.npz"
# Parameters at 1000 classes, and multiply-accumulates at 224 pixels: timm 1.0.31.
FAMILY = {
    "conv_small": (MobileNetV4ConvSmall, 3_774_024, 186_005_568, 224),
    "conv_medium": (MobileNetV4ConvMedium, 9_715_512, 827_649_984, 256),
    "conv_large": (MobileNetV4ConvLarge, 32_590_864, 2_171_341_312, 384),
}


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


@pytest.fixture(params=FAMILY)
def variant(request):
    return request.param


@pytest.mark.once
def test_parameters_and_macs_are_timms(variant):
    build, parameters, macs, default_size = FAMILY[variant]
    model = build(weights=None, input_shape=(224, 224, 3))
    assert trainable(model) == parameters
    assert cost.count_macs(model) == macs
    assert build(weights=None).input_shape == (None, default_size, default_size, 3)


def test_logits_are_timms(variant):
    """With the same weights; at inference with random statistics, and in training, where pictures differ most."""
    model = FAMILY[variant][0](
        weights=None,
        input_shape=(reference.SIZE, reference.SIZE, 3),
        classifier_activation=None,
        padding="symmetric",
        include_preprocessing=False,
    )
    norms = 0
    for index, layer in enumerate(convolutions(model)):
        layer.kernel.assign(reference.kernel(index, *layer.kernel.shape))
        if layer.use_bias:
            layer.bias.assign(reference.bias(1000))
        if layer.norm is not None:
            layer.norm.epsilon = 1e-5  # timm's
            values = reference.norm(norms, layer.norm.gamma.shape[0])
            for variable, value in zip(layer.norm.weights, values, strict=True):
                variable.assign(value)
            norms += 1
    golden = np.load(GOLDEN)
    for mode in ("inference", "training"):
        logits = ops.convert_to_numpy(model(reference.pictures(), training=mode == "training"))
        np.testing.assert_allclose(logits[:, reference.KEPT_CLASSES], golden[f"{variant}_{mode}"], atol=1e-3)


@pytest.mark.once
def test_headless_shapes(variant):
    build = FAMILY[variant][0]
    assert build(weights=None, include_top=False).output_shape == (None, None, None, 960)
    assert build(weights=None, include_top=False, pooling="avg").output_shape == (None, 960)
    assert build(weights=None, include_top=False, pooling="max").output_shape == (None, 960)


@pytest.mark.once
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    model = MobileNetV4ConvSmall(weights=None, include_top=False, input_shape=(None, None, channels))
    assert model.output_shape == (None, None, None, 960)


def test_any_size_even_if_unknown_or_not_square():
    model = MobileNetV4ConvSmall(weights=None, input_shape=(None, None, 3), classes=5)
    assert model(np.zeros((1, 64, 96, 3), "float32")).shape == (1, 5)
    assert model(np.zeros((2, 123, 77, 3), "float32")).shape == (2, 5)


@pytest.mark.once
def test_builds_on_an_input_tensor():
    inputs = keras.Input((200, 200, 4))
    tensor = keras.layers.Conv2D(3, 2, 2)(inputs)
    model = MobileNetV4ConvSmall(weights=None, include_top=False, input_tensor=tensor)
    assert model.input_shape == (None, 200, 200, 4)
    assert model.output_shape == (None, 4, 4, 960)


def test_classifier_is_the_last_layer_and_carries_the_activation():
    model = MobileNetV4ConvSmall(weights=None, classes=7, input_shape=(32, 32, 3), name="mine")
    assert model.name == "mine"
    assert model.layers[-1].name == "predictions"
    assert model.layers[-1].activation.__name__ == "softmax"
    np.testing.assert_allclose(model.predict(np.ones((2, 32, 32, 3)), verbose=0).sum(-1), 1, atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize(("alpha", "parameters"), [(0.35, 1_905_384), (0.5, 2_238_952)])
def test_narrow_widths_are_timms(alpha, parameters):
    assert trainable(MobileNetV4ConvSmall(weights=None, alpha=alpha)) == parameters


@pytest.mark.once
def test_wide_models_grow_stem_and_head():
    model = MobileNetV4ConvSmall(weights=None, alpha=1.5, input_shape=(32, 32, 3))
    assert model.get_layer("stem").filters == 48
    assert model.get_layer("head").filters == 1920


def test_preprocessing_takes_bytes():
    bytes_in = MobileNetV4ConvSmall(weights=None, classes=3, input_shape=(32, 32, 3))
    scaled_in = MobileNetV4ConvSmall(weights=None, classes=3, input_shape=(32, 32, 3), include_preprocessing=False)
    scaled_in.set_weights(bytes_in.get_weights())
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    expected = scaled_in.predict(pictures / 128 - 1, verbose=0)
    np.testing.assert_allclose(bytes_in.predict(pictures, verbose=0), expected, atol=1e-5)
    assert mobilenet_v4.preprocess_input(pictures) is pictures


@pytest.mark.once
def test_drop_path_grows_linearly():
    model = MobileNetV4ConvMedium(weights=None, drop_path_rate=0.23, input_shape=(64, 64, 3))
    rates = [layer.drop_path_rate for layer in model.layers if hasattr(layer, "drop_path_rate")]
    np.testing.assert_allclose(rates, 0.01 * np.arange(22))  # of 23 blocks the last is a convolution


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_data_formats_build(data_format, monkeypatch):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        model = MobileNetV4ConvSmall(weights=None, include_top=False)
        axis = 1 if data_format == "channels_first" else -1
        assert model.output_shape[axis] == 960
        model = MobileNetV4ConvSmall(weights=None, classes=4)
        assert model.output_shape == (None, 4)
        assert trainable(model) == 3_774_024 - 996 * 1281
        if keras.backend.backend() != "tensorflow":  # which has no such convolutions on the CPU
            assert model(np.zeros((1, *model.input_shape[1:]), "float32")).shape == (1, 4)
    finally:
        keras.config.set_image_data_format(before)


def test_file_round_trip_and_weights_path(tmp_path):
    model = MobileNetV4ConvSmall(weights=None, classes=3, input_shape=(32, 32, 3))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    expected = model.predict(pictures, verbose=0)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras").predict(pictures, verbose=0), expected
    )
    model.save_weights(tmp_path / "model.weights.h5")
    again = MobileNetV4ConvSmall(weights=tmp_path / "model.weights.h5", classes=3, input_shape=(32, 32, 3))
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), expected)
    with pytest.raises(ValueError, match="classes=4"):
        MobileNetV4ConvSmall(weights=tmp_path / "model.weights.h5", classes=4, input_shape=(32, 32, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "imagenet"}, "`weights`"),
        ({"weights": "no/such/file"}, "`weights`"),
        ({"input_shape": (16, 224, 3)}, "at least 32"),
        ({"input_shape": (224, 224)}, "three dimensions"),
        ({"input_shape": (224, 224, None)}, "number of channels"),
        ({"pooling": "median"}, "`pooling`"),
        ({"input_tensor": np.zeros((1, 64, 64, 3))}, "`input_tensor`"),
        ({"padding": "valid"}, "`padding`"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MobileNetV4ConvSmall(**arguments)


def test_own_tables_build_and_survive_json():
    import json

    blocks = (conv(16, kernel=3, stride=2), uib(24, expand=2, start=3, middle=5, stride=2), uib(24, expand=4))
    again = tuple(BlockSpec(**spec) for spec in json.loads(json.dumps([block.to_dict() for block in blocks])))
    assert again == blocks
    assert MobileNetV4(again, classes=3, input_shape=(32, 32, 3)).output_shape == (None, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "dense", "filters": 8},
        {"kind": "conv", "filters": 8},
        {"kind": "conv", "filters": 8, "kernel": 2},
        {"kind": "conv", "filters": 8, "kernel": 3, "start": 3},
        {"kind": "fused_ib", "filters": 8, "kernel": 3},
        {"kind": "uib", "filters": 8, "expand": 2, "kernel": 3},
        {"kind": "uib", "filters": 8, "expand": 2, "stride": 2},
        {"kind": "uib", "filters": 0, "expand": 2},
    ],
)
def test_rows_that_describe_no_block_are_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        BlockSpec(**arguments)
