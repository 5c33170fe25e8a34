import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from keras_mnv4 import cost

pytestmark = pytest.mark.once
numbers = strategies.integers(1, 20)
point_sets = strategies.lists(strategies.tuples(numbers, numbers), min_size=1, max_size=12)


def dominates(one, other):
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@hypothesis.given(point_sets)
def test_the_front_is_what_nothing_dominates(points):
    expected = {place for place, point in enumerate(points) if not any(dominates(each, point) for each in points)}
    front = cost.pareto_front(points)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [points[place][0] for place in front] == sorted(points[place][0] for place in front)


@hypothesis.given(point_sets, numbers)
def test_the_area_is_the_mean_of_the_best_quality_for_the_cost(points, least):
    most = least + 7
    best = [max((quality for cost_, quality in points if cost_ <= each), default=0) for each in range(least, most)]
    assert cost.dominated_area(points, (least, most)) == pytest.approx(np.mean(best))


@hypothesis.given(point_sets, point_sets)
def test_more_points_never_dominate_less(points, more):
    assert cost.dominated_area(points + more, (1, 21)) >= cost.dominated_area(points, (1, 21)) - 1e-12


def test_the_area_over_the_logarithm():
    assert cost.dominated_area([(1, 0.5), (10, 0.9)], (1, 100), log_cost=True) == pytest.approx(0.7)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="needs a cost"):
        cost.pareto_front([(1, float("nan"))])
    with pytest.raises(ValueError, match="cost_range"):
        cost.dominated_area([(1, 1)], (5, 5))
    with pytest.raises(ValueError, match="cost_range"):
        cost.dominated_area([(1, 1)], (0, 5), log_cost=True)
    assert cost.pareto_front([]) == []
