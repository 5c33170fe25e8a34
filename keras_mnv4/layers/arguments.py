"""The arguments that layers share, checked where a layer is made: a later error would be about something else."""

import math
import numbers

DATA_FORMATS = ("channels_last", "channels_first")
PADDINGS = ("same", "symmetric")
ANTI_ALIASING = (None, "average", "blur")


def check_one_of(name, value, known):
    """Raises unless the argument `name` is one of a tuple of values."""
    if value not in known:
        raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")


def check_whole(name, value):
    """Raises unless the argument `name` is one whole number above 0."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be one whole number above 0. Received: {name}={value!r}")


def check_kernel_size(name, size, or_zero=False):
    """Raises unless the argument `name` is a kernel size; with `or_zero`, 0 and None are for no kernel at all."""
    if or_zero and not size:
        return
    if not isinstance(size, numbers.Integral) or size < 1 or size % 2 == 0:
        alternative = ", or 0" if or_zero else ""
        raise ValueError(f"`{name}` must be a positive odd number{alternative}. Received: {name}={size!r}")


def check_ratio(name, ratio, or_none=False):
    """Raises unless the argument `name` is a number above 0; with `or_none`, or None."""
    if or_none and ratio is None:
        return
    if not isinstance(ratio, numbers.Real) or not 0 < ratio < math.inf:
        alternative = ", or None" if or_none else ""
        raise ValueError(f"`{name}` must be a number above 0{alternative}. Received: {name}={ratio!r}")


def check_rate(name, rate):
    """Raises unless the argument `name` is a number from 0 up to but not including 1."""
    if not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1. Received: {name}={rate!r}")


def check_anti_aliasing(anti_aliasing, strides):
    """Raises unless there is such anti-aliasing, and the strides are those that it is for."""
    check_one_of("anti_aliasing", anti_aliasing, ANTI_ALIASING)
    if anti_aliasing is not None and strides > 2:
        raise ValueError(f"Anti-aliasing is for strides of 2. Received: {strides=}, {anti_aliasing=}")


def check_unused(layer, given, unused):
    """Raises if a layer is given an argument that it has no use for, and not as its configuration has it.

    Args:
        layer: the layer.
        given: dictionary of the arguments given.
        unused: dictionary of those that it has no use for, to their values in configurations.
    """
    for name, value in unused.items():
        if given.get(name, value) != value:
            raise ValueError(
                f"`{type(layer).__name__}` has no use for `{name}`: leave it out. Received: {name}={given[name]!r}"
            )
