"""The tuner: what it reports and keeps, that nothing is scored twice, and searches that are killed and shared."""

import functools
import json
import math
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import keras_tuner
import pytest
import run_search
from planted import SPACE
from planted import PlantedSupernet
from planted import accuracy_of
from planted import all_accuracies
from planted import costs_of

from keras_mnv4.applications.block_spec import BlockSpec
from keras_mnv4.tuner.evolution import EvolutionOracle
from keras_mnv4.tuner.reinforce import ReinforceOracle
from keras_mnv4.tuner.uib_tuner import UIBTuner

pytestmark = pytest.mark.once
SCRIPT = pathlib.Path(__file__).with_name("run_search.py")
COSTS = costs_of(macs=400_000)


def make(folder, oracle=None, supernet=None, **arguments):
    oracle = oracle or EvolutionOracle(COSTS, population=5, generations=2, seed=0)
    return UIBTuner(supernet or PlantedSupernet(), oracle, COSTS, directory=folder, **arguments)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    tuner = make(tmp_path_factory.mktemp("search"), measures=("parameters",))
    tuner.search(None, verbose=0)
    return tuner


def test_trials_report_accuracy_loss_and_costs(done):
    for trial in done.oracle.trials.values():
        candidate = SPACE.to_hyperparameters(trial.hyperparameters)
        expected = {
            "val_accuracy": accuracy_of(candidate),
            "val_loss": -math.log(accuracy_of(candidate)),
            "macs": COSTS.cost(candidate, "macs"),
            "parameters": COSTS.cost(candidate, "parameters"),
        }
        assert {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics} == expected
        assert trial.score == expected["val_accuracy"]


def test_results_come_the_most_accurate_first(done):
    results = done.results()
    assert len(results) == 10
    accuracies = [accuracy_of(each["candidate"]) for each in results]
    assert [each["accuracy"] for each in results] == accuracies == sorted(accuracies, reverse=True)
    assert done.best_candidate() == results[0]["candidate"]
    assert done.best_architecture() == SPACE.architecture_of(results[0]["candidate"])
    assert done.get_best_models() == [("network", results[0]["candidate"])]
    assert results[0] == done.record(results[0]["candidate"])


def test_what_is_best_is_said_by_the_objective(tmp_path):
    objective = keras_tuner.Objective("macs", "min")
    tuner = make(tmp_path, EvolutionOracle(COSTS, objective, population=5, generations=2, seed=0))
    tuner.search(None, verbose=0)
    costs = [each["costs"]["macs"] for each in tuner.results()]
    assert costs == sorted(costs)
    assert COSTS.cost(tuner.best_candidate(), "macs") == costs[0]
    assert tuner.best_candidate() != max(tuner.results(), key=lambda each: each["accuracy"])["candidate"]
    assert [each["costs"]["macs"] for each in tuner.front("macs")] == costs[:1]


def test_an_objective_that_is_not_measured_is_refused(tmp_path):
    oracle = EvolutionOracle(COSTS, "accuracy", population=5, generations=2)
    with pytest.raises(ValueError, match=r'must be of val_accuracy, val_loss, macs. Received: .*"accuracy"'):
        make(tmp_path, oracle)


@pytest.mark.parametrize("measure", ["macs", "weight_bytes", lambda profile: profile.macs])
def test_a_front_has_what_is_worth_its_cost(done, measure):
    results = [(COSTS.cost(each["candidate"], measure), -each["accuracy"]) for each in done.results()]
    expected = [a for a in results if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in results)]
    found = [(COSTS.cost(each["candidate"], measure), -each["accuracy"]) for each in done.front(measure)]
    assert found == sorted(expected)


def test_a_search_of_other_limits_does_not_answer_with_what_is_beyond_these(tmp_path):
    make(tmp_path).search(None, verbose=0)
    tight = costs_of(macs=200_000)
    again = UIBTuner(
        PlantedSupernet(), EvolutionOracle(tight, population=5, generations=4, seed=0), tight, directory=tmp_path
    )
    assert not tight.allows(again.results()[0]["candidate"])
    again.search(None, verbose=0)
    assert tight.allows(again.best_candidate())
    assert again.front("macs")
    assert all(tight.allows(each["candidate"]) for each in again.front("macs"))


def test_results_are_written_with_their_tables(done, tmp_path):
    done.save_results(tmp_path / "results.json")
    for written, result in zip(json.loads((tmp_path / "results.json").read_text()), done.results(), strict=True):
        rows = tuple(map(BlockSpec.from_dict, written.pop("architecture")))
        assert rows == SPACE.architecture_of(result["candidate"]).blocks
        assert written == {**result, "weight_bits": {}}
    with pytest.raises(FileExistsError):
        done.save_results(tmp_path / "results.json")
    done.save_results(tmp_path / "results.json", overwrite=True)


def test_nothing_is_scored_twice(tmp_path):
    oracle = ReinforceOracle(COSTS, max_trials=30, warmup=0.0, learning_rate=0.5, seed=0)
    tuner = make(tmp_path, oracle)
    tuner.search(None, verbose=0)
    scored = tuner.supernet.scored
    codes = {SPACE.network_code(each) for each in oracle.candidates.values()}
    assert len(scored) == len(codes) == len(tuner.results()) < 30
    for trial_id, candidate in oracle.candidates.items():
        assert oracle.trials[trial_id].score == accuracy_of(candidate)


def test_scores_of_other_weights_are_not_taken(tmp_path):
    make(tmp_path).search(None, verbose=0)
    with pytest.raises(ValueError, match="has scores of another supernet: give another `project_name`"):
        make(tmp_path, supernet=PlantedSupernet(seed=1)).search(None, verbose=0)
    other = make(tmp_path, supernet=PlantedSupernet(seed=1), overwrite=True)
    other.search(None, verbose=0)
    assert other.results()[0]["accuracy"] == accuracy_of(other.best_candidate(), 1)


def test_data_go_to_the_supernet(tmp_path):
    class Noting(PlantedSupernet):
        def score(self, candidate, validation_data, calibration_data=None):
            assert (validation_data, calibration_data) == ("validation", "calibration")
            return super().score(candidate, validation_data, calibration_data)

    tuner = make(tmp_path, supernet=Noting())
    tuner.search(validation_data="validation", calibration_data="calibration", verbose=0)
    assert len(tuner.results()) == 10


def test_oracles_of_keras_tuner_stay_within_the_limits(tmp_path):
    objective = keras_tuner.Objective("val_accuracy", "max")
    tuner = make(tmp_path, keras_tuner.oracles.RandomSearchOracle(objective, max_trials=10, seed=0))
    tuner.search(None, verbose=0)
    for trial in tuner.oracle.trials.values():
        candidate = SPACE.to_hyperparameters(trial.hyperparameters)
        assert COSTS.allows(candidate)
        assert trial.score == accuracy_of(candidate)


def test_a_line_for_each_trial(tmp_path, capsys):
    tuner = make(tmp_path)
    tuner.search(None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    best = 0
    for line, trial_id in zip(lines, tuner.oracle.end_order, strict=True):
        record = tuner.record(tuner.oracle.candidates[trial_id])
        best = max(best, record["accuracy"])
        assert line == (
            f"trial {trial_id}  accuracy {record['accuracy']:.2%}  macs {record['costs']['macs']:.4g}  "
            f"best val_accuracy {best:.4f}"
        )


def test_tensorboard_shows_accuracy_costs_and_the_best(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    tuner = make(tmp_path, log_dir=tmp_path / "logs")
    tuner.search(None, verbose=0)
    events = EventAccumulator(str(tmp_path / "logs" / "tuner0")).Reload()
    found = {
        name: [(each.step, float(make_ndarray(each.tensor_proto))) for each in events.Tensors(name)]
        for name in events.Tags()["tensors"]
    }
    accuracies = [trial.score for trial in tuner.oracle.trials.values()]
    assert found.keys() == {"accuracy", "loss", "macs", "best"}
    assert found["accuracy"] == [(step, pytest.approx(each)) for step, each in enumerate(accuracies)]
    assert found["best"] == [(step, pytest.approx(max(accuracies[: step + 1]))) for step in range(10)]


def test_a_score_must_be_a_number(tmp_path):
    class Lost(PlantedSupernet):
        def score(self, *arguments):
            return {"accuracy": math.nan, "loss": 0.0}

    tuner = make(tmp_path, supernet=Lost())
    with pytest.raises(RuntimeError, match=r"one after the other(.|\n)*has no score for"):
        tuner.search(None, verbose=0)
    with pytest.raises(ValueError, match="no results yet"):
        tuner.best_candidate()


def test_bad_measures(tmp_path, done):
    with pytest.raises(ValueError, match=r"`measures` must be of .*Received: \['watts'\]"):
        make(tmp_path, measures=("watts",))
    with pytest.raises(ValueError, match="`measure` must be of"):
        done.front("watts")
    for measures in [(lambda profile: profile.macs, lambda profile: profile.parameters), (functools.partial(max),)]:
        with pytest.raises(ValueError, match="names of their own"):
            make(tmp_path, measures=measures)


@pytest.fixture
def start():
    """A function that starts the script with arguments and environment variables; in the end all are stopped."""
    processes = []

    def start(*arguments, **environment):
        environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        command = [sys.executable, SCRIPT, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def begin(*processes):
    """Waits until all are ready, and sets them to work."""
    for process in processes:
        while (line := process.stdout.readline()) != "ready\n":
            assert line, "a process has ended before it was ready"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def finish(process):
    process.communicate(timeout=300)
    assert process.returncode == 0


def records_in(folder):
    return {path.name: path.read_text() for path in folder.glob("*/records/*.json")}


def ended(folder):
    """Candidates and scores of the trials that the oracle knows of, in the order they ended."""
    state = json.loads(next(folder.glob("*/oracle.json")).read_text())
    trials = [json.loads(next(folder.glob(f"*/trial_{each}/trial.json")).read_text()) for each in state["end_order"]]
    return [(each["hyperparameters"]["values"], each["score"]) for each in trials]


@pytest.mark.slow
def test_a_search_survives_being_killed(tmp_path, start):
    """Ten times, and ends as one that was not."""
    expected = run_search.make(tmp_path / "whole")
    expected.search(None, verbose=0)
    delays = random.Random(0)
    folder, before = tmp_path / "killed", {}
    for _ in range(10):
        process = start(folder)
        begin(process)
        time.sleep(delays.uniform(0.0, 0.3))
        kill(process)
        assert before.items() <= records_in(folder).items()
        before = records_in(folder)
    assert 0 < len(before) < run_search.TRIALS, "the kills fell outside of the work"
    process = start(folder)
    begin(process)
    finish(process)
    assert before.items() <= records_in(folder).items()
    assert ended(folder) == ended(tmp_path / "whole")


@pytest.fixture
def start_shared(start, tmp_path):
    """A function that starts a process of one search, by its name: the chief or a worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    return lambda name, **others: start(tmp_path, KERASTUNER_TUNER_ID=name, **environment, **others)


def check_shared(folder):
    """Whether processes have found what one would have."""
    alone = run_search.make(folder / "alone")
    alone.search(None, verbose=0)
    shared = [candidate for candidate, _ in ended(folder)]
    first = [candidate for candidate, _ in ended(folder / "alone")][: run_search.POPULATION]
    assert all(candidate in shared for candidate in first)  # what does not depend on who is first
    records = [json.loads(text) for text in records_in(folder).values()]
    assert len(shared) == len(records) == run_search.TRIALS
    assert all(each["accuracy"] == accuracy_of(each["candidate"]) for each in records)
    best = max(each["accuracy"] for each in records)
    assert (all_accuracies() > best).mean() <= 1e-2


@pytest.mark.slow
def test_processes_share_a_search(tmp_path, start_shared):
    chief, *workers = map(start_shared, ("chief", "worker1", "worker2"))
    begin(chief, *workers)
    for process in (*workers, chief):
        finish(process)
    check_shared(tmp_path)
    lines = (tmp_path / "workers.txt").read_text().split()
    assert set(lines) == {"worker1", "worker2"}
    assert len(lines) == run_search.TRIALS


@pytest.mark.slow
def test_a_shared_search_survives_killed_workers(tmp_path, start_shared):
    """Ten times, two workers at a time, which are then started again."""
    chief, delays, before = start_shared("chief"), random.Random(1), {}
    begin(chief)
    for _ in range(5):
        workers = [start_shared(name) for name in ("worker1", "worker2")]
        begin(*workers)
        for process in workers:
            time.sleep(delays.uniform(0.0, 0.2))
            kill(process)
        assert before.items() <= records_in(tmp_path).items()
        before = records_in(tmp_path)
        assert 0 < len(before) < run_search.TRIALS, "the kills fell outside of the work"
    workers = [start_shared(name) for name in ("worker1", "worker2")]
    begin(*workers)
    for process in (*workers, chief):
        finish(process)
    assert before.items() <= records_in(tmp_path).items()
    check_shared(tmp_path)


@pytest.mark.slow
def test_a_shared_search_that_fails_keeps_nobody_waiting(tmp_path, start_shared):
    processes = [start_shared(name, MNV4_FAIL="yes") for name in ("worker1", "worker2", "chief")]
    begin(*processes)
    for process in processes:
        process.communicate(timeout=300)
    assert [process.returncode for process in processes] == [0, 0, 1]
    assert not records_in(tmp_path)
