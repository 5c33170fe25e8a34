"""The roofline model: how long a network takes on hardware where one waits for arithmetic or for memory."""

import dataclasses

import numpy as np

from keras_mnv4.cost.pareto import pareto_front
from keras_mnv4.cost.profile import profile_of

# By device, as the paper fitted them to measured latencies (table 16), in MACs a byte.
RIDGE_POINTS = {
    "pixel_6_cpu": 31.2,
    "galaxy_s23_cpu": 39.7,
    "pixel_4_dsp": 347.3,
    "pixel_8_edgetpu": 433.8,
}
SWEEP = (0.0, *np.geomspace(1, 500, 28).round(1).tolist())  # as the paper's figures, from MACs alone to accelerators


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """The time of one layer. The unit is the time that memory takes for a byte; with no ridge point, that of a MAC.

    Args:
        path: the layer's path.
        mac_time: time of its arithmetic, were memory free.
        memory_time: time of its weights and feature maps, were arithmetic free.
    """

    path: str
    mac_time: float
    memory_time: float

    @property
    def time(self):
        """The longer of the two, for they run side by side."""
        return max(self.mac_time, self.memory_time)

    @property
    def is_memory_bound(self):
        return self.memory_time > self.mac_time


@dataclasses.dataclass(frozen=True)
class Roofline:
    """What `roofline` finds.

    Args:
        name: name of the network.
        ridge_point: in MACs a byte.
        layers: a tuple of `LayerTime`.

    Example:

    >>> found = roofline(model, "pixel_6_cpu")
    >>> 0 <= found.memory_bound_share <= 1
    True
    """

    name: str
    ridge_point: float
    layers: tuple[LayerTime, ...]

    @property
    def time(self):
        """The sum over the layers. It ranks networks; in seconds it takes a machine's bandwidth."""
        return sum(layer.time for layer in self.layers)

    @property
    def memory_bound_share(self):
        """The part of the time that is spent in layers that wait for memory: 0 to 1."""
        waiting = sum(layer.time for layer in self.layers if layer.is_memory_bound)
        return waiting / self.time if waiting else 0.0


def roofline(model, ridge_point, bytes_per_number=1.0):
    """Estimates how long each layer of a network takes on a kind of hardware.

    A layer takes the longer of the time for its MACs and the time for its weights, inputs and outputs. Only the ratio
    of the two speeds, the ridge point, matters for how networks compare.

    Source: MobileNetV4 (arXiv 2404.10518), section 3 and appendix F. What the bytes of activations are is not defined
    there; here they are those that a layer reads and writes.

    Args:
        model: a Keras model, or a `Profile`.
        ridge_point: MACs that the hardware does in the time that it moves a byte, or a device of `RIDGE_POINTS`. 0
            stands for MACs alone, with memory for nothing.
        bytes_per_number: 1, for networks in 8 bits, which `RIDGE_POINTS` were fitted to; None for the formats that the
            model is in.

    Returns:
        A `Roofline`.

    Raises:
        ValueError: if `ridge_point` is negative or an unknown name.

    Example:

    >>> roofline(model, "pixel_8_edgetpu").memory_bound_share > roofline(model, "pixel_6_cpu").memory_bound_share
    True
    """
    if isinstance(ridge_point, str):
        if ridge_point not in RIDGE_POINTS:
            raise ValueError(
                f"`ridge_point` must be a number or one of {sorted(RIDGE_POINTS)}. Received: {ridge_point!r}"
            )
        ridge_point = RIDGE_POINTS[ridge_point]
    if ridge_point < 0:
        raise ValueError(f"`ridge_point` must not be negative. Received: {ridge_point}")
    costs = profile_of(model)
    times = []
    for layer in costs.layers:
        moved = layer.bits_moved / 8 if bytes_per_number is None else layer.numbers_moved * bytes_per_number
        # With no ridge point there is no byte to measure time in: MACs are the unit.
        mac_time, memory_time = (layer.macs / ridge_point, moved) if ridge_point else (float(layer.macs), 0.0)
        times.append(LayerTime(layer.path, mac_time, memory_time))
    return Roofline(costs.name, ridge_point, tuple(times))


def sweep(models, ridge_points=SWEEP, bytes_per_number=1.0):
    """Roofline times of several networks over ridge points.

    Args:
        models: Keras models or `Profile` objects.
        ridge_points: numbers, in MACs a byte.
        bytes_per_number: as for `roofline`.

    Returns:
        A float64 array `(models, ridge points)`, in MACs where the ridge point is 0, else in bytes.

    Example:

    >>> sweep([small, large]).shape
    (2, 29)
    """
    profiles = [profile_of(model) for model in models]
    return np.array([[roofline(each, point, bytes_per_number).time for point in ridge_points] for each in profiles])


def universally_pareto(models, qualities, ridge_points=SWEEP, bytes_per_number=1.0):
    """On how much of the sweep each network is Pareto-optimal: on which kinds of hardware it is worth having.

    Args:
        models: Keras models or `Profile` objects.
        qualities: a number for each, such as its top-1; more is better.
        ridge_points: numbers, in MACs a byte.
        bytes_per_number: as for `roofline`.

    Returns:
        For each model the share of the ridge points at which no other is both as fast and as good, and better in one of
        the two. 1.0 is universally Pareto-optimal.

    Example:

    >>> universally_pareto([small, large], [73.8, 82.9])
    [1.0, 1.0]
    """
    return on_fronts(models, qualities, ridge_points, bytes_per_number).mean(1).tolist()


def on_fronts(models, qualities, ridge_points=SWEEP, bytes_per_number=1.0):
    """At which ridge points each network is Pareto-optimal: a bool array `(models, ridge points)`.

    The arguments are those of `universally_pareto`.
    """
    found = np.zeros((len(models), len(ridge_points)), bool)
    for place, times in enumerate(sweep(models, ridge_points, bytes_per_number).T):
        found[pareto_front(list(zip(times, qualities, strict=True))), place] = True
    return found


def fit_ridge_point(models, latencies, ridge_points=SWEEP, bytes_per_number=1.0):
    """The ridge point whose rooflines rank networks most as they were measured on some hardware.

    Args:
        models: Keras models or `Profile` objects.
        latencies: a measured time for each.
        ridge_points: numbers to choose from, in MACs a byte.
        bytes_per_number: as for `roofline`.

    Returns:
        The first of the best ridge points, and its rank correlation.

    Example:

    >>> ridge_point, correlation = fit_ridge_point(models, [2.4, 11.4, 59.9])
    """
    times = sweep(models, ridge_points, bytes_per_number)
    correlations = [rank_correlation(column, latencies) for column in times.T]
    best = int(np.argmax(correlations))
    return ridge_points[best], correlations[best]


def rank_correlation(one, other):
    """Spearman's correlation of two lists: 1 if they rank alike, -1 if in reverse. Equals share their mean rank.

    Of a list whose numbers are all equal it is 0.

    Example:

    >>> rank_correlation([1, 2, 3, 4], [1, 3, 2, 4])
    0.8
    """
    ranks = []
    for values in map(np.asarray, (one, other)):
        ranks.append((values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2)
    return 0.0 if any(np.ptp(each) == 0 for each in ranks) else float(np.corrcoef(*ranks)[0, 1])
