"""Evolution: its sorting by hand, what generations are made of, and that it finds what was planted."""

import hypothesis
import keras_tuner
import numpy as np
import pytest
from hypothesis import strategies
from planted import accuracy_of
from planted import all_accuracies
from planted import costs_of
from planted import drive

from keras_mnv4 import cost
from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import choice
from keras_mnv4.tuner.evolution import EvolutionOracle
from keras_mnv4.tuner.evolution import best_first
from keras_mnv4.tuner.evolution import crowding_distances
from keras_mnv4.tuner.evolution import non_dominated_fronts

pytestmark = pytest.mark.once
POINTS = strategies.lists(strategies.tuples(strategies.integers(0, 6), strategies.integers(0, 6)), min_size=1)


def test_fronts_by_hand():
    two = [(1, 5), (2, 3), (2, 4), (4, 1), (3, 3), (5, 5), (1, 5)]
    assert list(non_dominated_fronts(two)) == [[0, 1, 3, 6], [2, 4], [5]]
    three = [(1, 2, 3), (3, 2, 1), (2, 2, 2), (2, 2, 3), (3, 3, 3)]
    assert list(non_dominated_fronts(three)) == [[0, 1, 2], [3], [4]]


def test_crowding_by_hand():
    found = crowding_distances([(4, 2), (1, 5), (7, 1), (2, 3)])
    assert found.tolist() == pytest.approx([(7 - 2) / 6 + (3 - 1) / 4, np.inf, np.inf, (4 - 1) / 6 + (5 - 2) / 4])
    assert crowding_distances([(3, 1), (3, 1)]).tolist() == [0, 0]


def test_the_lonely_come_before_the_crowded():
    points = [(1, 10), (2, 9), (3, 8), (8, 3), (10, 1), (10, 10)]
    assert best_first(points, 4) == [0, 4, 3, 2]  # (10 - 3) / 9 + (8 - 1) / 9 is more than (8 - 2) / 9 + (9 - 3) / 9
    assert best_first([(3,), (1,), (2,), (1,)], 3) == [1, 3, 2]


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(points=POINTS)
def test_fronts_are_pareto_fronts_of_what_is_left(points):
    left = dict(enumerate(points))
    for front in non_dominated_fronts(points):
        places = list(left)
        pareto = cost.pareto_front([(x, -y) for x, y in left.values()])
        assert sorted(places[place] for place in pareto) == front
        left = {place: point for place, point in left.items() if place not in front}
    assert not left


def test_the_first_generation_is_drawn_by_chance():
    costs, random = costs_of(macs=400_000), np.random.default_rng(5)
    oracle = EvolutionOracle(costs, population=10, generations=1, seed=5)
    assert drive(oracle, accuracy_of) == [costs.sample(random) for _ in range(10)]


def generations(**arguments):
    """The best of a first generation, and a second one."""
    oracle = EvolutionOracle(costs_of(), population=20, generations=2, parents=4, seed=1, **arguments)
    candidates = drive(oracle, accuracy_of)
    return sorted(candidates[:20], key=accuracy_of)[-4:], candidates[20:]


def test_mutations_change_a_parent():
    parents, second = generations(mutations=5, crossovers=0, mutation_rate=1.0)
    for each in second[:5]:
        assert any(all(each[name] != parent[name] for name in each) for parent in parents)
    parents, second = generations(mutations=20, crossovers=0, mutation_rate=0.1)
    changes = [min(sum(each[name] != parent[name] for name in each) for parent in parents) for each in second]
    assert min(changes) >= 1
    assert np.mean(changes) < 4  # of 14 decisions


def test_crossovers_mix_two_parents():
    parents, second = generations(mutations=0, crossovers=20)
    for each in second:
        assert any(all(each[name] in (one[name], other[name]) for name in each) for one in parents for other in parents)


def test_the_rest_is_drawn_by_chance():
    parents, second = generations(mutations=0, crossovers=0)
    changes = [min(sum(each[name] != parent[name] for name in each) for parent in parents) for each in second]
    assert np.mean(changes) > 4


@pytest.mark.parametrize("seed", range(2))
def test_the_planted_best_is_found(seed):
    """200 of 6,000 networks are looked at: the best of them is among the best 0.1 % of all."""
    oracle = EvolutionOracle(costs_of(), population=20, generations=10, seed=seed)
    best = max(accuracy_of(each, seed) for each in drive(oracle, lambda each: accuracy_of(each, seed)))
    assert (all_accuracies(seed) > best).mean() <= 1e-3


def test_a_small_loss_is_good_as_well():
    objective = keras_tuner.Objective("val_accuracy", "min")
    oracle = EvolutionOracle(costs_of(), objective, population=20, generations=5, seed=0)
    worst = min(map(accuracy_of, drive(oracle, accuracy_of)))
    assert (all_accuracies() < worst).mean() <= 1e-2


def test_a_front_is_better_than_that_of_chance():
    costs = costs_of()

    def front_of(**arguments):
        oracle = EvolutionOracle(costs, population=20, generations=6, front=("macs",), seed=2, **arguments)
        return [(costs.cost(each, "macs"), accuracy_of(each)) for each in drive(oracle, accuracy_of)]

    found, by_chance = front_of(), front_of(mutations=0, crossovers=0)
    ends = 150_000, 700_000
    assert cost.dominated_area(found, ends) > cost.dominated_area(by_chance, ends)


def test_what_cannot_be_drawn_is_brought_within_the_limits():
    """So low a limit that chance hardly meets it."""
    costs = costs_of(parameters=2_200)
    oracle = EvolutionOracle(costs, population=4, generations=3, seed=0)
    candidates = drive(oracle, accuracy_of)
    assert all(map(costs.allows, candidates))
    assert len(candidates) > 1


def test_a_search_ends_when_all_was_handed_out():
    filters, kernels = choice(8, 16, 24, name="filters"), {"start": choice(0, 3), "middle": choice(0, 3)}
    rows = (
        Conv(8, kernel=3, stride=2),
        UIB(filters, expand=2, stride=2, **kernels),
        choice(None, UIB(filters, expand=2)),
    )
    space = tuner.SearchSpace(Architecture("tiny", rows))
    oracle = EvolutionOracle(tuner.CostModel(space, input_shape=(32, 32, 3), classes=3), population=10, seed=0)
    candidates = drive(oracle, lambda each: 0.5)
    networks = {space.architecture_of(each).blocks for each in candidates}
    assert len(networks) == len(candidates) == 3 * 3 * 2


def test_decisions_with_nothing_to_choose_stay_as_they_are():
    """Of one width, as all blocks have where a search is of 8 bits alone."""
    costs = tuner.CostModel(tuner.tiny_space(weight_bits=(8,)), input_shape=(32, 32, 3), classes=3)
    oracle = EvolutionOracle(costs, population=10, generations=2, mutations=10, crossovers=0, mutation_rate=1.0, seed=0)
    candidates = drive(oracle, lambda each: 0.5)
    assert len(candidates) > 10
    assert {bits for each in candidates for bits in costs.space.bits_of(each).values()} == {8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population": 0}, "`population` must be 1 at least. Received: 0"),
        ({"parents": 0}, "`parents` must be 1 at least"),
        ({"mutations": 40, "crossovers": 20}, "40 and 20, of 50"),
        ({"mutation_rate": 0.0}, "`mutation_rate` must be above 0"),
        ({"front": ("watts",)}, r"`front` must be of .*Received: \['watts'\]"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvolutionOracle(costs_of(), **arguments)
