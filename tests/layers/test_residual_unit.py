import keras
import numpy as np
import pytest
from keras import ops
from numpy.lib.stride_tricks import sliding_window_view

from keras_mnv4.layers import MaxPool
from keras_mnv4.layers import ResidualUnit


def features(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("channels", "strides", "reduction", "kernels"),
    [
        (16, 1, None, {"conv_1": (3, 16, 16), "conv_2": (3, 16, 16)}),
        (8, 1, None, {"conv_1": (3, 8, 16), "conv_2": (3, 16, 16), "shortcut": (1, 8, 16)}),
        (16, 2, None, {"conv_1": (3, 16, 16), "conv_2": (3, 16, 16), "shortcut": (1, 16, 16)}),
        (64, 1, 4, {"conv_1": (1, 64, 16), "conv_2": (3, 16, 16), "conv_3": (1, 16, 64)}),
        (32, 2, 4, {"conv_1": (1, 32, 16), "conv_2": (3, 16, 16), "conv_3": (1, 16, 64), "shortcut": (1, 32, 64)}),
    ],
)
def test_units_are_those_of_the_paper(channels, strides, reduction, kernels):
    filters = 16 if reduction is None else 64
    unit = ResidualUnit(filters, strides, reduction=reduction)
    shape = (2, 7, 8, channels)
    smaller = (2, -(-7 // strides), 8 // strides, filters)
    assert unit(features(*shape)).shape == unit.compute_output_shape(shape) == smaller
    convolutions = [conv for conv in (*unit.chain, unit.shortcut) if conv is not None]
    assert {conv.name: (conv.kernel_size, *conv.kernel.shape[2:]) for conv in convolutions} == kernels
    strided = {conv.name for conv in convolutions if conv.strides == 2}
    assert strided == ({"conv_1" if reduction is None else "conv_2", "shortcut"} if strides == 2 else set())
    linear = {conv.name for conv in convolutions if conv.activation is keras.activations.linear}
    assert linear == {unit.chain[-1].name, "shortcut"} & kernels.keys()
    assert unit.quantizable_parts == (*kernels, "add")


def test_a_new_unit_is_its_shortcut():
    inputs = features(2, 6, 6, 8)
    unit = ResidualUnit(8)
    np.testing.assert_array_equal(ops.convert_to_numpy(unit(inputs)), np.maximum(inputs, 0))
    strided = ResidualUnit(32, 2, reduction=4)
    outputs = ops.convert_to_numpy(strided(inputs))
    np.testing.assert_array_equal(outputs, np.maximum(ops.convert_to_numpy(strided.shortcut(inputs)), 0))


def test_drop_path_leaves_out_the_branch_in_training_only():
    unit = ResidualUnit(8, 2, reduction=4, drop_path_rate=0.9, last_gamma_initializer="ones")
    inputs = features(64, 4, 4, 4)
    unit.build(inputs.shape)
    alone = np.maximum(ops.convert_to_numpy(unit.shortcut(inputs, training=True)), 0)
    trained = ops.convert_to_numpy(unit(inputs, training=True))
    assert 40 < np.isclose(trained, alone, atol=1e-6).all((1, 2, 3)).sum() < 64
    assert not np.isclose(ops.convert_to_numpy(unit(inputs)), alone).all((1, 2, 3)).any()


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("make", [MaxPool, lambda **how: ResidualUnit(16, 2, last_gamma_initializer="ones", **how)])
def test_channels_first_is_channels_last_transposed(make, padding):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolutions on the CPU")
    last, first = (make(padding=padding, data_format=each) for each in ("channels_last", "channels_first"))
    inputs = features(2, 8, 10, 4)
    expected = ops.convert_to_numpy(last(inputs))
    first.build((2, 4, 8, 10))
    for target, source in zip(first.weights, last.weights, strict=True):
        target.assign(source)
    outputs = ops.convert_to_numpy(first(inputs.transpose(0, 3, 1, 2)))
    assert outputs.shape == first.compute_output_shape((2, 4, 8, 10))
    np.testing.assert_allclose(outputs.transpose(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("padding", "size", "margins"), [("same", 8, (0, 1)), ("same", 7, (1, 1)), ("symmetric", 8, (1, 1))]
)
def test_the_largest_of_each_window(padding, size, margins):
    inputs = np.abs(features(2, size, size, 3))
    padded = np.pad(inputs, ((0, 0), margins, margins, (0, 0)), constant_values=-np.inf)
    expected = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-2, -1))
    layer = MaxPool(padding=padding)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(inputs)), expected)
    assert layer.compute_output_shape((None, size, None, 3)) == (None, 4, None, 3)


@pytest.mark.parametrize(
    "layer",
    [
        ResidualUnit(8, reduction=2, activation="relu6", padding="symmetric", drop_path_rate=0.1, name="unit"),
        ResidualUnit(16, 2, last_gamma_initializer="ones", name="basic"),
        MaxPool(5, padding="symmetric", name="pool"),
    ],
)
def test_configuration_and_file_round_trip(layer, tmp_path):
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    model = keras.Sequential([keras.Input((6, 6, 8)), twin])
    model.save(tmp_path / "layer.keras")
    loaded = keras.models.load_model(tmp_path / "layer.keras")
    inputs = features(2, 6, 6, 8)
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))
