import keras
import numpy as np
import pytest
from keras import ops
from numpy.lib.stride_tricks import sliding_window_view

from keras_mnv4.layers import ConvNormAct
from keras_mnv4.qat import FixedQuantizer
from keras_mnv4.qat import LastValueQuantizer
from keras_mnv4.qat import LayerQuantization


def convolve(pictures, kernel, strides, margins, depthwise):
    """The convolution, written out in NumPy."""
    padded = np.pad(pictures, ((0, 0), margins, margins, (0, 0)))
    size = kernel.shape[0]
    windows = sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::strides, ::strides]  # (n, y, x, c, kh, kw)
    if depthwise:
        return np.einsum("nyxchw,hwc->nyxc", windows, kernel[..., 0])
    return np.einsum("nyxchw,hwcf->nyxf", windows, kernel)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("padding", "size", "strides", "kernel_size", "margins"),
    [
        ("same", 8, 1, 3, (1, 1)),
        ("same", 8, 2, 3, (0, 1)),
        ("same", 8, 2, 5, (1, 2)),
        ("same", 7, 2, 3, (1, 1)),
        ("symmetric", 8, 1, 5, (2, 2)),
        ("symmetric", 8, 2, 3, (1, 1)),
        ("symmetric", 8, 2, 5, (2, 2)),
        ("symmetric", 7, 2, 5, (2, 2)),
    ],
)
def test_is_convolution_norm_activation(depthwise, padding, size, strides, kernel_size, margins):
    random = np.random.default_rng(0)
    pictures = random.normal(size=(2, size, size, 4)).astype("float32")
    layer = ConvNormAct(
        None if depthwise else 6, kernel_size, strides, depthwise=depthwise, activation="relu", padding=padding
    )
    layer.build(pictures.shape)
    gamma, beta, mean, variance = random.uniform(0.5, 1.5, (4, layer.norm.gamma.shape[0]))
    for variable, value in zip(layer.norm.weights, (gamma, beta, mean, variance), strict=True):
        variable.assign(value)

    expected = convolve(pictures, layer.kernel.numpy(), strides, margins, depthwise)
    expected = np.maximum((expected - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0)
    outputs = ops.convert_to_numpy(layer(pictures))
    assert outputs.shape == layer.compute_output_shape(pictures.shape)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_channels_first_is_channels_last_transposed(depthwise, padding):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolutions on the CPU")
    arguments = {"kernel_size": 3, "strides": 2, "depthwise": depthwise, "use_bias": True, "padding": padding}
    filters = None if depthwise else 5
    last = ConvNormAct(filters, **arguments, data_format="channels_last")
    first = ConvNormAct(filters, **arguments, data_format="channels_first")
    pictures = np.random.default_rng(0).normal(size=(2, 8, 10, 4)).astype("float32")
    expected = ops.convert_to_numpy(last(pictures))
    first.build((2, 4, 8, 10))
    for target, source in zip(first.weights, last.weights, strict=True):
        target.assign(source)
    outputs = ops.convert_to_numpy(first(pictures.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(outputs.transpose(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_quantised_kernel_and_outputs_are_on_their_grids(depthwise):
    how = LayerQuantization(
        weights=LastValueQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True),
        outputs=FixedQuantizer(num_bits=3, init_min=0.0, init_max=7.0),
    )
    layer = ConvNormAct(
        None if depthwise else 3, 3, depthwise=depthwise, use_norm=False, activation="relu", quantization=how
    )
    pictures = np.zeros((1, 5, 5, 3), "float32")
    pictures[0, 2, 2, slice(None) if depthwise else 0] = 1.0  # a single bright pixel draws the kernel
    layer.build(pictures.shape)
    layer.update_weight_ranges()
    outputs = ops.convert_to_numpy(layer(100 * pictures))
    assert set(np.unique(outputs)) <= set(range(8))

    layer.output_quantizer = None
    layer.activation = keras.activations.linear
    drawn = ops.convert_to_numpy(layer(pictures))[0, 1:4, 1:4]
    kernel = layer.kernel.numpy()
    largest = np.abs(kernel[..., 0]).max((0, 1)) if depthwise else np.abs(kernel).max((0, 1, 2))
    codes = drawn / (largest / 7)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert 5 < np.abs(codes).max() < 7.001


def test_configuration_round_trip(tmp_path):
    how = LayerQuantization(LastValueQuantizer(per_axis=True, symmetric=True, narrow_range=True), FixedQuantizer())
    layer = ConvNormAct(
        8, 5, 2, activation="relu6", padding="symmetric", kernel_regularizer="l2", quantization=how, name="conv"
    )
    twin = ConvNormAct.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert twin.quantization == how

    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    pictures = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(loaded.predict(pictures, verbose=0), model.predict(pictures, verbose=0))


def test_mixed_precision_computes_in_half_and_keeps_float_variables():
    how = LayerQuantization(LastValueQuantizer(per_axis=True, symmetric=True, narrow_range=True), FixedQuantizer())
    layer = ConvNormAct(4, 3, dtype="mixed_bfloat16", quantization=how)
    outputs = layer(np.ones((1, 4, 4, 3), "float32"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert {variable.dtype for variable in layer.variables} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 3, "depthwise": True}, "`filters`"),
        ({"filters": None}, "`filters`"),
        ({"filters": 3, "kernel_size": 2}, "`kernel_size`"),
        ({"filters": 3, "padding": "valid"}, "`padding`"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNormAct(**arguments)


def test_layer_scale_and_kernel_factor_multiply():
    pictures = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype("float32")
    plain = ConvNormAct(5, use_norm=False)
    scaled = ConvNormAct(5, use_norm=False, layer_scale=0.5, kernel_factor=0.25)
    expected = ops.convert_to_numpy(plain(pictures)) / 8
    scaled.build(pictures.shape)
    scaled.kernel.assign(plain.kernel.numpy())
    np.testing.assert_allclose(ops.convert_to_numpy(scaled(pictures)), expected, atol=1e-6)


@pytest.mark.parametrize(("anti_aliasing", "rows"), [("average", 3), ("blur", 4)])
def test_anti_aliasing_filters_what_strides_of_one_give(anti_aliasing, rows):
    pictures = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype("float32")
    dense = ConvNormAct(5, 3, activation="relu")
    dense.build(pictures.shape)
    layer = ConvNormAct(5, 3, 2, activation="relu", anti_aliasing=anti_aliasing)
    layer.build(pictures.shape)
    layer.kernel.assign(dense.kernel.numpy())
    outputs = ops.convert_to_numpy(layer(pictures))
    assert outputs.shape == layer.compute_output_shape(pictures.shape) == (2, rows, 3, 5)
    before = ops.convert_to_numpy(dense(pictures))
    if anti_aliasing == "average":
        expected = before[:, :6].reshape(2, 3, 2, 3, 2, 5).mean((2, 4))
    else:
        taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
        expected = convolve(before, np.repeat(taps[:, :, None, None], 5, 2), 2, (1, 1), depthwise=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"anti_aliasing": "gauss"}, {"anti_aliasing": "blur", "strides": 4}])
def test_wrong_anti_aliasing_is_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        ConvNormAct(8, 3, **arguments)


@pytest.mark.parametrize("has_died", [True, False])
def test_only_dead_channels_get_a_wider_range(has_died):
    """Else their bias would take more than the 32 bits that integer files give it."""
    layer = ConvNormAct(
        4,
        3,
        quantization=LayerQuantization(weights=LastValueQuantizer(per_axis=True, symmetric=True, narrow_range=True)),
    )
    layer.build((1, 8, 8, 3))
    kernel = layer.kernel.numpy()
    if has_died:
        kernel[..., 2] = 1e-9
    layer.kernel.assign(kernel)
    layer.norm.beta.assign([0.5, -0.5, 2.0, 0.0])
    layer.update_weight_ranges()
    before = layer.kernel_quantizer._state["max_var"].numpy()
    layer.widen_weight_ranges()
    after = layer.kernel_quantizer._state["max_var"].numpy()
    np.testing.assert_array_equal(np.flatnonzero(before != after), [2] if has_died else [])
    if has_died:
        bias = 2 * np.sqrt(1 + 1e-3)  # with the normalisation's factor in the kernel
        assert after[2] == pytest.approx(bias / 2**12)
        steps_of_bias = bias / (after[2] / 127 * 1e-3)  # at an input scale of a thousandth
        assert steps_of_bias < 2**31


def test_a_range_that_channels_share_is_not_widened_by_a_dead_one():
    """It would round all other channels to zero."""
    layer = ConvNormAct(4, 3, quantization=LayerQuantization(weights=LastValueQuantizer(symmetric=True)))
    layer.build((1, 8, 8, 3))
    layer.norm.gamma.assign([1e-6, 1.0, 1.0, 1.0])
    layer.norm.beta.assign([1.0, 0.0, 0.0, 0.0])
    layer.update_weight_ranges()
    before = layer.kernel_quantizer.range
    layer.widen_weight_ranges()
    assert layer.kernel_quantizer.range == before


@pytest.mark.parametrize(
    "arguments", [{"kernel_size": (3, 3)}, {"kernel_size": 0}, {"strides": 0}, {"strides": (2, 2)}]
)
def test_sizes_and_strides_are_one_number(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ConvNormAct(8, **arguments)
