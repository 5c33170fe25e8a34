"""A study as a Keras Tuner search: what lets several processes share its runs."""

import tempfile

import keras_tuner

from keras_mnv4.cost.study import Run

NAMES = ("network", "width", "policy", "seed")


class RunOracle(keras_tuner.Oracle):
    """Hands out the runs of a list, one after the other.

    Args:
        runs: `Run` objects.
    """

    def __init__(self, runs):
        super().__init__(objective=keras_tuner.Objective("top1_eval", "max"), max_trials=len(runs))
        self.runs = runs
        for name in NAMES:
            self.hyperparameters.Choice(name, sorted({getattr(run, name) for run in runs}))

    def populate_space(self, trial_id):
        run = self.runs[int(trial_id)]
        return {"status": "RUNNING", "values": {name: getattr(run, name) for name in NAMES}}


class StudyTuner(keras_tuner.Tuner):
    """Carries out the runs that a chief, or its own oracle, hands out. Records are the study's business.

    Args:
        study: a `ParetoStudy`.
        **kwargs: those of `keras_tuner.Tuner`.
    """

    def __init__(self, study, **kwargs):
        super().__init__(**kwargs)
        self.study = study

    def run_trial(self, trial):
        values = trial.hyperparameters.values
        try:
            record = self.study.carry_out(Run(**{name: values[name] for name in NAMES}))
        except Exception as error:  # Keras Tuner would note it down and go on
            raise keras_tuner.errors.FatalRuntimeError(f"A run of the study failed: {values}") from error
        return {"top1_eval": record["top1_eval"]}


def run_all(study, runs, verbose):
    """Carries out `runs`; as the chief of several processes, waits until they have."""
    with tempfile.TemporaryDirectory() as folder:  # what was done is known from the records
        oracle = RunOracle(runs)
        oracle.verbose = verbose
        tuner = StudyTuner(study, oracle=oracle, directory=folder)
        try:
            tuner.search()
        except keras_tuner.errors.FatalRuntimeError as error:
            raise error.__cause__ from None
