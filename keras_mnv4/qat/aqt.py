"""AQT: the quantisers and policies of the networks in "Pareto-Optimal Quantized ResNet Is Mostly 4-bit".

What goes into a convolution is rounded, kernel and feature map, and nothing else: normalisations, sums and activations
stay in float. Training starts with rounded kernels and float feature maps, whose statistics are collected meanwhile; at
one step the bounds of feature maps are computed from them, and are kept from then on.

Source: Abdolrashidi et al. (arXiv 2105.03536) and the code of AQT that its tables were made with, `aqt.jax_legacy`.
"""

import dataclasses

import keras
from keras import ops

from keras_mnv4.qat.policies import ENDS
from keras_mnv4.qat.policies import POLICIES
from keras_mnv4.qat.policies import Policy
from keras_mnv4.qat.policies import Rule
from keras_mnv4.qat.quantizers import LastValueQuantizer
from keras_mnv4.qat.quantizers import Quantizer

EPSILON = 2.0**-23  # of float32, added to every bound
NOT_YET = -1.0  # in the place of a bound: what is seen is left as it is

# What is known of a batch: the values that are looked at, a mask of those that count, their number, the axes.
STATISTICS = {
    "minimum": lambda values, mask, count, axes: ops.min(ops.where(mask, values, float("inf")), axes),
    "maximum": lambda values, mask, count, axes: ops.max(ops.where(mask, values, -float("inf")), axes),
    "absolute": lambda values, mask, count, axes: ops.sum(ops.where(mask, ops.abs(values), 0.0), axes) / count,
    "square": lambda values, mask, count, axes: ops.sum(ops.where(mask, ops.square(values), 0.0), axes) / count,
}
# Which of them a bound is computed from, besides the minimum, which tells the sign; and how: the quantiser `q` has the
# coefficients, and `mean` holds their moving averages.
BOUNDS = {
    "mean_of_max": (("maximum",), lambda q, mean: ops.maximum(ops.abs(mean["maximum"]), ops.abs(mean["minimum"]))),
    "absdev": (("absolute",), lambda q, mean: q.coefficient * mean["absolute"]),
    "rms": (("square",), lambda q, mean: q.coefficient * ops.sqrt(mean["square"])),
    "mixed": (
        ("absolute", "square"),
        lambda q, mean: q.coefficient * (q.mix * ops.sqrt(mean["square"]) + (1 - q.mix) * mean["absolute"]),
    ),
    "fixed": ((), lambda q, mean: ops.full_like(mean["minimum"], q.fixed_bound)),
}


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class AQTWeightQuantizer(LastValueQuantizer):
    """Rounds to the nearest multiple of a step, half upwards; the largest absolute value is the largest code.

    The range is always that of the values themselves, in training and at inference. Gradients pass straight through.

    Args:
        num_bits: bits a value, 2 to 16. The lowest code is left out: 4 bits are -7 to 7.
        per_axis: a step for each index of the last axis, instead of one for the tensor.

    Raises:
        ValueError: if `num_bits` is outside 2 to 16, or if it is not to be symmetric.

    Example:

    >>> AQTWeightQuantizer(num_bits=4)(np.array([[-1.0], [0.5]]), training=False, weights={})  # -7 and 4 sevenths
    """

    per_axis: bool = True
    symmetric: bool = True
    narrow_range: bool = True

    has_equal_steps = False  # over a range that stays: they follow the values

    def __post_init__(self):
        super().__post_init__()
        if not self.symmetric or not self.narrow_range:
            raise ValueError("AQT's weights are symmetric: leave `symmetric` and `narrow_range` as they are.")

    def __call__(self, inputs, training, weights):
        if training:
            self.update_range(inputs, weights)
        return self.round(inputs, *self.observed_range(inputs))

    def observed_range(self, inputs):
        values = ops.abs(ops.stop_gradient(inputs))
        bound = ops.max(values, tuple(range(len(inputs.shape) - 1)) if self.per_axis else None)
        return -bound, bound

    def round(self, inputs, low, high):
        return round_as_aqt(inputs, high, self.num_bits, is_signed=True)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class AQTActivationQuantizer(Quantizer):
    """Rounds feature maps within bounds that are computed once, in the midst of training.

    Statistics of each training batch go into moving averages, which start from zero. At `start_step` the bounds are
    computed from them; before, values pass unrounded. `keras_mnv4.qat.calibrate` sets bounds from data at once, which
    are kept.

    Values that may be negative are rounded as weights are. Others, such as those behind a relu, are cut down to
    multiples of a step, `2**num_bits` of which are the bound. Gradients pass within the bounds.

    Args:
        num_bits: bits a value, 2 to 16.
        per_axis: bounds for each index of the last axis, as the paper has them, instead of for the tensor. Integer
            convolutions cannot have them.
        signed: whether values may be negative; None finds out from those seen.
        bound: how bounds follow from the averages. `"mean_of_max"`: the largest absolute value; `"absdev"`:
            `coefficient` times the absolute deviation from zero; `"rms"`: `coefficient` times the root of the mean
            square; `"mixed"`: `mix` times the latter and `1 - mix` times the former; `"fixed"`: `fixed_bound`.
        coefficient: see `bound`.
        mix: see `bound`.
        fixed_bound: see `bound`.
        start_step: training steps before bounds are computed, for this many and one batches.
        momentum: share of the old in a moving average.
        exclude_zeros: leave zeros out of the statistics.

    Raises:
        ValueError: if `bound` is none of these, or a number is out of its range.

    Example:

    >>> four_bits = AQTActivationQuantizer(num_bits=4, start_step=1000)
    """

    num_bits: int = 8
    per_axis: bool = True
    signed: bool | None = None
    bound: str = "mean_of_max"
    coefficient: float = 3.0
    mix: float = 0.0
    fixed_bound: float = 6.0
    start_step: int = 7500
    momentum: float = 0.9
    exclude_zeros: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.bound not in BOUNDS:
            raise ValueError(f"`bound` must be one of {tuple(BOUNDS)}. Received: bound={self.bound!r}")
        if not isinstance(self.start_step, int) or self.start_step < 0:
            raise ValueError(f"`start_step` must be a whole number from 0 on. Received: {self.start_step!r}")
        for name in ("momentum", "mix"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` must be from 0 to 1. Received: {getattr(self, name)!r}")
        for name in ("coefficient", "fixed_bound"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"`{name}` must be positive. Received: {getattr(self, name)!r}")

    def build(self, tensor_shape, name, layer):
        shape = tensor_shape[-1] if self.per_axis else None

        def variable(suffix, value, shape=shape):
            initializer = keras.initializers.Constant(value)
            return layer.add_weight(f"{name}_{suffix}", initializer=initializer, trainable=False, shape=shape)

        return {
            "min_var": variable("min", 0.0),
            "max_var": variable("max", NOT_YET),
            "steps": variable("steps", 0.0, shape=None),
            **{statistic: variable(statistic, 0.0) for statistic in self._used},
        }

    def __call__(self, inputs, training, weights):
        if training:
            self.update_range(inputs, weights)
        low, high = (ops.convert_to_tensor(weights[name]) for name in ("min_var", "max_var"))
        return ops.where(high < 0.0, inputs, self.round(inputs, low, high))

    def update_range(self, inputs, weights):
        """Moves the averages as `inputs` ask for; computes bounds if it is time to, and they are not there yet."""
        seen, is_any = self._statistics(inputs)
        averages = {}
        for name in self._used:
            old = ops.convert_to_tensor(weights[name])
            averages[name] = old + (1.0 - self.momentum) * ops.where(is_any, seen[name] - old, 0.0)
            weights[name].assign(averages[name])
        steps, current = weights["steps"], [ops.convert_to_tensor(weights[name]) for name in ("min_var", "max_var")]
        is_time = ops.logical_and(ops.equal(steps, float(self.start_step)), current[1] < 0.0)
        for name, old, new in zip(("min_var", "max_var"), current, self._range_from(averages), strict=True):
            weights[name].assign(ops.where(is_time, new, old))
        steps.assign(steps + 1.0)

    def observed_range(self, inputs):
        """The range that this batch alone asks for."""
        seen, is_any = self._statistics(inputs)
        return self._range_from({name: ops.where(is_any, value, 0.0) for name, value in seen.items()})

    def round(self, inputs, low, high):
        """`inputs`, rounded to the codes of a range, which is signed if it begins below zero."""
        return round_as_aqt(inputs, high, self.num_bits, is_signed=low < 0.0)

    @property
    def _used(self):
        return ("minimum", *BOUNDS[self.bound][0])

    def _statistics(self, inputs):
        """The statistics of a batch, and whether there was any value for them."""
        values = ops.stop_gradient(inputs)
        axes = tuple(range(len(inputs.shape) - 1)) if self.per_axis else None
        mask = ops.not_equal(values, 0.0) if self.exclude_zeros else ops.ones_like(values, "bool")
        count = ops.sum(ops.cast(mask, "float32"), axes)
        least_one = ops.maximum(count, 1.0)
        return {name: STATISTICS[name](values, mask, least_one, axes) for name in self._used}, count > 0.0

    def _range_from(self, averages):
        bound = BOUNDS[self.bound][1](self, averages)
        if self.signed is None:
            return ops.where(averages["minimum"] < 0.0, -bound, 0.0), bound
        return -bound if self.signed else ops.zeros_like(bound), bound


def round_as_aqt(inputs, bound, num_bits, is_signed):
    """Rounds to multiples of a step: to the nearest, half upwards, if signed; downwards if not.

    Source: `aqt.jax_legacy.jax.quantization.QuantOps` and `primitives`.

    Args:
        inputs: float tensor.
        bound: the largest absolute value: a scalar, or one value for each index of the last axis.
        num_bits: bits a value.
        is_signed: whether codes are `-(2**(num_bits - 1) - 1)` and its opposite at the ends, the latter standing for
            the bound; or 0 and `2**num_bits - 1`, the code beyond standing for the bound. A boolean, or a tensor of the
            shape of `bound`.

    Returns:
        A float32 tensor of the shape of `inputs`. Its gradient passes where no value was cut off; as in AQT, half of it
        where a value was just not, for that is the derivative that JAX gives the larger of two equal numbers.
    """
    inputs, bound = ops.cast(inputs, "float32"), ops.cast(bound, "float32")
    is_signed = ops.logical_and(is_signed, ops.ones_like(bound, "bool"))
    top, codes = 2.0 ** (num_bits - 1) - 1.0, 2.0**num_bits
    first, last = ops.where(is_signed, -top, 0.0), ops.where(is_signed, top, codes - 1.0)
    per_unit = ops.where(is_signed, top, codes) / (bound + EPSILON)
    step, half = 1.0 / per_unit, ops.where(is_signed, 0.5, 0.0)  # XLA, too, multiplies by the step

    @ops.custom_gradient
    def rounded(values):
        scaled = values * per_unit
        outputs = ops.clip(ops.floor(scaled + half), first, last) * step

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            clipped = ops.where(is_signed, scaled, ops.floor(scaled))
            is_inside = ops.logical_and(clipped > first, clipped < last)
            is_end = ops.logical_or(ops.equal(clipped, first), ops.equal(clipped, last))
            return upstream * ops.where(is_inside, 1.0, ops.where(is_end, 0.5, 0.0))

        return outputs, gradient

    return rounded(inputs)


def aqt_policy(weight_bits=4, activation_bits=4, first_last_bits=None, activations=None, ends=ENDS):
    """The policy of the paper's networks: kernels and what they are convolved with are rounded, all else is not.

    It trains from scratch: see `AQTActivationQuantizer` for when what happens. Networks under it tell what bits are
    worth; for a file of integers, quantise with `"w4a8"` or another policy that rounds behind layers.

    One thing is not as in AQT's configurations: there the first convolution of every stage takes signed inputs,
    although they come from a relu. Here signs are found out. To have it, put `Rule("block_2/conv_1",
    weights=AQTWeightQuantizer(4), inputs=...)` and so on in front, with inputs of `signed=True`.

    Args:
        weight_bits: bits of kernels.
        activation_bits: bits of what goes into convolutions.
        first_last_bits: bits of both in the first and the last layer; None for the same as elsewhere.
        activations: an `AQTActivationQuantizer` for all that is not its bits; None for AQT's, a bound for each channel
            from step 7500 on.
        ends: regular expression for the paths of the first and the last layer. The default is how this package calls
            them; networks of other layers have their own names.

    Example:

    >>> quickly = AQTActivationQuantizer(per_axis=False, start_step=200)
    >>> quantize_model(ResNet18(classes=10), aqt_policy(4, 4, first_last_bits=8, activations=quickly))
    """
    activations = activations or AQTActivationQuantizer()

    def rule(pattern, weight_bits, activation_bits):
        inputs = dataclasses.replace(activations, num_bits=activation_bits)
        return Rule(pattern, weights=AQTWeightQuantizer(weight_bits), inputs=inputs)

    ends = () if first_last_bits is None else (rule(ends, first_last_bits, first_last_bits),)
    suffix = "" if first_last_bits is None else f"_first_last_{first_last_bits}"
    rules = (*ends, rule(".*", weight_bits, activation_bits))
    return Policy(rules, name=f"aqt_w{weight_bits}a{activation_bits}{suffix}")


for _policy in (aqt_policy(8, 8), aqt_policy(4, 4), aqt_policy(4, 4, first_last_bits=8)):
    POLICIES[_policy.name] = _policy
