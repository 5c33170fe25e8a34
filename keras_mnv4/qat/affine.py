"""A factor and a sum for each channel, as one integer operator."""

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_mnv4.qat.quantizable import LEAST_KERNEL
from keras_mnv4.qat.quantizers import fake_quantize


def quantized_affine(inputs, factor, shift, channel_axis=-1):
    """`inputs * factor + shift`, channel by channel, in a form that converters make one integer operator of.

    That is a 1x1 depthwise convolution with a bias: its one weight a channel is exact at any width. A product and a sum
    would be two operators, with rounding in between.

    Args:
        inputs: feature maps.
        factor: float32 vector, one value a channel.
        shift: likewise.
        channel_axis: 1 or -1.

    Returns:
        A tensor of the shape and dtype of `inputs`.
    """
    end = ops.maximum(ops.abs(factor), LEAST_KERNEL * ops.abs(shift))
    kernel = ops.reshape(factor, (1, 1, 1, -1))  # channels last, as per-channel quantisers want them
    kernel = fake_quantize(kernel, -end, end, num_bits=8, narrow_range=True, per_axis=True)
    kernel = ops.cast(ops.transpose(kernel, (0, 1, 3, 2)), inputs.dtype)
    shift = ops.cast(ops.reshape(shift, (-1, 1, 1) if channel_axis == 1 else (-1,)), inputs.dtype)
    data_format = "channels_first" if channel_axis == 1 else "channels_last"
    return ops.depthwise_conv(inputs, kernel, 1, "same", data_format=data_format) + shift


@keras.saving.register_keras_serializable(package="keras_mnv4")
class ColorRescaling(layers.Rescaling):
    """`keras.layers.Rescaling` with a scale and an offset for each colour, as one integer operator.

    `quantize_model` puts it in the place of preprocessing that the scale of a file's input cannot say: by mean and
    deviation of each colour, in negatives, to a range without zero, or not of the picture as it comes in.

    Args:
        scale: a number, or nested lists of one a colour, as for `keras.layers.Rescaling`.
        offset: likewise.

    Input shape: pictures of `(batch, height, width, colours)`, or `(batch, colours, height, width)` where the lists are
    nested so. Output shape: the same.

    Example:

    >>> ColorRescaling([0.1, 0.2, 0.3], offset=[-1.0, -2.0, -3.0])(np.full((1, 2, 2, 3), 10.0))[0, 0, 0]  # [0, 0, 0]
    """

    def call(self, inputs):
        axis = 1 if max(np.ndim(self.scale), np.ndim(self.offset)) == 3 else -1
        channels = inputs.shape[axis]
        factor, shift = (
            ops.convert_to_tensor(np.broadcast_to(np.ravel(each), channels), "float32")
            for each in (self.scale, self.offset)
        )
        return quantized_affine(ops.cast(inputs, self.compute_dtype), factor, shift, axis)


def scale_and_offset(layer):
    """What a `Rescaling`, or a `Normalization` by channel, multiplies with and adds, as arguments of `Rescaling`.

    Args:
        layer: such a layer, built.

    Returns:
        Numbers, or lists of one a channel.

    Raises:
        ValueError: if it is a `Normalization` along other axes, or inverted.

    Example:

    >>> layer = keras.layers.Normalization(mean=[1.0, 2.0], variance=[4.0, 16.0])
    >>> layer.build((None, 8, 8, 2))
    >>> scale_and_offset(layer)
    ([0.5, 0.25], [-0.5, -0.5])
    """
    if isinstance(layer, layers.Rescaling):
        return layer.scale, layer.offset
    mean, variance = (ops.convert_to_numpy(each)[0] for each in (layer.mean, layer.variance))
    if layer.invert or mean.size != max(mean.shape[0], mean.shape[-1]):
        raise ValueError(f"`{layer.name}` must normalise channels, and not be inverted.")
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    scale, offset = 1 / deviation, -mean / deviation
    if mean.shape[-1] == mean.size:  # channels last
        scale, offset = np.ravel(scale), np.ravel(offset)
    return scale.tolist(), offset.tolist()
