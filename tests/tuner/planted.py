"""A planted benchmark: a space whose networks have known accuracies, and what stands for a supernet of it."""

import functools
import itertools
import math

import numpy as np

from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import choice

SHAPE = (32, 32, 3)
FIRST = choice(8, 16, 24, name="first")
SPACE = tuner.SearchSpace(
    Architecture(
        "planted",
        (
            Conv(8, kernel=3, stride=2),
            UIB(FIRST, expand=choice(2, 4), start=choice(0, 3), middle=choice(3, 5), stride=2),
            choice(None, UIB(FIRST, expand=2, start=choice(0, 3), middle=choice(0, 3))),
            UIB(choice(16, 32, name="second"), expand=2, start=choice(0, 3, 5), middle=choice(0, 3), stride=2),
            choice(None, UIB(choice(16, 32, name="second"), expand=2, start=choice(0, 3), middle=choice(0, 3))),
        ),
        default_size=32,
        head_filters=None,
    )
)


def costs_of(**limits):
    return tuner.CostModel(SPACE, limits, SHAPE, classes=3)


def accuracy_of(candidate, seed=0):
    """A sum over values and over pairs of neighbouring decisions, squeezed between 0 and 1; rows left out have none."""
    present = [
        (name, str(value)) for name, value in candidate.items() if candidate.get(name.partition("/")[0]) != "none"
    ]
    single, pairs = _effects(seed)
    total = sum(single[each] for each in present)
    total += sum(pairs[each] for each in itertools.pairwise(present))
    return 1.0 / (1.0 + math.exp(-total / 4.0))


@functools.cache
def _effects(seed):
    random = np.random.default_rng(seed)
    values = [[(name, str(value)) for value in values] for name, values in SPACE.decisions.items()]
    single = {each: random.normal() for decision in values for each in decision}
    pairs = {pair: random.normal() / 2 for two in itertools.combinations(values, 2) for pair in itertools.product(*two)}
    return single, pairs


@functools.cache
def all_accuracies(seed=0):
    """Of all networks of the space, an array."""
    return np.array([accuracy_of(each, seed) for each in _all_networks()])


@functools.cache
def _all_networks():
    """A candidate for each network of the space."""
    codes = itertools.product(*(range(len(values)) for values in SPACE.decisions.values()))
    candidates = {round(accuracy_of(each), 12): each for each in map(SPACE.decode, codes)}
    return [each for each in candidates.values() if SPACE.is_network(each)]


class PlantedSupernet:
    """Has the methods of a `SuperNet`, and scores as planted."""

    def __init__(self, seed=0):
        self.space = SPACE
        self.seed = seed
        self.scored = []
        self.trainable_variables = [np.array([seed])]

    def score(self, candidate, validation_data, calibration_data=None):
        self.scored.append(candidate)
        accuracy = accuracy_of(candidate, self.seed)
        return {"accuracy": accuracy, "loss": -math.log(accuracy)}

    def extract(self, candidate):
        return ("network", candidate)


def drive(oracle, score, workers=1, random=None):
    """Carries out a search without files, by workers that take turns by chance.

    `score` is a function of a candidate; where it gives None the trial fails.
    """
    oracle.save, oracle._save_trial = lambda: None, lambda trial: None
    oracle.verbose = 0
    at_work = {}
    idle = [f"worker{number}" for number in range(workers)]
    while idle or at_work:
        if idle and (random is None or not at_work or random.random() < 0.5):
            name = idle.pop()
            trial = oracle.create_trial(name)
            if trial.status == "RUNNING":
                at_work[name] = trial
            else:
                assert trial.status == "STOPPED"  # nobody is made to ask again
        else:
            name = sorted(at_work)[0 if random is None else random.integers(len(at_work))]
            end(oracle, at_work.pop(name), score)
            idle.append(name)
    return [oracle.candidates[trial_id] for trial_id in oracle.start_order]


def end(oracle, trial, score):
    accuracy = score(oracle.candidates[trial.trial_id])
    trial.status = "INVALID" if accuracy is None else "COMPLETED"
    if accuracy is not None:
        oracle.update_trial(trial.trial_id, {"val_accuracy": accuracy})
    oracle.end_trial(trial)
