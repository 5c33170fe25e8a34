"""`BatchNorm`: batch normalisation that no convolution stands before."""

import keras
from keras import ops

from keras_mnv4.qat.affine import quantized_affine
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import QuantizableLayer


@keras.saving.register_keras_serializable(package="keras_mnv4")
class BatchNorm(QuantizableLayer, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with a place for quantisation, for where no convolution can take it in.

    Quantised, it computes at inference as a 1x1 depthwise convolution with a bias: one integer operator, whose one
    weight a channel is exact at any width, where a product and a sum would be two, with rounding in between.

    Args:
        **kwargs: `quantization`, a `keras_mnv4.qat.LayerQuantization` or None, of which only the outputs count; and
            those of `keras.layers.BatchNormalization`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)` with `axis=1`.
    Output shape: the same.

    Example:

    >>> BatchNorm()(np.ones((1, 4, 4, 8))).shape
    (1, 4, 4, 8)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.output_quantizer = self.make_output_quantizer(ITSELF)

    def build(self, input_shape):
        super().build(input_shape)
        if self.output_quantizer is not None:
            self.output_quantizer.build(input_shape)

    def call(self, inputs, training=False):
        if self.output_quantizer is None:
            return super().call(inputs, training=training)
        outputs = super().call(inputs, training=training) if training else self._scale_and_shift(inputs)
        return self.output_quantizer(outputs, training=training)

    def _scale_and_shift(self, inputs):
        weights = (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        gamma, beta, mean, variance = (ops.cast(weight, "float32") for weight in weights)
        factor = gamma / ops.sqrt(variance + self.epsilon)
        return quantized_affine(inputs, factor, beta - mean * factor, self.axis)
