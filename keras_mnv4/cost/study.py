"""`ParetoStudy`: networks of several widths, trained under several policies, for curves of quality over cost.

Source: "Pareto-Optimal Quantized ResNet Is Mostly 4-bit" (arXiv 2105.03536).
"""

import dataclasses
import io
import itertools
import json
import pathlib
import shutil

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_mnv4.cost.arithmetic import Arithmetic
from keras_mnv4.cost.measures import MEASURES
from keras_mnv4.cost.pareto import dominated_area
from keras_mnv4.cost.pareto import dominates
from keras_mnv4.cost.pareto import pareto_front
from keras_mnv4.cost.profile import profile
from keras_mnv4.files import make_folder
from keras_mnv4.files import write_json
from keras_mnv4.qat import FakeQuantize
from keras_mnv4.qat import get_policy
from keras_mnv4.qat import quantize_model

# As such networks were trained: normalisations and changes of scale in bfloat16.
ARITHMETIC = Arithmetic(norms="float", rescaling="float", float_format="bfloat16")
SCORES = ("top1_train", "top1_eval")
PLAN = "study.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One network of a study.

    Args:
        network: its name in the study.
        width: its width multiplier.
        policy: the name of its policy in the study.
        seed: seed of its weights, and of Keras's random numbers in training.

    Example:

    >>> Run("resnet18", width=0.5, policy="w4a4", seed=0).name
    'resnet18_0.5_w4a4_0'
    """

    network: str
    width: float
    policy: str
    seed: int

    @property
    def name(self):
        return f"{self.network}_{self.width:g}_{self.policy}_{self.seed}"


class ParetoStudy:
    """A grid of networks, trained one by one; what each costs and how good it is are kept as soon as it is known.

    The same call in a new process goes on where the last one was stopped, or killed: a record is either whole or not
    there. Processes that are started as Keras Tuner's distributed search is share the runs: one with the environment
    variable `KERASTUNER_TUNER_ID=chief`, which hands them out, and as many others as there is room for, with names of
    their own, which train; `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT` and `directory` are the same for all. One
    that was killed is to be started again under its name: the chief waits for it.

    Args:
        directory: folder for the records, `<run>.json` each; made if it is not there.
        networks: dictionary from name to a function of a width that gives a new float model.
        widths: width multipliers.
        policies: dictionary from name to a `keras_mnv4.qat.Policy`, or the name of one; None for networks as they are.
        seeds: seeds, one run each.
        train: function of a model, as built and quantised, its `Run`, and a folder for backups, which is removed once
            the record is there. It trains the model and returns a dictionary of numbers, `"top1_train"` and
            `"top1_eval"` among them, from 0 to 1.
        settings: what else decides about results, such as the epochs: a dictionary, kept in every record. A folder is
            for one: that of other settings, or other policies of the same names, is refused.

    Raises:
        ValueError: if one of `networks`, `widths`, `policies` and `seeds` is empty, or there is no policy of a name.

    Example:

    >>> activations = AQTActivationQuantizer(start_step=1000)  # within the training
    >>> study = ParetoStudy(
    ...     "study",
    ...     networks={"resnet18": lambda width: ResNet18(alpha=width, classes=10, input_shape=(32, 32, 3))},
    ...     widths=(0.25, 0.5, 1.0),
    ...     policies={"float": None, "w4a4": aqt_policy(4, 4, first_last_bits=8, activations=activations)},
    ...     seeds=(0, 1),
    ...     train=train,
    ... )
    >>> study.run()
    >>> print(study_report(study.records()))
    """

    def __init__(self, directory, networks, widths, policies, seeds, train, settings=None):
        self.directory = pathlib.Path(directory)
        self.networks = dict(networks)
        self.policies = {name: None if policy is None else get_policy(policy) for name, policy in policies.items()}
        self.train = train
        self.settings = json.loads(json.dumps(settings or {}))
        grid = itertools.product(self.networks, map(float, widths), self.policies, map(int, seeds))
        self.runs = tuple(Run(*values) for values in grid)
        if not self.runs:
            raise ValueError("`networks`, `widths`, `policies` and `seeds` must hold one value each at least.")

    def run(self, verbose=1):
        """Trains all networks that have no record yet. A run that fails does not keep others from theirs.

        Args:
            verbose: 0 for silence, 1 for Keras Tuner's lines.

        Raises:
            ValueError: if the folder is one of other settings or policies.
            Exception: what the first of the runs that failed in this process raised.
            RuntimeError: in the chief, if any failed.
        """
        from keras_mnv4.cost.study_tuner import run_all

        make_folder(self.directory)
        self._check_plan()
        missing = [run for run in self.runs if self.record(run) is None]
        if missing:
            run_all(self, missing, verbose)

    def carry_out(self, run):
        """Trains one network, unless it has a record, and gives its record.

        Raises:
            ValueError: if `train` gives other scores than it is to, or has ended before all quantisers began to round.
        """
        record = self.record(run)
        if record is None:
            backups = self.directory / "backups" / run.name
            model = self.build(run)
            costs = costs_of(model)
            scores = _checked(self.train(model, run, backups))
            _check_rounding(model, run)
            is_float = self.policies[run.policy] is None
            record = {**scores, **dataclasses.asdict(run), "is_float": is_float, **costs, "settings": self.settings}
            write_json(self._path(run), record)
            shutil.rmtree(backups, ignore_errors=True)
            keras.backend.clear_session()
        return record

    def build(self, run):
        """The network of a run, before it is trained."""
        keras.utils.set_random_seed(run.seed)
        model, policy = self.networks[run.network](run.width), self.policies[run.policy]
        return model if policy is None else quantize_model(model, policy)

    def record(self, run):
        """The record of a run, a dictionary; None if there is none."""
        path = self._path(run)
        return json.loads(path.read_text()) if path.exists() else None

    def records(self):
        """The records of all runs that are done."""
        return [record for record in map(self.record, self.runs) if record is not None]

    def _path(self, run):
        return self.directory / f"{run.name}.json"

    def _check_plan(self):
        """Raises if the folder is one of another study; if it is new, writes down of which it is."""
        path = self.directory / PLAN
        policies = {name: None if each is None else each.to_json() for name, each in self.policies.items()}
        plan = json.loads(path.read_text()) if path.exists() else {"settings": self.settings, "policies": {}}
        differing = [name for name in policies if plan["policies"].get(name, policies[name]) != policies[name]]
        if plan["settings"] != self.settings or differing:
            raise ValueError(
                f"'{self.directory}' has records of settings {plan['settings']}, not {self.settings}"
                + (f", and of other policies called {', '.join(differing)}" if differing else "")
                + ": give the study another `directory`."
            )
        write_json(path, {"settings": self.settings, "policies": {**plan["policies"], **policies}})


def _checked(scores):
    scores = {name: float(score) for name, score in scores.items()}
    if not all(0 <= scores.get(name, -1) <= 1 for name in SCORES):
        raise ValueError(f"`train` must return {' and '.join(SCORES)}, from 0 to 1. Received: {scores}")
    return scores


def _check_rounding(model, run):
    idle = [
        layer.path for layer in model._flatten_layers() if isinstance(layer, FakeQuantize) and not layer.is_rounding
    ]
    if idle:
        raise ValueError(
            f"Training of {run.name} ended before {len(idle)} quantisers began to round, `{idle[0]}` the first: lower "
            "the `start_step` of the policy's `AQTActivationQuantizer`, or train for longer."
        )


def costs_of(model):
    """What a study notes of a network's cost, a dictionary: for one picture, what is not quantised in bfloat16.

    Args:
        model: a Functional Keras model of a fixed input size.
    """
    costs = profile(model, arithmetic=ARITHMETIC)
    return {name: cost(costs) for name, cost in MEASURES.items()}


def study_curves(records, cost="linear", score="top1_eval"):
    """Cost and quality of each network of a study, by policy.

    Args:
        records: dictionaries, as `ParetoStudy.records` gives.
        cost: `"linear"`, `"quadratic"`, `"memory"`, `"ace"`, `"ace_v2"`, `"energy"`, `"macs"`, `"parameters"` or
            `"weight_bytes"`.
        score: `"top1_eval"` or `"top1_train"`.

    Returns:
        A dictionary from policy to a list of `(cost, mean score of all seeds)`, by rising cost.

    Raises:
        ValueError: if there is no such cost in all records, or no such score.

    Example:

    >>> records = [{"policy": "w8a8", "network": "small", "width": 1.0, "seed": 0, "linear": 2.0, "top1_eval": 0.7}]
    >>> study_curves(records)
    {'w8a8': [(2.0, 0.7)]}
    """
    _check_known("cost", cost, _costs_in(records))
    _check_known("score", score, SCORES)
    return {
        policy: sorted((group[0][cost], float(np.mean([each[score] for each in group]))) for group in groups)
        for policy, groups in _by_policy(records).items()
    }


def study_report(records, cost="linear"):
    """A text: a table of all networks, and one of policies.

    The generalisation gap is the accuracy on the training set less that on the evaluation set. The area is the mean,
    over the logarithm of the costs that all policies have in common, of the best accuracy to be had.

    Args:
        records: dictionaries, as `ParetoStudy.records` gives.
        cost: as for `study_curves`.

    Raises:
        ValueError: if there is no such cost.

    Example:

    >>> study_report([])
    'No records yet.\\n'
    """
    _check_known("cost", cost, _costs_in(records))
    if not records:
        return "No records yet.\n"
    console = Console(file=io.StringIO(), width=120)
    console.print(_networks(records, cost), _policies(records, cost))
    return console.file.getvalue()


def _costs_in(records):
    """The costs that all records have: those of earlier versions lack some."""
    return [name for name in MEASURES if all(name in each for each in records)]


def _check_known(argument, value, known):
    if value not in tuple(known):
        raise ValueError(f"`{argument}` must be one of {tuple(known)}. Received: {argument}={value!r}")


def _networks(records, cost):
    table = Table("policy", "network", "width", f"{cost} cost", "top-1", "train top-1", "gap", "seeds", "on front")
    groups = [group for groups in _by_policy(records).values() for group in groups]
    front = pareto_front([(group[0][cost], _mean(group, "top1_eval")) for group in groups])
    for place, group in enumerate(groups):
        first = group[0]
        scores = [f"{_mean(group, score):.2%}" for score in ("top1_eval", "top1_train")]
        cells = first["policy"], first["network"], f"{first['width']:g}", f"{first[cost]:.4g}", *scores
        table.add_row(*cells, f"{_gap(group):+.2%}", str(len(group)), "*" if place in front else "")
    return table


def _policies(records, cost):
    reference = next((record["policy"] for record in records if record["is_float"]), None)
    table = Table("policy", "mean gap", "area", f"dominates {reference}" if reference else "")
    lines = study_curves(records, cost)
    common = max(line[0][0] for line in lines.values()), min(line[-1][0] for line in lines.values())
    for policy, groups in _by_policy(records).items():
        gap = f"{np.mean([_gap(group) for group in groups]):+.2%}"
        area = f"{dominated_area(lines[policy], common, log_cost=True):.2%}" if common[0] < common[1] else "-"
        is_better = reference not in (None, policy) and dominates(lines[policy], lines[reference])
        table.add_row(policy, gap, area, "yes" if is_better else "")
    return table


def _by_policy(records):
    """`{policy: [[records of one network, a seed each], ...]}`, by rising width."""
    found = {}
    for record in sorted(records, key=lambda each: (each["network"], each["width"], each["seed"])):
        networks = found.setdefault(record["policy"], {})
        networks.setdefault((record["network"], record["width"]), []).append(record)
    return {policy: list(networks.values()) for policy, networks in found.items()}


def _mean(group, score):
    return float(np.mean([each[score] for each in group]))


def _gap(group):
    return _mean(group, "top1_train") - _mean(group, "top1_eval")
