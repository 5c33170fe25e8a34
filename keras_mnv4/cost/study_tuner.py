"""A study as a Keras Tuner search: what lets several processes share its runs."""

import tempfile

import keras_tuner

RUN = "run"


class RunOracle(keras_tuner.Oracle):
    """Hands out the runs of a list, one after the other, and goes on where one fails.

    Args:
        names: names of runs.
    """

    def __init__(self, names):
        super().__init__(
            objective=keras_tuner.Objective("top1_eval", "max"),
            max_trials=len(names),
            max_consecutive_failed_trials=len(names) + 1,
        )
        self.names = names
        self.hyperparameters.Choice(RUN, names)

    def populate_space(self, trial_id):
        return {"status": "RUNNING", "values": {RUN: self.names[int(trial_id)]}}


class StudyTuner(keras_tuner.Tuner):
    """Carries out the runs that a chief, or its own oracle, hands out. Records are the study's business.

    Args:
        study: a `ParetoStudy`.
        **kwargs: those of `keras_tuner.Tuner`.
    """

    def __init__(self, study, **kwargs):
        super().__init__(**kwargs)
        self.study = study
        self.runs = {run.name: run for run in study.runs}
        self.errors = []

    def run_trial(self, trial):
        try:
            record = self.study.carry_out(self.runs[trial.hyperparameters.get(RUN)])
        except Exception as error:
            self.errors.append(error)
            raise
        return {"top1_eval": record["top1_eval"]}


def run_all(study, runs, verbose):
    """Carries out `runs`; as the chief of several processes, waits until they have.

    Raises:
        Exception: what the first run that failed in this process raised.
        RuntimeError: in the chief, if any failed.
    """
    oracle = RunOracle([run.name for run in runs])
    oracle.verbose = verbose
    with tempfile.TemporaryDirectory() as folder:  # what was done is known from the records
        tuner = StudyTuner(study, oracle=oracle, directory=folder)
        tuner.search()
    if tuner.errors:
        raise tuner.errors[0]
    failed = [run.name for run in runs if study.record(run) is None]
    if failed and tuner.oracle is oracle:  # a worker's is the chief's, and others may still be at work
        raise RuntimeError(f"These runs failed; their processes say why: {', '.join(failed)}")
