import contextlib

import keras
import numpy as np
import pytest
from conftest import randomize_statistics
from keras import layers

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.export.zero_factors import without_zero_factors
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers import ResidualUnit

pytestmark = pytest.mark.tensorflow


def scaled(inputs):
    convolution = ConvNormAct(8, 3, use_norm=False, use_bias=True, layer_scale=0.5)
    outputs = convolution(inputs)
    convolution.bias.assign(np.linspace(-1, 1, 8))
    convolution.scale.gamma.assign([0, 0.5, 0, 1, 1, 1, 1, 0.25])
    return outputs


def stock(inputs):
    outputs = layers.BatchNormalization()(layers.Conv2D(8, 3, bias_initializer="ones")(inputs))
    return layers.BatchNormalization()(layers.DepthwiseConv2D(3, use_bias=False)(layers.ReLU()(outputs)))


TAILS = {
    "convolution": lambda inputs: ConvNormAct(8, 3, activation="relu")(inputs),
    "depthwise": lambda inputs: ConvNormAct(kernel_size=3, depthwise=True, use_bias=True, layer_scale=0.5)(inputs),
    "layer scale": scaled,
    "stock layers": stock,
    "no convolution": lambda inputs: layers.BatchNormalization()(layers.MaxPooling2D()(inputs)),
}


def network(tail):
    """A network in which every normalisation multiplies its second channel by zero, and its third by next to that."""
    pictures = keras.Input((32, 32, 3))
    outputs = tail(ConvNormAct(8, 3, 2, activation="relu6")(layers.Rescaling(1 / 127.5, -1)(pictures)))
    model = keras.Model(pictures, layers.Dense(5)(layers.GlobalAveragePooling2D()(outputs)))
    randomize_statistics(model)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            gamma = layer.gamma.numpy().copy()
            gamma[1:3] = 0.0, 1e-36
            layer.gamma.assign(gamma)
    return model


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore:Policy `pikelpn` rounds the scales")
@pytest.mark.parametrize("policy", ["w8a8", "w4a8", "pikelpn"])
@pytest.mark.parametrize("tail", TAILS)
def test_channels_that_are_multiplied_by_zero_are_exported(tail, policy, real_photos, tmp_path):
    photos = real_photos(8, 32).astype("float32")
    model = qat.quantize_model(network(TAILS[tail]), policy, calibration_data=photos)
    expected, weights = model.predict(photos, verbose=0), model.get_weights()
    for target in ("cpu", "edgetpu"):
        report = export.to_litert(model, tmp_path / f"{target}.tflite", target, samples=photos)
        assert min(part.within_one_step for part in report.parts) == 1.0
        assert report.agreement.within_two_steps == 1.0
    np.testing.assert_array_equal(model.predict(photos, verbose=0), expected)
    ranges = [index for index, weight in enumerate(model.weights) if weight.name.startswith("range")]
    for index in set(range(len(weights))) - set(ranges):  # those of ranges may be wider
        np.testing.assert_array_equal(model.get_weights()[index], weights[index])


def test_a_new_residual_unit_is_exported(real_photos, tmp_path):
    photos = real_photos(8, 32).astype("float32")
    pictures = keras.Input((32, 32, 3))
    outputs = ResidualUnit(16, strides=2)(layers.Rescaling(1 / 127.5, -1)(pictures))
    model = keras.Model(pictures, layers.GlobalAveragePooling2D()(outputs))
    quantized = qat.quantize_model(model, calibration_data=photos)
    report = export.to_litert(quantized, tmp_path / "unit.tflite", "cpu", samples=photos)
    assert report.agreement.within_one_step == 1.0


@pytest.mark.filterwarnings("ignore:Policy `pikelpn` rounds the scales")
@pytest.mark.parametrize("policy", ["w8a8", "pikelpn"])
@pytest.mark.parametrize("tail", TAILS)
def test_outputs_stay_while_no_factor_is_zero(tail, policy, real_photos):
    photos = real_photos(8, 32).astype("float32")
    model = qat.quantize_model(network(TAILS[tail]), policy, calibration_data=photos)
    expected, weights = np.asarray(model(photos)), model.get_weights()
    with without_zero_factors(model):
        np.testing.assert_allclose(np.asarray(model(photos)), expected, atol=1e-6)
        folded = [layer for layer in model._flatten_layers() if getattr(layer, "kernel_quantizer", None)]
        norms = [layer.norm for layer in folded if getattr(layer, "norm", None) is not None]
        assert all(np.abs(norm.gamma.numpy()).min() > 1e-3 for norm in norms)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


def test_weights_come_back_when_an_export_is_interrupted():
    model = qat.quantize_model(network(TAILS["convolution"]))
    weights = model.get_weights()
    with contextlib.suppress(KeyboardInterrupt), without_zero_factors(model):
        raise KeyboardInterrupt
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)
