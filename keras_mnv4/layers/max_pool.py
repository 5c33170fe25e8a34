"""`MaxPool`: max pooling, padded as the convolutions of this package are."""

import keras
from keras import ops

from keras_mnv4.layers.arguments import PADDINGS
from keras_mnv4.layers.arguments import check_kernel_size
from keras_mnv4.layers.arguments import check_one_of
from keras_mnv4.layers.arguments import check_whole
from keras_mnv4.layers.feature_map import FeatureMapLayer


@keras.saving.register_keras_serializable(package="keras_mnv4")
class MaxPool(FeatureMapLayer):
    """The largest number of each window of a feature map, such as stands behind the stem of a ResNet.

    It has no parts to quantise: what it hands on was rounded before.

    Args:
        pool_size: height and width of the window, odd.
        strides: step in both directions.
        padding: `"same"` or `"symmetric"`, as for `ConvNormAct`. The latter pads with zeros, as integer operators can:
            what PyTorch gives if no number is negative, as behind relu.
        data_format: `"channels_last"` or `"channels_first"`; default, Keras's global setting.
        **kwargs: those of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`.
    Output shape: the same with `ceil(size / strides)` rows and columns.

    Raises:
        ValueError: if `pool_size` is not odd and positive, `strides` not above 0, or the padding not known.

    Example:

    >>> MaxPool(3, strides=2)(np.zeros((1, 112, 112, 64))).shape
    (1, 56, 56, 64)
    """

    quantizable_parts = ()

    def __init__(self, pool_size=3, strides=2, *, padding="same", data_format=None, **kwargs):
        super().__init__(data_format, **kwargs)
        check_kernel_size("pool_size", pool_size)
        check_whole("strides", strides)
        check_one_of("padding", padding, PADDINGS)
        self.pool_size = pool_size
        self.strides = strides
        self.padding = padding

    def call(self, inputs, training=False):
        padding = "same"
        if self.padding == "symmetric":
            inputs, padding = self._pad(inputs, self.pool_size // 2), "valid"
        return ops.max_pool(inputs, self.pool_size, self.strides, padding, data_format=self.data_format)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        for axis in self._spatial_axes:
            shape[axis] = None if shape[axis] is None else -(-shape[axis] // self.strides)
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
        }
