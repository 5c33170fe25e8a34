"""Cost against quality: which points are worth having, and how much one curve is better than another."""

import numpy as np


def pareto_front(points):
    """The points that no other dominates: none costs as little and is as good, and better in one of the two.

    Args:
        points: `(cost, quality)` pairs; less cost is better, and more quality.

    Returns:
        Their places in `points`, by rising cost. Equal points are all on the front, or none is.

    Raises:
        ValueError: if a number is missing (NaN).

    Example:

    >>> pareto_front([(3, 0.9), (1, 0.5), (2, 0.4)])
    [1, 0]
    """
    array = _array(points)
    front, best, cost_of_best = [], -np.inf, -np.inf
    for place in np.lexsort((-array[:, 1], array[:, 0])):
        cost, quality = array[place]
        if quality > best:
            best, cost_of_best = quality, cost
        elif quality < best or cost > cost_of_best:
            continue
        front.append(int(place))
    return front


def dominates(points, others):
    """Whether one set of points makes another needless: for each of the others, there is one that dominates it.

    Args:
        points: `(cost, quality)` pairs; less cost is better, and more quality.
        others: likewise.

    Returns:
        True if for each of `others` one of `points` costs as little and is as good, and is better in one of the two.

    Raises:
        ValueError: if a number is missing (NaN).

    Example:

    >>> dominates([(1, 0.5), (2, 0.9)], [(2, 0.5), (4, 0.9)])
    True
    """
    points = _array(points)
    differences = points[:, None] - _array(others)[None]  # (points, others, 2)
    no_worse = (differences[..., 0] <= 0) & (differences[..., 1] >= 0)
    return bool((no_worse & (differences != 0).any(-1)).any(0).all())


def dominated_area(points, cost_range, worst_quality=0.0, log_cost=False):
    """The area below the front of `points`: the mean over costs of the best quality to be had for the cost or less.

    Args:
        points: `(cost, quality)` pairs.
        cost_range: `(least, most)`: the costs to look at. What costs more is left out; what costs less counts from the
            least on.
        worst_quality: the quality of having nothing.
        log_cost: whether the mean is over the logarithm of the cost.

    Returns:
        The area divided by the width of the range, so that it is a quality. The difference of two sets of points says
        how much better one is on average at the same cost.

    Raises:
        ValueError: if the range is empty, or from zero on with `log_cost`, or a number is missing (NaN).

    Example:

    >>> dominated_area([(1, 0.5), (3, 0.9)], cost_range=(1, 5))
    0.7
    """
    least, most = (float(end) for end in cost_range)
    if not least < most or (log_cost and least <= 0):
        raise ValueError(f"`cost_range` must rise, from above 0 if `log_cost`. Received: {cost_range}, {log_cost=}")
    array = _array(points)
    front = array[pareto_front(points)] if len(array) else array
    front = front[(front[:, 0] <= most) & (front[:, 1] > worst_quality)]
    edges = np.concatenate(([least], np.clip(front[:, 0], least, most), [most]))
    if log_cost:
        edges = np.log(edges)
    heights = np.concatenate(([worst_quality], front[:, 1]))
    return float(np.sum(np.diff(edges) * heights) / (edges[-1] - edges[0]))


def _array(points):
    array = np.asarray(points, "float64").reshape(-1, 2)
    if np.isnan(array).any():
        raise ValueError(f"Every point needs a cost and a quality. Received: {points}")
    return array
