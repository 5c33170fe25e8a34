"""`QuantNorm`: a batch normalisation whose scale and offset are quantised."""

import keras
from keras import ops

from keras_mnv4.qat.policies import NormQuantization
from keras_mnv4.qat.power_of_two import PowerOfTwoQuantizer
from keras_mnv4.qat.power_of_two import power_of_two
from keras_mnv4.qat.quantizers import with_gradient_of


@keras.saving.register_keras_serializable(package="keras_mnv4")
class QuantNorm(keras.layers.BatchNormalization):
    """Batch normalisation that multiplies by few bits and adds few bits.

    For each channel, what it does at inference is one product and one sum, `x * scale + offset`. The scale,
    `gamma / sqrt(variance + epsilon)`, is rounded once, as a whole; the offset, `beta - mean * scale`, is taken with
    the rounded scale and rounded in turn. In training, the batch's mean and variance go through the same rounding,
    whose gradient passes straight through; the moving averages are kept as they are. Weights are those of
    `keras.layers.BatchNormalization`, by name and order, and its files load.

    Source: QuantNorm of PikeLPN (arXiv 2404.00103). A reconstruction: the text could not be obtained. The form is that
    of the `inverse_quantizer` of QKeras's batch normalisation, by some of the same authors; assumptions are the
    arguments of `NormQuantization`.

    Args:
        norm_quantization: a `keras_mnv4.qat.NormQuantization`; None for 8 bits each.
        **kwargs: those of `keras.layers.BatchNormalization`.

    Input shape: any. Output shape: the same.

    Example:

    >>> QuantNorm(NormQuantization(power_of_two=True))(np.ones((1, 4, 4, 8))).shape
    (1, 4, 4, 8)

    Raises:
        ValueError: if it is asked for batch renormalisation.
    """

    def __init__(self, norm_quantization=None, **kwargs):
        super().__init__(**kwargs)
        if self.renorm:
            raise ValueError("`QuantNorm` has no batch renormalisation. Received: renorm=True")
        self.norm_quantization = norm_quantization or NormQuantization()

    def call(self, inputs, training=False, mask=None):
        values = ops.cast(inputs, "float32")
        mean, variance = self._statistics(values, training, mask)
        scale, offset = self.scale_and_offset(mean, variance)
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        return ops.cast(values * ops.reshape(scale, shape) + ops.reshape(offset, shape), self.compute_dtype)

    def scale_and_offset(self, mean=None, variance=None):
        """The rounded scale and offset: two float32 vectors. By default for the moving statistics."""
        mean = self._float32(self.moving_mean) if mean is None else mean
        variance = self._float32(self.moving_variance) if variance is None else variance
        gamma = ops.ones_like(mean) if self.gamma is None else self._float32(self.gamma)
        beta = ops.zeros_like(mean) if self.beta is None else self._float32(self.beta)
        if self.norm_quantization.is_fused:
            scale = self._round_scale(gamma * ops.rsqrt(variance + self.epsilon))
            return scale, round_to_bits(beta - mean * scale, self.norm_quantization.offset_bits)
        gamma = self._round_scale(gamma)
        variance = self._round_scale(variance)
        beta, mean = (round_to_bits(each, self.norm_quantization.offset_bits) for each in (beta, mean))
        scale = gamma * ops.rsqrt(ops.maximum(variance, 0.0) + self.epsilon)
        return scale, beta - mean * scale

    def _round_scale(self, values):
        if not self.norm_quantization.power_of_two:
            return round_to_bits(values, self.norm_quantization.scale_bits)
        quantizer = PowerOfTwoQuantizer(self.norm_quantization.scale_bits, per_axis=False, has_zero=False)
        largest = ops.stop_gradient(ops.max(ops.abs(values)))
        return quantizer.round(values, -largest, largest)

    def _statistics(self, values, training, mask):
        if not (training and self.trainable):
            return self._float32(self.moving_mean), self._float32(self.moving_variance)
        mean, variance = self._moments(values, mask)
        for moving, seen in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + ops.cast(seen, moving.dtype) * (1.0 - self.momentum))
        return mean, variance

    @staticmethod
    def _float32(weight):
        return ops.cast(weight, "float32")

    def get_config(self):
        return {
            **super().get_config(),
            "norm_quantization": keras.saving.serialize_keras_object(self.norm_quantization),
        }

    @classmethod
    def from_config(cls, config):
        return cls(
            **{**config, "norm_quantization": keras.saving.deserialize_keras_object(config["norm_quantization"])}
        )


def round_to_bits(values, bits):
    """Rounds a vector to whole numbers of so many bits, sign included, times one power of two for all of it.

    The power is the least with which no value is cut off. The gradient passes straight through.
    """
    last = 2.0 ** (bits - 1) - 1.0
    largest = ops.max(ops.abs(values))
    step = power_of_two(ops.ceil(ops.log2(ops.maximum(largest, 1e-30) / last)))
    return with_gradient_of(values, step * ops.round(values / step))
