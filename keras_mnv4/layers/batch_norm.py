"""`BatchNorm`: batch normalisation that no convolution stands before."""

import keras
from keras import ops

from keras_mnv4.layers.quant_norm import QuantNorm
from keras_mnv4.qat.affine import quantized_affine
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import QuantizableLayer


@keras.saving.register_keras_serializable(package="keras_mnv4")
class BatchNorm(QuantizableLayer, QuantNorm):
    """`keras.layers.BatchNormalization` with a place for quantisation, for where no convolution can take it in.

    Quantised, it computes at inference as a 1x1 depthwise convolution with a bias: one integer operator, whose one
    weight a channel is exact at any width, where a product and a sum would be two, with rounding in between.

    Args:
        **kwargs: `quantization`, a `keras_mnv4.qat.LayerQuantization` or None, of which the outputs and the norm count;
            and those of `keras.layers.BatchNormalization`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)` with `axis=1`.
    Output shape: the same.

    Raises:
        ValueError: if it is asked for batch renormalisation.

    Example:

    >>> BatchNorm()(np.ones((1, 4, 4, 8))).shape
    (1, 4, 4, 8)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        quantization = self.part_quantization(ITSELF)
        self.norm_quantization = None if quantization is None else quantization.norm
        self.channel_axis = self.axis
        self.output_quantizer = self.make_output_quantizer(ITSELF)
        self.finish_parts()

    def build(self, input_shape):
        super().build(input_shape)
        if self.output_quantizer is not None:
            self.output_quantizer.build(input_shape)

    def call(self, inputs, training=False):
        if self.output_quantizer is not None and not training:
            outputs = quantized_affine(inputs, *self._scale_and_offset(), self.axis)
        elif self.norm_quantization is None:
            outputs = keras.layers.BatchNormalization.call(self, inputs, training=training)
        else:
            outputs = super().call(inputs, training=training)
        return outputs if self.output_quantizer is None else self.output_quantizer(outputs, training=training)

    def _scale_and_offset(self):
        if self.norm_quantization is not None:
            return self.scale_and_offset()
        mean, variance = (ops.cast(each, "float32") for each in (self.moving_mean, self.moving_variance))
        gamma = ops.cast(self.gamma, "float32") if self.scale else ops.ones_like(mean)
        beta = ops.cast(self.beta, "float32") if self.center else ops.zeros_like(mean)
        factor = gamma / ops.sqrt(variance + self.epsilon)
        return factor, beta - mean * factor

    def get_config(self):
        return {key: value for key, value in super().get_config().items() if key != "norm_quantization"}

    @classmethod
    def from_config(cls, config):
        return super().from_config({**config, "norm_quantization": None})
