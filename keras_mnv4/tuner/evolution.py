"""`EvolutionOracle`: the evolutionary search of SPOS as an oracle for Keras Tuner."""

import numpy as np

from keras_mnv4.tuner.costs import check_measures
from keras_mnv4.tuner.oracle import COMPLETED
from keras_mnv4.tuner.oracle import CandidateOracle

TRIES = 500  # before a candidate is brought within the limits rather than drawn again


class EvolutionOracle(CandidateOracle):
    """Generations of candidates, each made of the best of those before.

    The first generation is drawn by chance; the others are mutations of a parent, crossovers of two, and candidates
    drawn by chance. Parents are the best of all earlier generations. All candidates are within the limits of `costs`,
    and none is handed out twice; a search ends early if it finds no more.

    Workers need not wait for each other: what of earlier generations is not back yet, or has failed, is no parent.

    With a `front`, candidates are compared by the objective and by what they cost, as in NSGA-II: those that no other
    dominates come first, the lonely before the crowded. The search is then for a curve rather than for one network.

    Source: Guo et al., "Single Path One-Shot Neural Architecture Search" (arXiv 1904.00420), section 3.4, constants
    of the code of "Data-Free Neural Architecture Search via Recursive Label Calibration" (arXiv 2112.02086). For the
    front: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (2002).

    Args:
        costs: a `CostModel`, of the space to search in.
        objective: a `keras_tuner.Objective`; None for the largest `"val_accuracy"`.
        population: candidates of a generation.
        generations: number of generations.
        parents: number of candidates that mutations and crossovers are made of.
        mutations: number of mutations in a generation; None for half of it.
        crossovers: number of crossovers in a generation; None for half of it. The rest is drawn by chance.
        mutation_rate: probability that a mutation changes a decision.
        front: measures of `costs` that are to be small as well.
        seed: seed of all random numbers; None for another one each time.
        **kwargs: others of `keras_tuner.Oracle`.

    Raises:
        ValueError: if a number is not possible, a measure not known, or no network within the limits.

    Example:

    >>> costs = CostModel(space, {"macs": 50e6}, input_shape=(96, 96, 3), classes=10)
    >>> tuner = UIBTuner(supernet, EvolutionOracle(costs, seed=0), costs, directory="search")
    >>> tuner.search(validation_data=(pictures, labels))
    """

    def __init__(
        self,
        costs,
        objective=None,
        population=50,
        generations=20,
        parents=10,
        mutations=None,
        crossovers=None,
        mutation_rate=0.1,
        front=(),
        seed=None,
        **kwargs,
    ):
        for name, value in {"population": population, "generations": generations, "parents": parents}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be 1 at least. Received: {value}")
        mutations = population // 2 if mutations is None else mutations
        crossovers = population // 2 if crossovers is None else crossovers
        if min(mutations, crossovers) < 0 or mutations + crossovers > population:
            raise ValueError(
                f"`mutations` and `crossovers` must have room in a generation. Received: {mutations} and {crossovers}, "
                f"of {population}"
            )
        if not 0 < mutation_rate <= 1:
            raise ValueError(f"`mutation_rate` must be above 0 and 1 at most. Received: {mutation_rate}")
        check_measures(front, "front")
        super().__init__(costs, objective, population * generations, seed, **kwargs)
        self.population, self.parents = population, parents
        self.mutations, self.crossovers, self.mutation_rate = mutations, crossovers, mutation_rate
        self.front = tuple(front)
        self._codes = {}  # from trial to what `network_code` says of its candidate
        self._costs = {}  # from trial to what its candidate costs, by the measures of the front

    def propose(self, trial_id):
        generation, place = divmod(int(trial_id), self.population)
        parents = self._parents_of(generation)
        if place < self.mutations and parents:
            candidate = self._new(lambda: self._mutate(parents))
        elif place < self.mutations + self.crossovers and len(parents) > 1:
            candidate = self._new(lambda: self._cross(parents))
        else:
            candidate = None
        candidate = candidate or self._new(lambda: self.space.sample(self._random))
        if candidate is not None:
            self._codes[trial_id] = self.space.network_code(candidate)
        return candidate

    def set_state(self, state):
        super().set_state(state)
        self._codes = {trial_id: self.space.network_code(each) for trial_id, each in self.candidates.items()}
        self._costs = {}

    def _parents_of(self, generation):
        known = [
            trial_id
            for trial_id in dict.fromkeys(self.end_order)
            if int(trial_id) < generation * self.population
            and self.trials[trial_id].status == COMPLETED
            and self.costs.allows(self.candidates[trial_id])
        ]
        if not known:
            return []
        sign = -1.0 if self.objective.direction == "max" else 1.0
        points = [(sign * self.trials[trial_id].score, *self._costs_of(trial_id)) for trial_id in known]
        return [self.candidates[known[place]] for place in best_first(points, self.parents)]

    def _costs_of(self, trial_id):
        if trial_id not in self._costs:
            candidate = self.candidates[trial_id]
            self._costs[trial_id] = tuple(self.costs.cost(candidate, measure) for measure in self.front)
        return self._costs[trial_id]

    def _new(self, draw):
        """A candidate within the limits that was not handed out before; None if none is found."""
        handed_out = set(self._codes.values())
        for _ in range(TRIES):
            candidate = draw()
            is_new = self.space.network_code(candidate) not in handed_out
            if is_new and self.space.is_network(candidate) and self.costs.allows(candidate):
                return candidate
        candidate = self.bring_within(candidate)
        is_new = candidate is not None and self.space.network_code(candidate) not in handed_out
        return candidate if is_new else None

    def _mutate(self, parents):
        parent = parents[self._random.integers(len(parents))]
        return {
            name: self._other(values, parent[name]) if self._random.random() < self.mutation_rate else parent[name]
            for name, values in self.space.decisions.items()
        }

    def _other(self, values, value):
        others = [each for each in values if each != value] or [value]
        return others[self._random.integers(len(others))]

    def _cross(self, parents):
        pair = [parents[place] for place in self._random.choice(len(parents), 2, replace=False)]
        return {name: pair[self._random.integers(2)][name] for name in self.space.decisions}


def best_first(points, count):
    """Places of the best points, the best first: front after front, the lonely before the crowded.

    Args:
        points: tuples of numbers that are to be small.
        count: how many at most.

    Returns:
        A list of places; of points that are equally good, in the order they came.
    """
    array = np.asarray(points, "float64")
    order = []
    for front in non_dominated_fronts(array):
        distances = crowding_distances(array[front])
        order += [front[place] for place in np.argsort(-distances, kind="stable")]
        if len(order) >= count:
            break
    return order[:count]


def non_dominated_fronts(points):
    """Sorts points into fronts: the first is dominated by none, each further one by those before it only.

    A point dominates another if it is as small in every number, and smaller in one.

    Source: Deb et al. (2002), section III A.

    Args:
        points: tuples of numbers that are to be small.

    Yields:
        Lists of places in `points`.

    Example:

    >>> list(non_dominated_fronts([(1, 4), (2, 2), (4, 1), (3, 3), (4, 4)]))
    [[0, 1, 2], [3], [4]]
    """
    array = np.asarray(points, "float64")
    no_larger = (array[:, None] <= array[None]).all(-1)  # (points, points)
    dominates = no_larger & ~no_larger.T
    dominators = dominates.sum(0)
    while (front := np.flatnonzero(dominators == 0)).size:
        yield front.tolist()
        dominators -= dominates[front].sum(0)
        dominators[front] = -1  # done


def crowding_distances(points):
    """How lonely each point of a front is: the distance between its two neighbours, by each number, summed.

    Numbers are measured by the range that the front has of them. The first and the last by a number have no second
    neighbour: their distance is infinite. A number that all points share says nothing.

    Source: Deb et al. (2002), section III B.

    Args:
        points: tuples of numbers.

    Returns:
        A NumPy array.
    """
    array = np.asarray(points, "float64")
    distances = np.zeros(len(array))
    for column in array.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        if spread > 0:
            distances[order[[0, -1]]] = np.inf
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distances
