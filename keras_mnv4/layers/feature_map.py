"""`FeatureMapLayer`: what layers of feature maps know of their axes. The base of convolution, pooling and blocks."""

import keras
from keras import ops

from keras_mnv4.layers.arguments import DATA_FORMATS
from keras_mnv4.layers.arguments import check_one_of
from keras_mnv4.qat.quantizable import QuantizableLayer


class FeatureMapLayer(QuantizableLayer):
    """A quantisable layer of feature maps, `(batch, height, width, channels)` or `(batch, channels, height, width)`.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; default, Keras's global setting.
        **kwargs: those of `keras_mnv4.qat.QuantizableLayer`.

    Raises:
        ValueError: if there is no such data format.
    """

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        check_one_of("data_format", self.data_format, DATA_FORMATS)

    @property
    def channel_axis(self):
        return -1 if self.data_format == "channels_last" else 1

    @property
    def _spatial_axes(self):
        return (1, 2) if self.data_format == "channels_last" else (2, 3)

    def _pad(self, inputs, margin):
        """`inputs` with `margin` rows and columns of zeros on each side."""
        margins = [(0, 0)] * 4
        for axis in self._spatial_axes:
            margins[axis] = (margin, margin)
        return ops.pad(inputs, margins)

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}
