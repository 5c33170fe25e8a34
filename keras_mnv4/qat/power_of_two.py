"""Powers of two: a quantiser whose products are shifts, and one that rounds the scales of another."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_mnv4.qat.quantizers import LastValueQuantizer
from keras_mnv4.qat.quantizers import Quantizer
from keras_mnv4.qat.quantizers import with_gradient_of

LEAST_EXPONENT, LARGEST_EXPONENT = -126, 127  # of float32
POWERS = np.ldexp(np.float32(1), np.arange(LEAST_EXPONENT, LARGEST_EXPONENT + 1))  # exp2 is an ulp off on some CPUs


def power_of_two(exponents):
    """2 to the power of whole numbers, exactly on every backend: XLA's own exponentials are an ulp off."""
    places = ops.clip(exponents, LEAST_EXPONENT, LARGEST_EXPONENT) - LEAST_EXPONENT
    return ops.take(ops.convert_to_tensor(POWERS), ops.cast(places, "int32"))


def nearest_exponent(values):
    """The whole number nearest to the logarithm of positive values to the base of 2."""
    return ops.round(ops.log2(ops.maximum(values, float(POWERS[0]))))


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class PowerOfTwoQuantizer(LastValueQuantizer):
    """Rounds to signed powers of two: a product with such a number is a shift.

    Of `num_bits`, one is the sign; the others count exponents downwards from that of the largest absolute value of a
    channel or tensor, the one nearest to it. A value is rounded to the exponent nearest to its own. The gradient passes
    straight through.

    With `top_exponent=2**(num_bits - 2) - 1` and `has_zero=False` it rounds as QKeras's `quantized_po2(num_bits)`.

    Source: Distribution-Heterogeneous Quantization of PikeLPN (arXiv 2404.00103), a reconstruction, for the text could
    not be obtained. Assumed are that pointwise kernels are quantised so, that the exponents follow the largest value,
    and the code for zero.

    Args:
        num_bits: bits a value, 2 to 8.
        per_axis: exponents for each index of the last axis, instead of for the tensor.
        has_zero: whether the code of the lowest exponent stands for zero instead. Then 4 bits span 1 to 64 in steps of
            factors of two, and fit exactly into 8-bit integers.
        top_exponent: the largest exponent, if it is not to follow the values.

    Raises:
        ValueError: if `num_bits` is outside 2 to 8, or if it is not to be symmetric.

    Example:

    >>> quantizer = PowerOfTwoQuantizer(num_bits=3)  # of the largest: 1, a half, a quarter, and zero
    """

    num_bits: int = 4
    per_axis: bool = True
    symmetric: bool = True
    narrow_range: bool = True
    has_zero: bool = True
    top_exponent: int | None = None

    has_equal_steps = False

    def __post_init__(self):
        super().__post_init__()
        if self.num_bits > 8:
            raise ValueError(f"`num_bits` must be from 2 to 8. Received: num_bits={self.num_bits}")
        if not self.symmetric or not self.narrow_range:
            raise ValueError("Powers of two are symmetric: leave `symmetric` and `narrow_range` as they are.")

    @property
    def num_exponents(self):
        """How many exponents there are codes for."""
        return 2 ** (self.num_bits - 1) - self.has_zero

    def used_range(self, low, high):
        top = power_of_two(self._top(ops.convert_to_tensor(high)))
        return -top, top

    def round(self, inputs, low, high):
        top = self._top(ops.convert_to_tensor(high))
        bottom = top - (self.num_exponents - 1)
        magnitudes = ops.abs(inputs)
        exponents = ops.clip(nearest_exponent(magnitudes), bottom, top)
        rounded = ops.where(inputs < 0, -1.0, 1.0) * power_of_two(exponents)
        if self.has_zero:
            rounded = ops.where(magnitudes < power_of_two(bottom - 1), 0.0, rounded)
        return with_gradient_of(inputs, rounded)

    def _top(self, high):
        if self.top_exponent is not None:
            return ops.full_like(high, float(self.top_exponent))
        return nearest_exponent(high)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class DoubleQuantizer(Quantizer):
    """Another quantiser, whose scales are themselves rounded: to change the scale of a sum costs less then.

    Source: Double Quantization of PikeLPN (arXiv 2404.00103), a reconstruction, for the text could not be obtained.
    Assumed are both forms below, and the default of 8 bits.

    Args:
        quantizer: any quantiser of this package that keeps a range, such as `LastValueQuantizer`.
        scale_bits: the scales of a tensor are whole numbers of so many bits, times one power of two for the tensor.
            None makes each scale a power of two, the one nearest to it: changing scales is a shift.

    Raises:
        ValueError: if the quantiser keeps no range, or `scale_bits` is not from 2 to 16.

    Example:

    >>> four_bits = LastValueQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True)
    >>> DoubleQuantizer(four_bits, scale_bits=None)  # shifts
    """

    quantizer: Quantizer
    scale_bits: int | None = 8

    has_equal_steps = True

    def __post_init__(self):
        if not hasattr(self.quantizer, "update_range") or not self.quantizer.has_equal_steps:
            raise ValueError(
                "`quantizer` must be one that keeps a range of equal steps, such as `LastValueQuantizer`. Received: "
                f"{self.quantizer!r}"
            )
        if self.scale_bits is not None and not 2 <= self.scale_bits <= 16:
            raise ValueError(f"`scale_bits` must be from 2 to 16, or None. Received: {self.scale_bits!r}")
        super().__post_init__()

    can_be_narrowed = property(lambda self: self.quantizer.can_be_narrowed)
    num_bits = property(lambda self: self.quantizer.num_bits)
    per_axis = property(lambda self: self.quantizer.per_axis)
    symmetric = property(lambda self: self.quantizer.symmetric)
    narrow_range = property(lambda self: self.quantizer.narrow_range)

    def build(self, tensor_shape, name, layer):
        return self.quantizer.build(tensor_shape, name, layer)

    def __call__(self, inputs, training, weights):
        return self.quantizer.quantize(inputs, training, weights, self.used_range)

    def observed_range(self, inputs):
        return self.quantizer.observed_range(inputs)

    def used_range(self, low, high):
        """The range of the same codes, zero's among them, with rounded steps."""
        low, high = self.quantizer.used_range(*(ops.convert_to_tensor(end) for end in (low, high)))
        first, last = float(self.narrow_range), 2.0**self.num_bits - 1.0
        scale = ops.maximum((high - low) / (last - first), float(POWERS[0]))
        zero_code = ops.clip(ops.floor(first - low / scale + 0.5), first, last)
        rounded = self.round_scale(scale)
        # Learned ranges go on learning: the rounding passes their gradient on.
        return with_gradient_of(low, (first - zero_code) * rounded), with_gradient_of(
            high, (last - zero_code) * rounded
        )

    def round_scale(self, scale):
        """Scales, rounded as whole tensors' are."""
        if self.scale_bits is None:
            return power_of_two(nearest_exponent(scale))
        largest_code = 2.0**self.scale_bits - 1.0
        unit = power_of_two(ops.ceil(ops.log2(ops.max(scale) / largest_code)))
        return unit * ops.clip(ops.round(scale / unit), 1.0, largest_code)

    def get_config(self):
        return {
            "quantizer": keras.saving.serialize_keras_object(self.quantizer),
            "scale_bits": self.scale_bits,
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["quantizer"]), config["scale_bits"])
