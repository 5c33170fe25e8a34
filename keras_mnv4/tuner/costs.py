"""`CostModel`: what candidates of a search space cost, looked up; and limits on it."""

import contextlib
import math

from keras_mnv4.cost import TableProfiler
from keras_mnv4.cost.measures import MEASURES

STARTS = 10  # random candidates to bring within limits, where chance finds none that is


def measure_of(measure):
    """The function of a `Profile` that a name stands for; a function itself."""
    return measure if callable(measure) else MEASURES[measure]


def check_measures(measures, argument):
    """Raises a ValueError, which names the argument, unless all measures are known ones or functions."""
    unknown = [measure for measure in measures if not callable(measure) and measure not in MEASURES]
    if unknown:
        raise ValueError(f"`{argument}` must be of {tuple(MEASURES)}, or functions. Received: {unknown}")


class CostModel:
    """Costs of the candidates of a space, without building one; rows that were seen before are looked up.

    Args:
        space: a `SearchSpace`.
        limits: dictionary from measure to the most that a candidate may cost. Measures are `"macs"`, `"parameters"`,
            `"weight_bytes"`, `"ace"`, `"ace_v2"`, `"energy"`, AQT's `"linear"`, `"quadratic"` and `"memory"`, or
            functions of a `keras_mnv4.cost.Profile`.
        input_shape: `(height, width, channels)`; None for that of the space.
        classes: classes of the classifier.
        bits: those of the kernels of all blocks, where the space has none to choose, as if the network were quantised
            to them and its activations to 8; None for what it costs in float.

    Raises:
        ValueError: if a measure is not known, a limit is not above 0, or `bits` are given for a space that has its own.

    Example:

    >>> costs = CostModel(space, limits={"macs": 50e6, "ace_v2": 4e9}, input_shape=(96, 96, 3), classes=10)
    >>> costs.allows(space.sample(np.random.default_rng(0)))
    """

    def __init__(self, space, limits=None, input_shape=None, classes=1000, bits=None):
        if bits is not None and space.weight_bits:
            raise ValueError(f"`bits` are for spaces without `weight_bits`. Received: {bits}, and {space.weight_bits}")
        self.space = space
        self.bits = bits
        self.limits = dict(limits or {})
        check_measures(self.limits, "limits")
        if not all(0 < most < math.inf for most in self.limits.values()):
            raise ValueError(f"`limits` must be numbers above 0. Received: {self.limits}")
        self._profilers = {
            width: TableProfiler(input_shape, classes, None if width is None else f"w{width}a8")
            for width in (space.weight_bits or (bits,))
        }
        # What no candidate's bits touch has 8.
        self._base = self._profilers.get(None) or TableProfiler(input_shape, classes, "w8a8")

    def profile(self, candidate):
        """The `keras_mnv4.cost.Profile` of a candidate."""
        bits = self.space.bits_of(candidate, self.bits)
        profilers = {block: self._profilers[width] for block, width in bits.items()}
        return self._base.profile(self.space.architecture_of(candidate), of_blocks=profilers)

    def cost(self, candidate, measure):
        """One measure of a candidate."""
        return measure_of(measure)(self.profile(candidate))

    def excess(self, candidate):
        """How far a candidate is beyond its limits: the largest of all costs, divided by their limits, less 1."""
        profile = self.profile(candidate)
        shares = [measure_of(measure)(profile) / most for measure, most in self.limits.items()]
        return max(shares, default=0.0) - 1.0

    def bring_within(self, candidate):
        """A network within the limits, from any candidate: one decision after the other, each to what saves most.

        Of the last decision's networks within the limits it is the one that costs most.

        Raises:
            ValueError: if no decision saves anything any more.
        """
        candidate = self.space.mend(candidate)
        excess = self.excess(candidate)
        while excess > 0.0:
            found = [(self.excess(each), index, each) for index, each in enumerate(self.space.neighbors(candidate))]
            within = [each for each in found if each[0] <= 0.0]
            least, _, candidate = max(within) if within else min(found, default=(math.inf, 0, candidate))
            if least >= excess:
                raise ValueError(f"From here no network within {self.limits} is found: {candidate}")
            excess = least
        return candidate

    def allows(self, candidate):
        """Whether a candidate is within all limits."""
        return self.excess(candidate) <= 0.0

    def sample(self, random, tries=1000):
        """A random candidate within the limits: the first of many that is, or else one that is brought within them.

        Raises:
            ValueError: if none was found; the message says how close the nearest came.
        """
        nearest = float("inf")
        for _ in range(tries):
            candidate = self.space.sample(random)
            excess = self.excess(candidate)
            if excess <= 0.0:
                return candidate
            nearest = min(nearest, excess)
        for _ in range(STARTS):
            with contextlib.suppress(ValueError):
                return self.bring_within(self.space.sample(random))
        raise ValueError(
            f"None of {tries} random candidates is within {self.limits}; the nearest is {nearest:.0%} beyond. Raise "
            "the limits, or choose a space of smaller networks."
        )
