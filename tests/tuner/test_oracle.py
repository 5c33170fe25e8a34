"""What both oracles promise: limits, seeds, several workers, failures, and searches that are killed."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from planted import SPACE
from planted import PlantedSupernet
from planted import accuracy_of
from planted import costs_of
from planted import drive
from planted import end

from keras_mnv4 import tuner
from keras_mnv4.tuner import oracle as oracle_module
from keras_mnv4.tuner import uib_tuner
from keras_mnv4.tuner.evolution import EvolutionOracle
from keras_mnv4.tuner.reinforce import ReinforceOracle
from keras_mnv4.tuner.uib_tuner import UIBTuner

pytestmark = pytest.mark.once
LIMIT = 400_000
TRIALS = 15


def evolution(seed=0, **arguments):
    arguments = {"population": 5, "generations": 3, "parents": 3, "front": ("macs",), **arguments}
    return EvolutionOracle(costs_of(macs=LIMIT), seed=seed, **arguments)


def reinforce(seed=0, **arguments):
    arguments = {"max_trials": TRIALS, "targets": {"macs": 300_000}, "learning_rate": 0.1, **arguments}
    return ReinforceOracle(costs_of(macs=LIMIT), seed=seed, **arguments)


both = pytest.mark.parametrize("make", [evolution, reinforce])


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(seed=strategies.integers(0, 2**32 - 1))
def test_active_decisions_are_those_that_change_the_network(seed):
    random = np.random.default_rng(seed)
    candidate = SPACE.sample(random)
    active = SPACE.active_decisions(candidate)
    changed = {
        name
        for name, values in SPACE.decisions.items()
        for value in values
        if _network(candidate) != _network({**candidate, name: value})
    }
    assert active == changed
    hidden = {name: values[random.integers(len(values))] for name, values in SPACE.decisions.items()}
    hidden |= {name: candidate[name] for name in active}
    assert SPACE.network_code(hidden) == SPACE.network_code(candidate)


def _network(candidate):
    return SPACE.architecture_of(candidate).blocks if SPACE.is_network(candidate) else None


def test_bits_of_a_row_that_is_left_out_do_not_count():
    space = tuner.tiny_space(weight_bits=(4, 8))
    candidate = {**space.largest, "block_3": "none"}
    assert set(space.decisions) - space.active_decisions(candidate) == {
        name for name in space.decisions if name.startswith("block_3/")
    }


@both
def test_a_seed_makes_a_search(make):
    searches = [drive(make(seed), accuracy_of) for seed in (0, 0, 1)]
    assert searches[0] == searches[1] != searches[2]


@both
@hypothesis.settings(max_examples=3, deadline=None)
@hypothesis.given(seed=strategies.integers(0, 1000), workers=strategies.integers(1, 30))
def test_workers_need_not_wait(make, seed, workers):
    """They take turns by chance, and every fifth trial fails."""
    random = np.random.default_rng(seed)
    found = make(seed, max_consecutive_failed_trials=TRIALS + 1)
    candidates = drive(found, lambda each: accuracy_of(each) if random.random() < 0.8 else None, workers, random)
    assert len(candidates) == len(found.end_order) == TRIALS
    assert all(map(found.costs.allows, candidates))
    if make is evolution:
        assert len({SPACE.network_code(each) for each in candidates}) == TRIALS


@both
def test_a_search_ends_when_all_fails(make):
    found = make()
    candidates = drive(found, lambda each: None, workers=2)
    assert found.has_given_up
    assert 3 <= len(candidates) <= 4


@both
def test_values_stand_for_their_candidate(make):
    found = make()
    found.save, found._save_trial, found.verbose = lambda: None, lambda trial: None, 0
    for _ in range(TRIALS):
        trial = found.create_trial("tuner")
        assert SPACE.to_hyperparameters(trial.hyperparameters) == found.candidates[trial.trial_id]
        end(found, trial, accuracy_of)


def search(make, folder, **arguments):
    found = make()
    try:
        UIBTuner(PlantedSupernet(), found, found.costs, directory=folder, **arguments).search(None, verbose=0)
    finally:
        found.verbose = 0
    return found


def outcome(found):
    return [(trial_id, found.candidates[trial_id], found.trials[trial_id].score) for trial_id in found.end_order]


class Killed(BaseException):
    """Nothing that a search would catch."""


@both
def test_a_search_that_was_killed_ends_as_if_it_was_not(make, tmp_path, monkeypatch):
    """Killed again and again, a file later each time, so between any two that a trial writes; each is whole or not."""
    left = []  # files that may be written before the kill

    def write(path, content):
        if left and not left.pop():
            raise Killed
        write_json(path, content)

    write_json = oracle_module.write_json
    monkeypatch.setattr(oracle_module, "write_json", write)
    monkeypatch.setattr(uib_tuner, "write_json", write)
    expected = search(make, tmp_path / "whole")
    for count in (20, *range(1, 12)):  # a trial writes eight files
        left[:] = [False] + [True] * count
        with pytest.raises(Killed):
            search(make, tmp_path / "killed")
    found = search(make, tmp_path / "killed")
    assert outcome(found) == outcome(expected)
    if make is reinforce:
        assert found.best_candidate() == expected.best_candidate()
        assert found.controller.get_state() == expected.controller.get_state()


@both
def test_a_search_that_gave_up_goes_on(make, tmp_path):
    class Failing(PlantedSupernet):
        def score(self, *arguments):
            raise OSError("no space left")

    found = make()
    search = UIBTuner(Failing(), found, found.costs, directory=tmp_path)
    with pytest.raises(RuntimeError, match="no space left"):
        search.search(None, verbose=0)
    assert len(found.end_order) == 3
    found = make()
    UIBTuner(PlantedSupernet(), found, found.costs, directory=tmp_path).search(None, verbose=0)
    assert len(found.end_order) == TRIALS


@both
def test_a_folder_is_for_one_space(make, tmp_path):
    search(make, tmp_path)
    other = tuner.tiny_space()
    costs = tuner.CostModel(other, input_shape=(32, 32, 3), classes=3)
    supernet = PlantedSupernet()
    supernet.space = other
    with pytest.raises(ValueError, match="a search of another space"):
        UIBTuner(supernet, EvolutionOracle(costs, seed=0), costs, directory=tmp_path)
    UIBTuner(supernet, EvolutionOracle(costs, seed=0), costs, directory=tmp_path, overwrite=True)


def test_a_folder_is_for_one_kind_of_oracle(tmp_path):
    search(evolution, tmp_path)
    with pytest.raises(RuntimeError, match="overwrite=True"):
        search(reinforce, tmp_path)


@both
def test_states_are_json(make):
    found = make()
    drive(found, accuracy_of)
    state = found.get_state()
    assert json.loads(json.dumps(state)).keys() == state.keys()


@both
def test_bad_arguments(make):
    with pytest.raises(ValueError, match="`objective` must be one measure"):
        make(objective=["val_accuracy", "val_loss"])
    with pytest.raises(ValueError, match="no network within"):
        EvolutionOracle(costs_of(macs=1000))
