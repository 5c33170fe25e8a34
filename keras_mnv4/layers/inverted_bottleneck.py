"""The universal inverted bottleneck of MobileNetV4, its fused sibling, and the separable convolution of MobileNetV1."""

import keras

from keras_mnv4.layers.arguments import check_kernel_size
from keras_mnv4.layers.arguments import check_ratio
from keras_mnv4.layers.arguments import check_unused
from keras_mnv4.layers.conv import ConvNormAct
from keras_mnv4.layers.residual import ResidualChain


@keras.saving.register_keras_serializable(package="keras_mnv4")
class UniversalInvertedBottleneck(ResidualChain):
    """The universal inverted bottleneck (UIB): an expansion between two optional depthwise convolutions.

    Which of the two are there makes it one of four blocks:

    | `start_kernel` | `middle_kernel` | block |
    |---|---|---|
    | 0 | > 0 | inverted bottleneck (IB), as in MobileNetV2 |
    | > 0 | 0 | ConvNext-like |
    | > 0 | > 0 | extra depthwise (ExtraDW) |
    | 0 | 0 | feed-forward network (FFN) |

    In order: starting depthwise convolution (linear), 1x1 expansion (activated), middle depthwise convolution
    (activated), 1x1 projection (linear), and the sum with the input if strides are 1 and the channels agree. The
    stride is taken by the middle depthwise convolution, or by the starting one if there is no middle one.

    Source: MobileNetV4 (arXiv 2404.10518), section 4.

    Args:
        filters: output channels.
        expansion: ratio of expanded to input channels; the product is rounded to a multiple of 8. None for a block
            without the 1x1 expansion, a depthwise separable convolution.
        start_kernel: kernel size of the starting depthwise convolution, 0 for none.
        middle_kernel: kernel size of the middle depthwise convolution, 0 for none.
        strides: step in both directions.
        activation: name or function.
        layer_scale: start value of a learned factor for each channel of the branch (`LayerScale`), None for none.
        **kwargs: `anti_aliasing`, `padding`, `norm_momentum`, `norm_epsilon`, `drop_path_rate`, `data_format` and
            `quantization`, as for `ResidualChain`; and those of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`.
    Output shape: the same with `filters` channels and `ceil(size / strides)` rows and columns; average pooling leaves
    out an odd last one.

    Raises:
        ValueError: if `strides > 1` and there is no depthwise convolution to take them, and as for `ResidualChain`.

    Example:

    >>> block = UniversalInvertedBottleneck(96, expansion=4, start_kernel=3)  # ConvNext-like
    >>> block(np.zeros((1, 14, 14, 96))).shape
    (1, 14, 14, 96)
    """

    def __init__(
        self,
        filters,
        expansion,
        start_kernel=0,
        middle_kernel=0,
        strides=1,
        *,
        activation="relu",
        layer_scale=None,
        **kwargs,
    ):
        super().__init__(filters, strides, activation=activation, **kwargs)
        check_ratio("expansion", expansion, or_none=True)
        check_kernel_size("start_kernel", start_kernel, or_zero=True)
        check_kernel_size("middle_kernel", middle_kernel, or_zero=True)
        if strides > 1 and not (start_kernel or middle_kernel):
            raise ValueError(
                "A block without depthwise convolutions cannot take a stride: give `start_kernel` or `middle_kernel`. "
                f"Received: strides={strides}"
            )
        self.expansion = expansion
        self.start_kernel = start_kernel
        self.middle_kernel = middle_kernel
        self.layer_scale = layer_scale

    def make_chain(self, in_channels):
        convolutions = bottleneck_convolutions(
            in_channels,
            self.filters,
            self.expansion,
            self.start_kernel,
            self.middle_kernel,
            self.strides,
            activation=self.activation,
            layer_scale=self.layer_scale,
        )
        return [ConvNormAct(**how, **self.conv_arguments(part)) for part, how in convolutions.items()]

    def get_config(self):
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "start_kernel": self.start_kernel,
            "middle_kernel": self.middle_kernel,
            "layer_scale": self.layer_scale,
        }


@keras.saving.register_keras_serializable(package="keras_mnv4")
class FusedInvertedBottleneck(ResidualChain):
    """An inverted bottleneck whose expansion and depthwise convolution are fused into one dense convolution.

    In order: k x k expansion (activated, takes the stride), 1x1 projection (linear), and the sum with the input if
    strides are 1 and the channels agree.

    Source: MobileNetV4 (arXiv 2404.10518), appendix tables, "FusedIB".

    Args:
        filters: output channels.
        expansion: ratio of expanded to input channels; the product is rounded to a multiple of 8.
        kernel_size: kernel size of the expansion.
        strides: step in both directions.
        activation: name or function.
        **kwargs: as for `UniversalInvertedBottleneck`.

    Input and output shapes: as for `UniversalInvertedBottleneck`.

    Raises:
        ValueError: if `expansion` or `kernel_size` is out of its range, and as for `ResidualChain`.

    Example:

    >>> FusedInvertedBottleneck(48, expansion=4, strides=2)(np.zeros((1, 112, 112, 32))).shape
    (1, 56, 56, 48)
    """

    def __init__(self, filters, expansion, kernel_size=3, strides=1, *, activation="relu", **kwargs):
        super().__init__(filters, strides, activation=activation, **kwargs)
        check_ratio("expansion", expansion)
        check_kernel_size("kernel_size", kernel_size)
        self.expansion = expansion
        self.kernel_size = kernel_size

    def make_chain(self, in_channels):
        convolutions = fused_bottleneck_convolutions(
            in_channels, self.filters, self.expansion, self.kernel_size, self.strides, activation=self.activation
        )
        return [ConvNormAct(**how, **self.conv_arguments(part)) for part, how in convolutions.items()]

    def get_config(self):
        return {**super().get_config(), "expansion": self.expansion, "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable(package="keras_mnv4")
class DepthwiseSeparable(ResidualChain):
    """A depthwise convolution and a 1x1 convolution, each with normalisation and activation: MobileNetV1's block.

    Source: Howard et al., "MobileNets" (arXiv 1704.04861), section 3.1.

    Args:
        filters: output channels.
        kernel_size: kernel size of the depthwise convolution.
        strides: its step in both directions.
        activation: name or function.
        **kwargs: as for `UniversalInvertedBottleneck`, but for `drop_path_rate`: there is no branch to leave out.

    Input and output shapes: as for `UniversalInvertedBottleneck`.

    Raises:
        ValueError: if `kernel_size` is out of its range, if there is a `drop_path_rate`, and as for `ResidualChain`.

    Example:

    >>> DepthwiseSeparable(64)(np.zeros((1, 112, 112, 32))).shape
    (1, 112, 112, 64)
    """

    is_residual = False

    def __init__(self, filters, kernel_size=3, strides=1, *, activation="relu", **kwargs):
        check_unused(self, kwargs, {"drop_path_rate": 0.0})
        super().__init__(filters, strides, activation=activation, **kwargs)
        check_kernel_size("kernel_size", kernel_size)
        self.kernel_size = kernel_size

    def make_chain(self, in_channels):
        convolutions = separable_convolutions(self.filters, self.kernel_size, self.strides, activation=self.activation)
        return [ConvNormAct(**how, **self.conv_arguments(part)) for part, how in convolutions.items()]

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}


def separable_convolutions(filters, kernel_size, strides=1, *, activation=None):
    """The convolutions of a `DepthwiseSeparable`, as `bottleneck_convolutions` gives them."""
    depthwise = {"kernel_size": kernel_size, "strides": strides, "depthwise": True, "activation": activation}
    return {"depthwise": depthwise, "pointwise": {"filters": filters, "activation": activation}}


def bottleneck_convolutions(
    in_channels, filters, expansion, start_kernel=0, middle_kernel=0, strides=1, *, activation=None, layer_scale=None
):
    """The convolutions of a `UniversalInvertedBottleneck`: by name, in order, what makes each differ from the others.

    Args:
        in_channels: channels of its input; the other arguments are those of the layer.

    Returns:
        A dictionary from name to arguments of `ConvNormAct`.
    """
    convolutions = {}
    if start_kernel:
        start_strides = 1 if middle_kernel else strides
        convolutions["start_depthwise"] = {"kernel_size": start_kernel, "strides": start_strides, "depthwise": True}
    if expansion is not None:
        convolutions["expand"] = {"filters": round_channels(in_channels * expansion), "activation": activation}
    if middle_kernel:
        middle = {"kernel_size": middle_kernel, "strides": strides, "depthwise": True, "activation": activation}
        convolutions["middle_depthwise"] = middle
    convolutions["project"] = {"filters": filters, "layer_scale": layer_scale}
    return convolutions


def fused_bottleneck_convolutions(in_channels, filters, expansion, kernel_size, strides=1, *, activation=None):
    """The convolutions of a `FusedInvertedBottleneck`, as `bottleneck_convolutions` gives them."""
    expanded = round_channels(in_channels * expansion)
    expand = {"filters": expanded, "kernel_size": kernel_size, "strides": strides, "activation": activation}
    return {"expand": expand, "project": {"filters": filters}}


def round_channels(channels, divisor=8):
    """The multiple of `divisor` nearest to `channels`, one up if that would take away more than a tenth.

    The rounding of every MobileNet since V2.

    >>> round_channels(33.6), round_channels(11.2)
    (32, 16)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
