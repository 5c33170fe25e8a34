import keras
import numpy as np
import pytest
from conftest import fit_statistics
from conftest import randomize_statistics
from conftest import tiny_network
from keras import layers
from keras import ops

from keras_mnv4 import qat
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.qat import rounding
from keras_mnv4.qat.grid import Grid

RANDOM = np.random.default_rng(0)


def test_the_second_weight_makes_up_for_the_first():
    """By hand: of equal inputs only the sum of the weights counts. 0.4 + 0.4 is nearest to 1, not to 0 + 0."""
    grid = Grid.over(-7, 7, 4, narrow_range=True)  # whole numbers
    rounded = rounding.round_together(np.array([[0.4], [0.4]]), np.ones((2, 2)), grid)
    np.testing.assert_array_equal(rounded, [[0.0], [1.0]])
    independent = rounding.round_together(np.array([[0.4], [0.4]]), np.eye(2), grid)
    np.testing.assert_array_equal(independent, [[0.0], [0.0]])


def test_codes_end_where_the_range_does():
    grid = Grid.over(-7, 7, 4, narrow_range=True)
    rounded = rounding.round_together(np.array([[9.0], [-8.0]]), np.ones((2, 2)), grid)
    np.testing.assert_array_equal(rounded, [[7.0], [-6.0]])


@pytest.mark.parametrize(
    ("depthwise", "size", "strides", "padding"),
    [(False, 1, 1, "same"), (False, 3, 2, "same"), (True, 3, 1, "same"), (True, 5, 2, "symmetric")],
)
def test_less_error_than_rounding_to_the_nearest(depthwise, size, strides, padding):
    layer = ConvNormAct(
        None if depthwise else 6,
        size,
        strides,
        depthwise=depthwise,
        padding=padding,
        use_norm=False,
        quantization=qat.LayerQuantization(qat.LastValueQuantizer(3, per_axis=True, symmetric=True, narrow_range=True)),
    )
    smooth = np.cumsum(np.cumsum(RANDOM.normal(size=(4, 9, 8, 5)), 1), 2).astype("float32")  # pixels are correlated
    smooth += smooth[..., ::-1]  # and channels
    layer(smooth)
    layer.update_weight_ranges()
    expected = np.array(layer._convolve(smooth, layer.float_kernel()))
    nearest = np.array(layer(smooth))
    layer.kernel.assign(rounding.round_kernel(layer, smooth))
    on_grid = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.quantized_kernel()), on_grid, atol=1e-6)
    errors = [np.mean((np.array(outputs) - expected) ** 2) for outputs in (layer(smooth), nearest)]
    assert errors[0] < 0.85 * errors[1]


def _wrapped(layer):
    kernel = qat.LastValueQuantizer(3, per_axis=True, symmetric=True, narrow_range=True)
    return qat.QuantizeWrapper(layer, quantization=qat.LayerQuantization(kernel))


STOCK = {
    "conv": lambda how: layers.Conv2D(6, (3, 2), strides=(2, 1), padding="same", **how),
    "valid conv": lambda how: layers.Conv2D(6, 3, **how),
    "dilated conv": lambda how: layers.Conv2D(6, 3, dilation_rate=2, padding="same", **how),
    "depthwise conv": lambda how: layers.DepthwiseConv2D(3, strides=2, padding="same", **how),
    "doubling depthwise conv": lambda how: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", **how),
    "dense": lambda how: layers.Dense(24, bias_initializer="ones"),
}


@pytest.mark.parametrize("name", STOCK)
def test_kernels_of_stock_layers_are_rounded_for_less_error(name):
    keras.utils.set_random_seed(0)
    layer = _wrapped(STOCK[name]({"bias_initializer": "ones", "data_format": "channels_last"}))
    smooth = np.cumsum(np.cumsum(np.random.default_rng(0).normal(size=(4, 9, 8, 12)), 1), 2).astype("float32")
    smooth += smooth[..., ::-1]
    layer(smooth)
    layer.update_weight_ranges()
    expected, nearest = np.array(layer.layer(smooth)), np.array(layer(smooth))
    layer.layer.kernel.assign(rounding.round_kernel(layer, smooth).reshape(layer.layer.kernel.shape))
    np.testing.assert_allclose(np.array(layer.layer(smooth)), np.array(layer(smooth)), rtol=1e-4, atol=1e-3)  # on grid
    errors = [np.mean((np.array(outputs) - expected) ** 2) for outputs in (layer(smooth), nearest)]
    assert errors[0] < 0.85 * errors[1]


@pytest.mark.once
def test_a_stock_network_of_four_bits_comes_nearer_to_its_float_self(real_photos):
    pictures = real_photos(24, 32).astype("float32")
    stack = [
        layers.Rescaling(1 / 127.5, -1.0),
        layers.Conv2D(8, 3, 2, padding="same", activation="relu"),
        layers.SeparableConv2D(16, 3, padding="same", activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5),
    ]
    model = keras.Sequential([keras.Input((32, 32, 3)), *stack])
    expected, errors = model.predict(pictures, verbose=0), []
    for improve in (qat.correct_biases, qat.optimize_rounding):
        quantized = qat.quantize_model(model, "w4a8", pictures)
        improve(quantized, pictures)
        errors.append(np.mean((quantized.predict(pictures, verbose=0) - expected) ** 2))
    assert errors[1] < 0.9 * errors[0]


def test_inputs_of_half_precision_do_not_overflow():
    """The sum of 2,000 squares of 10 is above 65,504, the largest number of 16 bits."""
    layer = ConvNormAct(
        6,
        1,
        use_norm=False,
        quantization=qat.LayerQuantization(qat.LastValueQuantizer(4, per_axis=True, symmetric=True, narrow_range=True)),
    )
    inputs = RANDOM.normal(10.0, 1.0, (5, 20, 20, 8)).astype("float16")
    layer(inputs.astype("float32"))
    layer.update_weight_ranges()
    rounded = [rounding.round_kernel(layer, inputs.astype(dtype)) for dtype in ("float16", "float32")]
    np.testing.assert_array_equal(*rounded)


@pytest.mark.once
def test_a_network_of_four_bits_comes_nearer_to_its_float_self(real_photos):
    pictures = real_photos(24, 32).astype("float32")
    model = fit_statistics(randomize_statistics(tiny_network(classifier_activation=None)), pictures)
    expected = model.predict(pictures, verbose=0)
    errors = []
    for improve in (qat.correct_biases, qat.optimize_rounding):
        quantized = qat.quantize_model(model, "w4a8")
        qat.calibrate(quantized, pictures)
        improve(quantized, pictures)
        errors.append(np.mean((quantized.predict(pictures, verbose=0) - expected) ** 2))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.once
def test_kernels_without_equal_steps_are_not_rounded_to_equal_steps(real_photos):
    pictures = real_photos(16, 32).astype("float32")
    model = fit_statistics(randomize_statistics(tiny_network(classifier_activation=None)), pictures)
    expected = model.predict(pictures, verbose=0)
    errors, kernels = [], []
    for improve in (qat.correct_biases, qat.optimize_rounding):
        quantized = qat.quantize_model(model, "pikelpn")
        qat.calibrate(quantized, pictures)
        improve(quantized, pictures)
        errors.append(np.mean((quantized.predict(pictures, verbose=0) - expected) ** 2))
        kernels.append(ops.convert_to_numpy(quantized.get_layer("block_1").chain[0].kernel))
    np.testing.assert_array_equal(*kernels)  # of powers of two
    assert errors[1] < 1.1 * errors[0]


def test_kernels_stay_where_memory_runs_out(real_photos, monkeypatch):
    photos = real_photos(8, 32).astype("float32")
    model = qat.quantize_model(randomize_statistics(tiny_network()), "w4a8", calibration_data=photos)
    before, calls = model.get_weights(), []

    def round_three(layer, inputs, round_kernel=rounding.round_kernel):
        calls.append(layer)
        if len(calls) == 4:
            raise MemoryError
        return round_kernel(layer, inputs)

    monkeypatch.setattr(rounding, "round_kernel", round_three)
    with pytest.raises(MemoryError):
        qat.optimize_rounding(model, photos)
    for ours, weight in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, weight)
