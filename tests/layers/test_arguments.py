"""What layers are given is checked where they are made, and named; what a block has no use for is refused."""

import keras
import pytest

from keras_mnv4 import layers

pytestmark = pytest.mark.once

BLOCKS = {
    "uib": (layers.UniversalInvertedBottleneck, {"filters": 8, "expansion": 2, "middle_kernel": 3}),
    "fused": (layers.FusedInvertedBottleneck, {"filters": 8, "expansion": 2}),
    "separable": (layers.DepthwiseSeparable, {"filters": 8}),
    "unit": (layers.ResidualUnit, {"filters": 8, "reduction": 2}),
    "attention": (layers.MobileMQA, {"filters": 8, "num_heads": 2, "key_dim": 4}),
}
LAYERS = {
    **BLOCKS,
    "convolution": (layers.ConvNormAct, {"filters": 8}),
    "pooling": (layers.MaxPool, {}),
    "classifier": (layers.Classifier, {"classes": 8}),
    "attention alone": (layers.SpatialAttention, {"filters": 8, "num_heads": 2, "key_dim": 4}),
}
NO_COUNTS = (0, -1, 1.5, "2", (2, 2), None)
NO_RATES = (1, 7, -0.1, float("nan"), "0.1", None)
NO_RATIOS = (0, -1, float("inf"), "4")
NO_KERNELS = (-1, 2, 3.0, (3, 3), "3")
STRIDED = ("uib", "fused", "separable", "unit", "convolution")
HEADS = ("num_heads", "key_dim", "kv_heads", "query_strides", "kv_strides")
WRONG = {  # by layer and argument
    **{(name, "filters"): NO_COUNTS for name in BLOCKS},
    **{(name, "strides"): NO_COUNTS for name in (*STRIDED, "pooling")},
    **{(name, "drop_path_rate"): NO_RATES for name in ("uib", "fused", "unit", "attention")},
    **{(name, "padding"): ("valid", None) for name in LAYERS if name != "classifier"},
    **{(name, "anti_aliasing"): ("gauss", 2) for name in STRIDED},
    **{(name, "data_format"): ("channel_last", "NHWC", 1) for name in LAYERS},
    **{(name, each): NO_COUNTS for name in ("attention", "attention alone") for each in HEADS},
    ("attention", "kv_heads"): (*NO_COUNTS, 3),
    ("attention alone", "filters"): NO_COUNTS,
    ("convolution", "filters"): NO_COUNTS,
    ("convolution", "kernel_size"): (*NO_KERNELS, 0, None),
    ("pooling", "pool_size"): (*NO_KERNELS, 0, None),
    ("classifier", "classes"): NO_COUNTS,
    ("uib", "expansion"): NO_RATIOS,
    ("uib", "start_kernel"): NO_KERNELS,
    ("uib", "middle_kernel"): NO_KERNELS,
    ("fused", "expansion"): (*NO_RATIOS, None),
    ("fused", "kernel_size"): (*NO_KERNELS, 0, None),
    ("separable", "kernel_size"): (*NO_KERNELS, 0, None),
    ("unit", "reduction"): NO_RATIOS,
}
# By block, arguments that it has no use for.
UNUSED = {
    "separable": {"drop_path_rate": (0.1, 7, None)},
    "attention": {"strides": (0, 2), "activation": ("gelu", None), "anti_aliasing": ("average", "blur", "gauss")},
}


def make(name, **changes):
    kind, arguments = LAYERS[name]
    return kind(**{**arguments, **changes})


@pytest.mark.parametrize(("name", "argument"), WRONG)
def test_wrong_arguments_are_named(name, argument):
    for value in WRONG[name, argument]:
        with pytest.raises(ValueError, match=rf"`{argument}` must .*Received: .*{argument}="):
            make(name, **{argument: value})


@pytest.mark.parametrize("block", UNUSED)
def test_what_a_block_has_no_use_for_is_refused(block):
    for argument, values in UNUSED[block].items():
        for value in values:
            with pytest.raises(ValueError, match=rf"has no use for `{argument}`: leave it out\. Received: {argument}="):
                make(block, **{argument: value})


@pytest.mark.parametrize("block", UNUSED)
def test_files_have_arguments_without_use_as_they_are_by_default(block):
    """Those of old have them, and load."""
    config = make(block).get_config()
    assert config.keys() >= UNUSED[block].keys()
    assert LAYERS[block][0].from_config(config).get_config() == config


@pytest.mark.parametrize("block", STRIDED)
def test_anti_aliasing_is_for_strides_of_two(block):
    with pytest.raises(ValueError, match=r"is for strides of 2\. Received: strides=4"):
        make(block, strides=4, anti_aliasing="blur")


@pytest.mark.parametrize("rate", [1, -0.1, "0.1", None])
def test_rates_of_stochastic_depth_are_below_one(rate):
    with pytest.raises(ValueError, match=r"`rate` must be at least 0 and below 1\. Received: rate="):
        layers.StochasticDepth(rate)


@pytest.mark.parametrize(
    "arguments",
    [
        {"expansion": None, "middle_kernel": 3},
        {"expansion": 0.5, "start_kernel": None, "middle_kernel": 0},
        {"expansion": 2, "drop_path_rate": 0},
    ],
)
def test_parts_may_be_left_out(arguments):
    block = layers.UniversalInvertedBottleneck(8, **arguments)
    assert block(keras.Input((4, 4, 8))).shape == (None, 4, 4, 8)


def test_a_block_of_ones_own_is_checked_too():
    class Pointwise(layers.ResidualChain):
        def make_chain(self, in_channels):
            return [layers.ConvNormAct(self.filters, **self.conv_arguments("conv"))]

    assert Pointwise(8)(keras.Input((4, 4, 8))).shape == (None, 4, 4, 8)
    with pytest.raises(ValueError, match="`drop_path_rate` must be at least 0 and below 1"):
        Pointwise(8, drop_path_rate=7)
