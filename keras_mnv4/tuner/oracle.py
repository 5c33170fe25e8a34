"""`CandidateOracle`: what oracles that hand out candidates have in common, and a state that a kill leaves whole."""

import os

import keras_tuner
import numpy as np

from keras_mnv4.files import write_json

RUNNING, STOPPED, COMPLETED, FAILED = "RUNNING", "STOPPED", "COMPLETED", "FAILED"  # Keras Tuner's words


def hyperparameter_values(candidate):
    """A candidate as the values that `SearchSpace.to_hyperparameters` reads."""
    return {name: str(value) for name, value in candidate.items()}


class CandidateOracle(keras_tuner.Oracle):
    """Hands out candidates within limits, one a trial. Subclasses say which, by `propose`.

    Where Keras Tuner's own oracles can be left with half a file by a kill, this one writes whole files, and its
    random numbers go on where they were: a search by one process that was killed ends as one that was not. Where those
    raise after too many failures in a row, and leave a chief waiting, this one hands out no more trials.

    Args:
        costs: a `CostModel`, of the space to search in. All candidates are within its limits.
        objective: a `keras_tuner.Objective`; None for the largest `"val_accuracy"`.
        max_trials: number of trials.
        seed: seed of all random numbers; None for another one each time.
        **kwargs: others of `keras_tuner.Oracle`.

    Raises:
        ValueError: if the limits are so low that no network is found within them, or the objective is not of one
            measure.
    """

    def __init__(self, costs, objective=None, max_trials=None, seed=None, **kwargs):
        objective = objective or keras_tuner.Objective("val_accuracy", "max")
        if isinstance(objective, (list, tuple)):
            raise ValueError(f"`objective` must be one measure. Received: {objective}")
        super().__init__(objective=objective, max_trials=max_trials, seed=seed, **kwargs)
        if seed is not None:
            self.seed = self._seed_state = seed  # Keras Tuner takes 0 for no seed
        self.costs, self.space = costs, costs.space
        self.candidates = {}  # from trial to candidate
        self.has_given_up = False
        self._random = np.random.default_rng(self.seed)
        self.space.to_hyperparameters(self.hyperparameters)
        costs.bring_within(self.space.sample(np.random.default_rng(self.seed)))  # raises now rather than in a search

    def propose(self, trial_id):
        """The candidate of a new trial, or None to end the search."""
        raise NotImplementedError(f"{type(self).__name__} must implement `propose`")

    def populate_space(self, trial_id):
        candidate = None if self.has_given_up else self.propose(trial_id)
        if candidate is None:
            return {"status": STOPPED}
        self.candidates[trial_id] = candidate
        return {"status": RUNNING, "values": hyperparameter_values(candidate)}

    def bring_within(self, candidate):
        """`CostModel.bring_within`, but None where it finds no network."""
        try:
            return self.costs.bring_within(candidate)
        except ValueError:
            return None

    def get_state(self):
        return {**super().get_state(), "random": self._random.bit_generator.state}

    def set_state(self, state):
        if state["hyperparameters"]["space"] != self.hyperparameters.get_config()["space"]:
            raise ValueError(
                f"'{self._project_dir}' has a search of another space: give another `project_name`, or overwrite=True."
            )
        # The state is saved a moment before a trial that has ended is taken off those at work.
        settled = {*state["end_order"], *state["retry_queue"]}
        at_work = {tuner: trial_id for tuner, trial_id in state["ongoing_trials"].items() if trial_id not in settled}
        super().set_state({**state, "ongoing_trials": at_work})
        # A trial is written down a moment before the state knows of it: it is handed out anew.
        self.trials = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        self.candidates = {
            trial_id: self.space.to_hyperparameters(trial.hyperparameters) for trial_id, trial in self.trials.items()
        }
        self._random.bit_generator.state = state["random"]

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        write_json(os.path.join(self._get_trial_dir(trial.trial_id), "trial.json"), trial.get_state())

    def _check_consecutive_failures(self):
        last = [self.trials[trial_id].status for trial_id in self.end_order[-self.max_consecutive_failed_trials :]]
        self.has_given_up |= last.count(FAILED) == self.max_consecutive_failed_trials
