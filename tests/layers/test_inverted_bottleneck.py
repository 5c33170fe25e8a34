import keras
import numpy as np
import pytest
from keras import ops

from keras_mnv4.layers import FusedInvertedBottleneck
from keras_mnv4.layers import StochasticDepth
from keras_mnv4.layers import UniversalInvertedBottleneck
from keras_mnv4.layers.inverted_bottleneck import round_channels

FOUR_BLOCKS = {
    "IB": ((0, 3), ("expand", "middle_depthwise", "project")),
    "ConvNext": ((3, 0), ("start_depthwise", "expand", "project")),
    "ExtraDW": ((5, 3), ("start_depthwise", "expand", "middle_depthwise", "project")),
    "FFN": ((0, 0), ("expand", "project")),
}


def arithmetic_parameters(channels, filters, expanded, start, middle):
    """Trainable parameters, counted by hand: kernels, and two numbers a channel for each normalisation."""
    total = channels * expanded + 2 * expanded + expanded * filters + 2 * filters
    total += (start**2 * channels + 2 * channels) if start else 0
    total += (middle**2 * expanded + 2 * expanded) if middle else 0
    return total


@pytest.mark.parametrize("kind", FOUR_BLOCKS)
def test_four_instantiations(kind):
    (start, middle), parts = FOUR_BLOCKS[kind]
    block = UniversalInvertedBottleneck(16, 4, start, middle)
    outputs = block(np.ones((2, 6, 6, 16), "float32"))
    assert outputs.shape == (2, 6, 6, 16)
    assert block.quantizable_parts == (*parts, "add")
    parameters = sum(int(np.prod(variable.shape)) for variable in block.trainable_variables)
    assert parameters == arithmetic_parameters(16, 16, 64, start, middle)
    activated = [part.name for part in block.chain if part.activation is keras.activations.relu]
    assert activated == [part for part in parts if part in ("expand", "middle_depthwise")]


@pytest.mark.parametrize(
    ("start", "middle", "strided"), [(3, 0, "start_depthwise"), (0, 3, "middle_depthwise"), (3, 5, "middle_depthwise")]
)
def test_stride_is_taken_by_the_middle_or_else_the_starting_depthwise(start, middle, strided):
    block = UniversalInvertedBottleneck(24, 2, start, middle, strides=2)
    outputs = block(np.ones((1, 7, 8, 16), "float32"))
    assert outputs.shape == block.compute_output_shape((1, 7, 8, 16)) == (1, 4, 4, 24)
    assert [part.name for part in block.chain if part.strides == 2] == [strided]
    assert "add" not in block.quantizable_parts


def test_shortcut_adds_the_input():
    block = UniversalInvertedBottleneck(8, 2, 3, 3)
    pictures = np.random.default_rng(0).normal(size=(2, 5, 5, 8)).astype("float32")
    block.build(pictures.shape)
    branch = block.chain[-1].norm
    branch.gamma.assign(np.zeros(8))  # a branch that gives nothing
    np.testing.assert_array_equal(ops.convert_to_numpy(block(pictures)), pictures)


def test_fused_block_expands_with_a_dense_kernel_and_projects_linearly():
    block = FusedInvertedBottleneck(48, 4, 3, strides=2)
    assert block(np.ones((1, 8, 8, 32), "float32")).shape == (1, 4, 4, 48)
    assert [tuple(part.kernel.shape) for part in block.chain] == [(3, 3, 32, 128), (1, 1, 128, 48)]
    assert block.chain[1].activation is keras.activations.linear


def test_a_stride_without_depthwise_convolutions_is_refused():
    with pytest.raises(ValueError, match="cannot take a stride"):
        UniversalInvertedBottleneck(8, 2, strides=2)


@pytest.mark.parametrize(
    "block",
    [
        UniversalInvertedBottleneck(
            8, 3, 5, 3, activation="relu6", padding="symmetric", drop_path_rate=0.1, name="uib"
        ),
        FusedInvertedBottleneck(8, 3, 5, activation="relu6", norm_momentum=0.5, name="fused"),
    ],
)
def test_configuration_and_file_round_trip(block, tmp_path):
    twin = type(block).from_config(block.get_config())
    assert twin.get_config() == block.get_config()
    model = keras.Sequential([keras.Input((6, 6, 8)), twin])
    model.save(tmp_path / "block.keras")
    loaded = keras.models.load_model(tmp_path / "block.keras")
    pictures = np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype("float32")
    np.testing.assert_array_equal(loaded.predict(pictures, verbose=0), model.predict(pictures, verbose=0))


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    layer = StochasticDepth(0.25, seed=1)
    ones = np.ones((4000, 2, 3), "float32")
    outputs = ops.convert_to_numpy(layer(ones, training=True))
    assert set(np.unique(outputs)) == {np.float32(0), np.float32(1 / 0.75)}
    assert np.all(outputs == outputs[:, :1, :1])
    assert outputs.mean() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(ones, training=False)), ones)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_rates_of_stochastic_depth_are_kept_in_half_precision(dtype):
    outputs = StochasticDepth(0.002, seed=1, dtype=dtype)(ops.ones((200_000, 1), dtype), training=True)
    assert np.mean(ops.convert_to_numpy(ops.cast(outputs, "float32")) == 0) == pytest.approx(0.002, rel=0.25)


def test_drop_path_leaves_out_the_branch_in_training_only():
    block = UniversalInvertedBottleneck(8, 2, 3, drop_path_rate=0.9)
    pictures = np.random.default_rng(0).normal(size=(64, 4, 4, 8)).astype("float32")
    trained = ops.convert_to_numpy(block(pictures, training=True))
    untouched = np.isclose(trained, pictures).all((1, 2, 3))
    assert 40 < untouched.sum() < 64
    assert not np.isclose(ops.convert_to_numpy(block(pictures)), pictures).all((1, 2, 3)).any()


@pytest.mark.parametrize(("channels", "rounded"), [(33.6, 32), (11.2, 16), (22.4, 24), (44.8, 48), (3, 8), (960, 960)])
def test_round_channels(channels, rounded):
    # 0.35 x MobileNetV4ConvSmall, as timm builds it: 32 -> 16, 64 -> 24, 96 -> 32 and 128 -> 48.
    assert round_channels(channels) == rounded
