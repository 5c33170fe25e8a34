"""The hypermodel in Keras Tuner's own tuners."""

import itertools

import keras_tuner
import numpy as np
import pytest

from keras_mnv4 import tuner

SHAPE = (32, 32, 3)


def pictures(count):
    random = np.random.default_rng(0)
    return random.integers(0, 255, (count, *SHAPE)).astype("float32"), random.integers(0, 3, count)


@pytest.mark.once
def test_a_bayesian_search_comes_near_the_planted_best(tmp_path):
    """As in Keras Tuner's guide, but for the objective: the more it costs within the limit, the better."""

    class Planted(keras_tuner.BayesianOptimization):
        def run_trial(self, trial, *args, **kwargs):
            self.hypermodel.build(trial.hyperparameters)
            return {"score": costs.cost(hypermodel.candidate_of(trial.hyperparameters), "macs")}

    space = tuner.tiny_space()
    hypermodel = tuner.UIBHyperModel(space, limits={"macs": 130_000}, input_shape=SHAPE, classes=3)
    costs = hypermodel.costs
    search = Planted(
        hypermodel,
        objective=keras_tuner.Objective("score", "max"),
        max_trials=15,
        seed=0,
        directory=tmp_path,
    )
    search.search(verbose=0)
    codes = itertools.product(*(range(len(values)) for values in space.decisions.values()))
    scores = [costs.cost(each, "macs") for each in filter(space.is_network, map(space.decode, codes))]
    allowed = sorted(score for score in scores if score <= 130_000)
    (best,) = search.oracle.get_best_trials()
    assert allowed[int(0.9 * len(allowed))] <= best.score <= 130_000
    for trial in search.oracle.trials.values():
        assert trial.status == "COMPLETED"
        assert costs.allows(space.to_hyperparameters(trial.hyperparameters))  # what was built is what is written down


@pytest.mark.slow
def test_a_random_search_trains(tmp_path):
    hypermodel = tuner.UIBHyperModel(tuner.tiny_space(), input_shape=SHAPE, classes=3)
    search = keras_tuner.RandomSearch(hypermodel, objective="accuracy", max_trials=2, seed=1, directory=tmp_path)
    search.search(*pictures(16), epochs=1, verbose=0)
    best = search.get_best_models()[0]
    assert best.output_shape == (None, 3)
