"""Quantisers: how one tensor is rounded to a few bits while it still trains.

Every quantiser speaks the protocol of the TensorFlow Model Optimization toolkit (TFMOT): `build` creates its
variables on a host layer, `__call__` fake-quantises, `get_config` serialises. The classes here are written in
`keras.ops` and run on every backend; on TensorFlow `keras_mnv4.qat.tfmot` puts TFMOT's class of the same name in
their place, and the two agree bit for bit, on JAX but for ties. They are immutable: all state lives in the host's
variables, so one object may serve many layers.
"""

import abc
import dataclasses
import math

import keras
from keras import ops

EMA_DECAY = 0.999  # TFMOT's constant
INITIAL_RANGE = 6.0  # likewise: ranges start at [-6, 6]
LEAST_END = 1e-6  # upper end of a learned range: an empty one would get no gradient and stay empty


class Quantizer(abc.ABC):
    """The three-method protocol of `tfmot.quantization.keras.quantizers.Quantizer`.

    A subclass is a frozen dataclass: its fields are its configuration.

    Raises:
        ValueError: on construction, if `num_bits` is outside 2 to 16, the range of TensorFlow's fake-quant ops.

    Example:

    >>> isinstance(MovingAverageQuantizer(num_bits=8), Quantizer)
    True
    """

    has_equal_steps = False  # whether values are rounded to equal steps over `used_range`
    can_be_narrowed = False  # whether `calibrate` may set a range that leaves values out

    def __post_init__(self):
        if not 2 <= self.num_bits <= 16:
            raise ValueError(f"`num_bits` must be from 2 to 16. Received: num_bits={self.num_bits}")

    @abc.abstractmethod
    def build(self, tensor_shape, name, layer):
        """Creates the quantiser's variables on `layer`.

        Args:
            tensor_shape: shape of the tensor to be quantised; its last axis is the channel axis.
            name: prefix of the variables' names.
            layer: anything with TFMOT's `add_weight(name, initializer, trainable, shape)`.

        Returns:
            A dictionary of variables, to be passed to `__call__` as `weights`.
        """

    @abc.abstractmethod
    def __call__(self, inputs, training, weights):
        """Fake-quantises `inputs`; updates the range variables first if `training`."""

    def used_range(self, low, high):
        """The range that is rounded to, from the stored one."""
        return low, high

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class _RangeQuantizer(Quantizer):
    """A quantiser that follows the range of what it sees; a subclass says how in `_next_bound`."""

    num_bits: int = 8
    per_axis: bool = False
    symmetric: bool = False
    narrow_range: bool = False

    initial_range = (-INITIAL_RANGE, INITIAL_RANGE)
    has_equal_steps = True
    supports_per_axis = False
    is_learned = False  # whether the optimizer changes the range

    def __post_init__(self):
        super().__post_init__()
        if self.per_axis and not self.supports_per_axis:
            raise ValueError(
                f"`{type(self).__name__}` keeps one range a tensor; use `LastValueQuantizer` for ranges per axis. "
                "Received: per_axis=True"
            )

    def build(self, tensor_shape, name, layer):
        shape = tensor_shape[-1] if self.per_axis else None
        low, high = self.initial_range
        constant, learned = keras.initializers.Constant, self.is_learned
        return {
            "min_var": layer.add_weight(name + "_min", initializer=constant(low), trainable=learned, shape=shape),
            "max_var": layer.add_weight(name + "_max", initializer=constant(high), trainable=learned, shape=shape),
        }

    def __call__(self, inputs, training, weights):
        return self.quantize(inputs, training, weights, self.used_range)

    def quantize(self, inputs, training, weights, used_range):
        """As `__call__`, with the range that a function makes of the stored one."""
        if training:
            self.update_range(inputs, weights)
        return self.round(inputs, *used_range(weights["min_var"], weights["max_var"]))

    def update_range(self, inputs, weights):
        """Moves the stored range as `inputs` ask for."""
        low, high = weights["min_var"], weights["max_var"]
        seen = self.observed_range(inputs)
        low.assign(self._next_bound(low, seen[0], ops.minimum))
        high.assign(self._next_bound(high, seen[1], ops.maximum))

    def round(self, inputs, low, high):
        """`inputs`, rounded to the codes of a range."""
        return fake_quantize(inputs, low, high, self.num_bits, self.narrow_range, self.per_axis)

    def observed_range(self, inputs):
        """The `(low, high)` that would hold all of `inputs`: symmetric if asked for, and with zero inside."""
        inputs = ops.stop_gradient(inputs)
        axes = tuple(range(len(inputs.shape) - 1)) if self.per_axis else None
        low, high = ops.min(inputs, axis=axes), ops.max(inputs, axis=axes)
        if self.symmetric:
            return ops.minimum(low, _divide(high, self._high_over_low)), ops.maximum(high, low * self._high_over_low)
        return ops.minimum(low, 0.0), ops.maximum(high, 0.0)

    @property
    def _high_over_low(self):
        """The ratio of the ends of a symmetric range: with the lowest code it reaches one step further down."""
        return -1.0 if self.narrow_range else -(2**self.num_bits - 2) / 2**self.num_bits

    @abc.abstractmethod
    def _next_bound(self, current, seen, outer):
        """The new end of the range, from the stored one and this batch's; `outer` picks the wider of two."""


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class LastValueQuantizer(_RangeQuantizer):
    """Takes the range of the latest training batch: TFMOT's choice for weights.

    Args:
        num_bits: bits a value, 2 to 16; files of integers hold 8 at most.
        per_axis: one range for each index of the last axis, instead of one for the tensor.
        symmetric: centre the range on zero.
        narrow_range: leave out the lowest code, as in [-127, 127].

    Example:

    >>> LastValueQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True).num_bits
    4
    """

    supports_per_axis = True

    def _next_bound(self, current, seen, outer):
        return seen


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class MovingAverageQuantizer(_RangeQuantizer):
    """Follows the range by an exponential moving average of decay 0.999: TFMOT's choice for activations.

    From its initial [-6, 6] such an average needs thousands of steps to arrive; `keras_mnv4.qat.calibrate` sets it
    from data at once. The arguments are those of `LastValueQuantizer`, `per_axis` excepted.

    Example:

    >>> MovingAverageQuantizer(num_bits=8).num_bits
    8
    """

    can_be_narrowed = True

    def _next_bound(self, current, seen, outer):
        return current - (current - seen) * (1.0 - EMA_DECAY)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class AllValuesQuantizer(_RangeQuantizer):
    """Widens its range to hold every value that it was ever trained on.

    The arguments are those of `LastValueQuantizer`, `per_axis` excepted.

    Example:

    >>> AllValuesQuantizer(num_bits=8, symmetric=True, narrow_range=True).num_bits
    8
    """

    initial_range = (0.0, 0.0)

    def observed_range(self, inputs):
        low, high = super().observed_range(inputs)
        if self.symmetric:  # TFMOT takes the upper end back from the lower one here, which can be an ulp more
            high = ops.maximum(high, low * self._high_over_low)
        return low, high

    def _next_bound(self, current, seen, outer):
        return outer(outer(current, seen), 0.0)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class LearnedRangeQuantizer(_RangeQuantizer):
    """Learns its range by gradient descent, as the weights are learned.

    Values beyond an end of the range pull that end with their gradient, as TensorFlow's fake-quant op has it; those
    inside pull both ends by their rounding error, which is what lets a range shrink that holds every value. Start from
    a range that fits: `quantize_model` sets those of weights, `calibrate` those of activations.

    Leave ranges out of weight decay: `optimizer.exclude_from_weight_decay(var_names=qat.RANGE_NAMES)`, before the first
    step. TFMOT has no such quantiser, so this one runs on TensorFlow, too.

    Source: Esser et al., "Learned Step Size Quantization" (arXiv 1902.08153), sections 2.1 and 2.2; the offset that is
    learned with the step is that of Bhalgat et al., "LSQ+" (arXiv 2004.09576).

    Args:
        num_bits: bits a value, 2 to 16; files of integers hold 8 at most.
        per_axis: one range for each index of the last axis, instead of one for the tensor.
        symmetric: centre the range on zero; then only the distance of its ends is learned.
        narrow_range: leave out the lowest code.
        gradient_scale: scale the gradient of the range so that its step, the range over the number of steps in it,
            moves as in the paper, whose gradient has the factor `1 / sqrt(n * q)`: n values share a range, and q is the
            largest code. The step then moves by about as large a share of itself as weights do. Optimizers such as
            Adam, which scale gradients themselves, take no notice.

    Example:

    >>> weights = LearnedRangeQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True)
    >>> four_bits = Policy((Rule(".*", weights=weights, outputs=LearnedRangeQuantizer(num_bits=4)),))
    """

    gradient_scale: bool = True

    supports_per_axis = True
    can_be_narrowed = True
    is_learned = True

    def quantize(self, inputs, training, weights, used_range):
        low, high = (ops.convert_to_tensor(weights[name]) for name in ("min_var", "max_var"))
        if training and self.gradient_scale:
            low, high = (self._scale_gradient(end, inputs) for end in (low, high))
        low, high = used_range(low, high)
        outputs = fake_quantize(inputs, low, high, self.num_bits, self.narrow_range, self.per_axis)
        return outputs + self._pull_of_rounding(inputs, outputs, low, high) if training else outputs

    def _next_bound(self, current, seen, outer):
        return current

    def used_range(self, low, high):
        """The range to round to: symmetric if asked for; with zero inside and never empty, whatever was learned."""
        low_over_high = 1.0 / self._high_over_low
        if self.symmetric:
            high = (high - low) / (1.0 - low_over_high)
        high = with_gradient_of(high, ops.maximum(high, LEAST_END))
        return low_over_high * high if self.symmetric else with_gradient_of(low, ops.minimum(low, 0.0)), high

    def _scale_gradient(self, end, inputs):
        """`end`, whose gradient is scaled on the way back.

        A step moves the range by as many times itself as there are steps, and so much larger is its gradient; each end
        has half of either.
        """
        sides = ops.shape(inputs)[:-1] if self.per_axis else ops.shape(inputs)
        count = math.prod(ops.cast(side, "float32") for side in sides)
        steps = _steps(self.num_bits, self.narrow_range)
        largest_code = steps // 2 if self.symmetric else steps
        return with_gradient_of(end * ops.rsqrt(count * largest_code) * (steps**2 / 2), end)

    def _pull_of_rounding(self, inputs, outputs, low, high):
        """Zero, with the gradient that the rounding errors of the values inside the range give its width."""
        is_inside = ops.logical_and(inputs > low, inputs < high)
        errors = ops.where(is_inside, ops.stop_gradient(outputs - inputs), 0.0)
        width = high - low
        shares = errors / ops.stop_gradient(ops.where(width > 0.0, width, 1.0))
        return with_gradient_of(shares * width, ops.zeros_like(inputs))


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class FixedQuantizer(Quantizer):
    """Keeps one range, known beforehand: for pictures and for the output of a softmax.

    Args:
        num_bits: bits a value, 2 to 16; files of integers hold 8 at most.
        init_min: lower end of the range, at most 0.
        init_max: upper end of the range, at least 0.
        narrow_range: leave out the lowest code.

    Raises:
        ValueError: if zero is not inside the range: padding could not be represented.

    Example:

    >>> probability = FixedQuantizer(num_bits=8, init_min=0.0, init_max=255 / 256)
    """

    num_bits: int = 8
    init_min: float = -INITIAL_RANGE
    init_max: float = INITIAL_RANGE
    narrow_range: bool = False

    has_equal_steps = True

    def __post_init__(self):
        super().__post_init__()
        if not self.init_min <= 0.0 <= self.init_max or self.init_min == self.init_max:
            raise ValueError(
                "`init_min` and `init_max` must enclose zero. "
                f"Received: init_min={self.init_min}, init_max={self.init_max}"
            )

    def build(self, tensor_shape, name, layer):
        return {}

    def __call__(self, inputs, training, weights):
        return fake_quantize(
            inputs, self.init_min, self.init_max, self.num_bits, self.narrow_range, is_constant_range=True
        )


def fake_quantize(inputs, low, high, num_bits, narrow_range=False, per_axis=False, is_constant_range=False):
    """Rounds to the grid of `2**num_bits` codes over `[low, high]`, with a straight-through gradient.

    The same values as TensorFlow's `fake_quant_with_min_max_vars`, to the bit, but for ties, which JAX can decide the
    other way: of 8 bits, four in a million values. The range is shifted until zero lies on the grid; values beyond it
    saturate, and pass their gradient to that end of the range. On the TensorFlow backend it *is* that op, which is what
    the TFLite converter looks for. (`keras.quantizers.fake_quant_with_min_max_vars` is one ulp off on JAX when per
    channel, and gives NaN for a channel of zeros.)

    Args:
        inputs: float tensor.
        low: lower end of the range, at most 0: a scalar, or one value for each index of the last axis.
        high: upper end of the range, at least 0, of the same shape.
        num_bits: bits a value, 2 to 16; files of integers hold 8 at most.
        narrow_range: leave out the lowest code.
        per_axis: whether `low` and `high` hold one value for each index of the last axis.
        is_constant_range: round as TensorFlow's `fake_quant_with_min_max_args` does, which differs from the above by
            one ulp before rounding, and so at ties.

    Returns:
        A tensor of the shape and dtype of `inputs`.
    """
    if keras.backend.backend() == "tensorflow":
        axis = len(inputs.shape) - 1 if per_axis else None
        return keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high, num_bits, narrow_range, axis)

    ends = (ops.convert_to_tensor(end, "float32") for end in (low, high))
    return _round_portably(ops.convert_to_tensor(inputs), *ends, num_bits, narrow_range, is_constant_range)


def _round_portably(inputs, low, high, num_bits, narrow_range, is_constant_range):
    """`fake_quantize` in `keras.ops`, with the gradients of TensorFlow's op for all three tensors."""

    @ops.custom_gradient
    def straight_through(x, floor, ceiling):
        is_empty, width, scale, lowest, highest = _grid(floor, ceiling, num_bits, narrow_range)
        per_unit = 1.0 / scale if is_constant_range else _steps(num_bits, narrow_range) / width
        offset = ops.floor(-lowest * per_unit + 0.5)
        values = ops.cast(x, "float32")
        codes = ops.floor((ops.clip(values, lowest, highest) - lowest) * per_unit - offset + 0.5)
        result = ops.cast(ops.where(is_empty, 0.0, codes * scale), x.dtype)
        is_below = ops.logical_and(values < lowest, ops.logical_not(is_empty))
        is_above = ops.logical_and(values > highest, ops.logical_not(is_empty))

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            axes = tuple(range(len(x.shape) - len(floor.shape)))
            of_ends = (
                ops.sum(ops.cast(ops.where(is_out, upstream, 0.0), "float32"), axes) for is_out in (is_below, is_above)
            )
            return ops.where(ops.logical_or(is_below, is_above), ops.zeros_like(upstream), upstream), *of_ends

        return result, gradient

    return straight_through(inputs, low, high)


def saturates(inputs, low, high, num_bits, narrow_range=False):
    """Which of `inputs` are beyond the grid that `fake_quantize` rounds to, and get no gradient."""
    is_empty, _, _, lowest, highest = _grid(low, high, num_bits, narrow_range)
    lowest, highest = ops.where(is_empty, -math.inf, lowest), ops.where(is_empty, math.inf, highest)
    return ops.logical_or(inputs < lowest, inputs > highest)


def _grid(low, high, num_bits, narrow_range):
    """What TensorFlow's op makes of a range: whether it is empty, its width, one step, its ends with zero a code."""
    first, last = (1.0 if narrow_range else 0.0), 2.0**num_bits - 1.0
    width = high - low
    is_empty = width == 0.0
    width = ops.where(is_empty, 1.0, width)
    scale = _divide(width, _steps(num_bits, narrow_range))
    zero_code = ops.round(ops.clip(first - low / scale, first, last))
    return is_empty, width, scale, (first - zero_code) * scale, (last - zero_code) * scale


def _steps(num_bits, narrow_range):
    return 2.0**num_bits - (2.0 if narrow_range else 1.0)


def with_gradient_of(source, value):
    """`value`, to the bit, which passes its gradient on to `source`, of the same shape."""
    return ops.stop_gradient(value) + (source - ops.stop_gradient(source))


def _divide(x, constant):
    """`x / constant`, exactly: XLA would multiply by the reciprocal, one ulp off, if no data were in the divisor."""
    return x / (constant + 0.0 * x)
