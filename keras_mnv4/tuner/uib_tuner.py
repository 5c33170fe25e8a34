"""`UIBTuner`: a Keras Tuner search whose trials are scored on a supernet."""

import hashlib
import json
import math
import pathlib

import keras
import keras_tuner

from keras_mnv4.cost import pareto_front
from keras_mnv4.files import atomic_file
from keras_mnv4.files import write_json
from keras_mnv4.plans import check_plan
from keras_mnv4.plans import fingerprint
from keras_mnv4.tuner.costs import check_measures
from keras_mnv4.tuner.oracle import COMPLETED
from keras_mnv4.tuner.oracle import hyperparameter_values

RECORDS = "records"
SUPERNET = "supernet.json"  # by what the supernet is known again that the records are of


class UIBTuner(keras_tuner.Tuner):
    """Scores the candidates that an oracle hands out, with the weights of a supernet: nothing is trained.

    What a candidate scored is written down as soon as it is known, in a record that is whole or not there. A candidate
    that has a record is not scored again, so that the same call in a new process goes on where the last one was
    stopped, or killed. Processes share a search as Keras Tuner's distributed search does: one with the environment
    variable `KERASTUNER_TUNER_ID=chief`, which hands out candidates, and as many others as there is room for, with
    names of their own; `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT` and `directory` are the same for all. One that
    was killed is to be started again under its name: the chief waits for it.

    Oracles of Keras Tuner's own will do as well. They know nothing of limits: what they hand out is brought within
    them first.

    Args:
        supernet: a `SuperNet`, trained.
        oracle: an `EvolutionOracle`, a `ReinforceOracle`, or another `keras_tuner.Oracle`.
        costs: the `CostModel` of the search.
        measures: further measures, beside those of the limits, to report for each candidate.
        log_dir: folder for TensorBoard, None for none: accuracy, costs and the best objective so far, by trial.
        directory: folder for searches; None for the current one.
        project_name: name of the search's folder there.
        overwrite: whether to begin anew and remove what there is.
        **kwargs: others of `keras_tuner.Tuner`.

    Raises:
        ValueError: if a measure is not known, the objective is none that is measured, or the folder has a search of
            another space.

    Example:

    >>> costs = CostModel(space, {"macs": 50e6}, input_shape=(96, 96, 3), classes=10)
    >>> tuner = UIBTuner(supernet, EvolutionOracle(costs, front=("macs",), seed=0), costs, directory="search")
    >>> tuner.search(validation_data=(pictures, labels), calibration_data=training_pictures)
    >>> [(each["accuracy"], each["costs"]["macs"]) for each in tuner.front("macs")]
    """

    def __init__(
        self,
        supernet,
        oracle,
        costs,
        measures=(),
        log_dir=None,
        directory=None,
        project_name=None,
        overwrite=False,
        **kwargs,
    ):
        check_measures(measures, "measures")
        # A worker has nothing to remove: the chief has, before the first trial.
        overwrite = overwrite and not self._is_worker()
        super().__init__(oracle, directory=directory, project_name=project_name, overwrite=overwrite, **kwargs)
        self.supernet, self.costs = supernet, costs
        self.space = supernet.space
        self.space.to_hyperparameters(oracle.hyperparameters)
        self._measures = _by_name((*costs.limits, *measures))
        known = _logs({"accuracy": 0.0, "loss": 0.0, "costs": dict.fromkeys(self._measures, 0.0)})
        if not oracle.objective.has_value(known):
            raise ValueError(f"The oracle's `objective` must be of {', '.join(known)}. Received: {oracle.objective}")
        self._log_dir = log_dir
        self._writer = None
        self._verbose = 0

    def search(self, validation_data, calibration_data=None, verbose=1):
        """Scores candidates until the oracle has no more.

        Args:
            validation_data: what candidates are scored on, as for `SuperNet.score`.
            calibration_data: as for `SuperNet.score`.
            verbose: 0 for silence, 1 for a line for each trial.

        Raises:
            ValueError: if the folder has scores of other weights, such as those of the supernet before it was trained
                further.
            RuntimeError: if so many trials failed in a row that the oracle gave up; not in a worker.
        """
        # Statistics are left out: `recalibrate` changes them, and a score takes its own.
        weights = fingerprint(map(keras.ops.convert_to_numpy, self.supernet.trainable_variables))
        check_plan(pathlib.Path(self.project_dir) / SUPERNET, {"supernet": weights}, "scores", "project_name")
        self._verbose = verbose
        try:
            super().search(validation_data, calibration_data, verbose=0)
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        if getattr(self.oracle, "has_given_up", False):
            last = self.oracle.trials[self.oracle.end_order[-1]]
            raise RuntimeError(
                f"Trials failed one after the other. Of the last: {last.message or 'its process has said why'}"
            )

    def run_trial(self, trial, validation_data, calibration_data=None, verbose=0):
        candidate = self._candidate_of(trial)
        return _logs(self.record(candidate) or self._score(candidate, validation_data, calibration_data))

    def record(self, candidate):
        """What is known of a candidate, a dictionary as `results` gives; None if it was not scored."""
        path = self._path(candidate)
        return json.loads(path.read_text()) if path.exists() else None

    def results(self):
        """All candidates that were scored, the best first: by the oracle's objective.

        Returns:
            A list of dictionaries of `"candidate"`, `"accuracy"`, `"loss"` and `"costs"`, which is a dictionary from
            measure to cost.
        """
        paths = sorted((pathlib.Path(self.project_dir) / RECORDS).glob("*.json"))
        return sorted((json.loads(path.read_text()) for path in paths), key=self._quality, reverse=True)

    def best_candidate(self):
        """The best candidate within the limits.

        Raises:
            ValueError: if none was scored yet.
        """
        results = self._results_within()
        if not results:
            raise ValueError(f"'{self.project_dir}' has no results yet within the limits: call `search` first.")
        return results[0]["candidate"]

    def _quality(self, record):
        """How good a candidate is, by the oracle's objective; the larger the better."""
        objective = self.oracle.objective
        return objective.get_value(_logs(record)) * (1 if objective.direction == "max" else -1)

    def _results_within(self):
        """`results`, without those of a search of other limits that was gone on with."""
        return [each for each in self.results() if self.costs.allows(each["candidate"])]

    def best_architecture(self):
        """The `Architecture` of the best candidate, which `build_network` builds."""
        return self.space.architecture_of(self.best_candidate())

    def front(self, measure):
        """The candidates within the limits that are worth their cost: none that costs less is as good, or better.

        Args:
            measure: a name or a function, as in the limits of a `CostModel`.

        Returns:
            A list as `results` gives, by rising cost.

        Raises:
            ValueError: if there is no such measure.
        """
        check_measures((measure,), "measure")
        results = self._results_within()
        known = next((name for name, each in self._measures.items() if each == measure), None)
        points = [
            (each["costs"].get(known) or self.costs.cost(each["candidate"], measure), self._quality(each))
            for each in results
        ]
        return [results[place] for place in pareto_front(points)]

    def save_results(self, path, overwrite=False):
        """Writes all results into a JSON file, the best first, each with the rows of its table.

        Args:
            path: the file to make.
            overwrite: whether an existing file may be replaced.

        Raises:
            FileExistsError: if it exists and `overwrite` is False.
        """
        results = [
            {
                **each,
                "architecture": [row.to_dict() for row in self.space.architecture_of(each["candidate"]).blocks],
                "weight_bits": self.space.bits_of(each["candidate"]),
            }
            for each in self.results()
        ]
        with atomic_file(path, overwrite) as temporary:
            temporary.write_text(json.dumps(results, indent=1))

    def load_model(self, trial):
        """The network of a trial, with the supernet's weights; Keras Tuner's `get_best_models` asks for it."""
        return self.supernet.extract(self._candidate_of(trial))

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        if trial.status == COMPLETED and (self._verbose or self._log_dir is not None):
            self._report(trial)

    def save(self):
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def _candidate_of(self, trial):
        hyperparameters = trial.hyperparameters
        candidate = self.costs.bring_within(self.space.to_hyperparameters(hyperparameters))
        hyperparameters.values.update(hyperparameter_values(candidate))
        return candidate

    def _score(self, candidate, validation_data, calibration_data):
        scores = self.supernet.score(candidate, validation_data, calibration_data)
        scores = {name: float(scores[name]) for name in ("accuracy", "loss")}
        if not all(map(math.isfinite, scores.values())):
            raise ValueError(f"The supernet has no score for {candidate}: {scores}")
        costs = {name: float(self.costs.cost(candidate, measure)) for name, measure in self._measures.items()}
        record = {"candidate": candidate, **scores, "costs": costs}
        path = self._path(candidate)
        path.parent.mkdir(exist_ok=True)
        write_json(path, record)
        return record

    def _path(self, candidate):
        code = ",".join(map(str, self.space.network_code(candidate)))
        return pathlib.Path(self.project_dir) / RECORDS / f"{hashlib.sha256(code.encode()).hexdigest()[:32]}.json"

    def _report(self, trial):
        record = self.record(self._candidate_of(trial))
        best = self.oracle.get_best_trials()[0].score
        if self._verbose:
            costs = "".join(f"  {name} {cost:.4g}" for name, cost in record["costs"].items())
            objective = self.oracle.objective.name
            print(f"trial {trial.trial_id}  accuracy {record['accuracy']:.2%}{costs}  best {objective} {best:.4f}")
        if self._log_dir is not None:
            values = {"accuracy": record["accuracy"], "loss": record["loss"], **record["costs"], "best": best}
            self._log(values, int(trial.trial_id))

    def _log(self, values, step):
        if self._writer is None:
            from tensorboard.summary import Writer  # it loads TensorFlow, if there is one

            self._writer = Writer(str(pathlib.Path(self._log_dir) / self.tuner_id))
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


def _logs(record):
    """What an objective may be about, by Keras' names."""
    return {"val_accuracy": record["accuracy"], "val_loss": record["loss"], **record["costs"]}


def _by_name(measures):
    """Measures by what their costs are called in records."""
    found = {}
    for measure in measures:
        name = getattr(measure, "__name__", None) if callable(measure) else measure
        if name is None or found.setdefault(name, measure) != measure:
            raise ValueError(f"Measures that are functions must have names of their own. Received: {measures}")
    return found
