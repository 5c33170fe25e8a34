"""`UpSampling2D` in a form of which exporters make one operator."""

import keras
from keras import layers
from keras import ops

INTERPOLATIONS = ("bilinear", "nearest")  # that integer operators have


@keras.saving.register_keras_serializable(package="keras_mnv4")
class QuantizedUpSampling2D(layers.UpSampling2D):
    """The `UpSampling2D` of a quantised model, which gives the same numbers.

    Keras repeats rows and columns for nearest neighbours, of which a converter makes a dozen operators in five
    dimensions; resizing is one operator, but XLA has no gradient of it. So this layer repeats in training, or where
    rows and columns are not known, and resizes at inference.

    Args:
        **kwargs: those of `keras.layers.UpSampling2D`; `interpolation` must be `"nearest"` or `"bilinear"`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`. Output shape: the same with
    rows and columns multiplied by `size`.

    Example:

    >>> QuantizedUpSampling2D(2)(np.zeros((1, 4, 4, 8))).shape
    (1, 8, 8, 8)
    """

    def call(self, inputs, training=False):
        rows, columns = (1, 2) if self.data_format == "channels_last" else (2, 3)
        is_free = None in (inputs.shape[rows], inputs.shape[columns])
        if training or is_free or self.interpolation != "nearest":
            return super().call(inputs)
        sides = inputs.shape[rows] * self.size[0], inputs.shape[columns] * self.size[1]
        return ops.image.resize(inputs, sides, interpolation="nearest", data_format=self.data_format)
