"""The residual unit of ResNets, with and without a bottleneck."""

import keras

from keras_mnv4.layers.arguments import check_ratio
from keras_mnv4.layers.conv import ConvNormAct
from keras_mnv4.layers.inverted_bottleneck import round_channels
from keras_mnv4.layers.residual import ResidualChain
from keras_mnv4.qat.stock.wrapper import FUSED_ACTIVATIONS


@keras.saving.register_keras_serializable(package="keras_mnv4")
class ResidualUnit(ResidualChain):
    """Two or three convolutions, the sum with the input, and an activation behind it: what ResNets are made of.

    In order, as a basic unit: 3x3 convolution (activated, takes the stride), 3x3 convolution (linear). As a bottleneck:
    1x1 convolution to fewer channels (activated), 3x3 convolution (activated, takes the stride), 1x1 convolution
    (linear). Where strides or channels keep the input from being added, a 1x1 convolution takes it to that shape
    (linear, with the stride).

    Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section 3.3 and figure 5; the
    3x3 convolution with the stride, and scales that start at zero, from Goyal et al., "Accurate, Large Minibatch SGD"
    (arXiv 1706.02677), section 5.1.

    Args:
        filters: output channels.
        strides: step in both directions.
        reduction: of a bottleneck, ratio of output channels to those inside; the quotient is rounded to a multiple of
            8. None for a basic unit.
        activation: name or function. Quantised, linear, relu or relu6.
        last_gamma_initializer: initialiser of the scales of the branch's last normalisation. With zeros a new unit
            gives what its shortcut gives.
        **kwargs: `anti_aliasing`, `padding`, `norm_momentum`, `norm_epsilon`, `drop_path_rate`, `data_format` and
            `quantization`, as for `ResidualChain`; and those of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`.
    Output shape: the same with `filters` channels and `ceil(size / strides)` rows and columns; average pooling leaves
    out an odd last one.

    Raises:
        ValueError: if `reduction` is not above 0, and as for `ResidualChain`.

    Example:

    >>> ResidualUnit(256, strides=2, reduction=4)(np.zeros((1, 56, 56, 64))).shape
    (1, 28, 28, 256)
    """

    def __init__(
        self, filters, strides=1, *, reduction=None, activation="relu", last_gamma_initializer="zeros", **kwargs
    ):
        super().__init__(filters, strides, activation=activation, **kwargs)
        check_ratio("reduction", reduction, or_none=True)
        self.reduction = reduction
        self.last_gamma_initializer = keras.initializers.get(last_gamma_initializer)

    @property
    def obstacle(self):
        return super().obstacle or (None if self.activation in FUSED_ACTIVATIONS else "activation")

    @property
    def sum_activation(self):
        return self.activation

    def make_chain(self, in_channels):
        convolutions = residual_convolutions(self.filters, self.reduction, self.strides, activation=self.activation)
        *_, last = convolutions.values()
        last["gamma_initializer"] = self.last_gamma_initializer
        return [ConvNormAct(**how, **self.conv_arguments(part)) for part, how in convolutions.items()]

    def make_shortcut(self):
        return ConvNormAct(self.filters, strides=self.strides, **self.conv_arguments("shortcut"))

    def get_config(self):
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "last_gamma_initializer": keras.initializers.serialize(self.last_gamma_initializer),
        }


def residual_convolutions(filters, reduction=None, strides=1, *, activation=None):
    """The convolutions of a `ResidualUnit` but for its shortcut's, as `bottleneck_convolutions` gives them."""
    if reduction is None:
        return {
            "conv_1": {"filters": filters, "kernel_size": 3, "strides": strides, "activation": activation},
            "conv_2": {"filters": filters, "kernel_size": 3},
        }
    reduced = round_channels(filters / reduction)
    return {
        "conv_1": {"filters": reduced, "activation": activation},
        "conv_2": {"filters": reduced, "kernel_size": 3, "strides": strides, "activation": activation},
        "conv_3": {"filters": filters},
    }
