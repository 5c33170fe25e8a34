"""Studies: what their records say, that they go on where they were stopped, and that processes share them."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import keras
import pytest

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.applications import ResNet50
from keras_mnv4.cost import plots
from keras_mnv4.cost.study import costs_of

pytestmark = pytest.mark.once
SCRIPT = pathlib.Path(__file__).with_name("run_study.py")


# Of a bound that needs no training to be known: nothing is trained here.
SET = qat.Policy((qat.Rule(".*", qat.AQTWeightQuantizer(4), inputs=qat.FixedQuantizer(4)),))


def tiny(width):
    return keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(int(4 * width), 1, use_bias=False)])


def make_study(folder, train=None, **changes):
    arguments = {
        "networks": {"tiny": tiny},
        "widths": (1.0, 2.0),
        "policies": {"float": None, "w4a4": SET},
        "seeds": (0, 1),
        "train": train or (lambda model, run, backups: {"top1_train": 0.75, "top1_eval": 0.5, "epochs": 3}),
        "settings": {"epochs": 3},
    }
    return cost.ParetoStudy(folder, **{**arguments, **changes})


def test_a_record_holds_what_the_run_was_cost_and_scored(tmp_path):
    study = make_study(tmp_path / "study")
    study.run(verbose=0)
    assert len(study.records()) == 8
    record = json.loads((tmp_path / "study" / "tiny_2_w4a4_1.json").read_text())
    products = 4 * 4 * 2 * 8
    expected = {
        "network": "tiny",
        "width": 2.0,
        "policy": "w4a4",
        "seed": 1,
        "is_float": False,
        "settings": {"epochs": 3},
        "top1_train": 0.75,
        "top1_eval": 0.5,
        "epochs": 3,
        "macs": products,
        "parameters": 16,
        "linear": 4 * products,
        "quadratic": 16 * products,
        "memory": 64,
        "weight_bytes": 8,
        "ace": 16 * products,
    }
    assert {name: record[name] for name in expected} == expected
    assert record["ace_v2"] > record["ace"]


def test_what_is_done_is_not_done_again(tmp_path):
    trained = []

    def train(model, run, backups):
        if len(trained) == 3:
            raise RuntimeError("the power went")
        trained.append(backups.name)
        return {"top1_train": 0.5, "top1_eval": 0.5}

    study = make_study(tmp_path, train)
    with pytest.raises(RuntimeError, match="the power went"):
        study.run(verbose=0)
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())
    assert len(study.records()) == 3
    trained.append("")
    study.run(verbose=0)
    assert len(study.records()) == 8
    study.run(verbose=0)
    assert len(set(trained)) == len(trained) == 9


def test_seeds_make_networks(tmp_path):
    study = make_study(tmp_path)
    kernels = [study.build(cost.Run("tiny", 1.0, "float", seed)).get_weights()[0].tolist() for seed in (0, 0, 1)]
    assert kernels[0] == kernels[1] != kernels[2]
    assert any(isinstance(each, qat.FakeQuantize) for each in study.build(study.runs[2])._flatten_layers())


def test_a_folder_is_for_one_study(tmp_path):
    make_study(tmp_path, widths=(1,)).run(verbose=0)
    with pytest.raises(ValueError, match="another `directory`"):
        make_study(tmp_path, settings={"epochs": 4}).run(verbose=0)
    with pytest.raises(ValueError, match="other policies called w4a4"):
        make_study(tmp_path, policies={"w4a4": "aqt_w8a8"}).run(verbose=0)
    wider = make_study(tmp_path, widths=(1, 1.5), policies={"w4a4": SET, "other": None})
    assert len(wider.records()) == 2
    wider.run(verbose=0)
    assert len(wider.records()) == 8


def test_bad_studies(tmp_path):
    with pytest.raises(ValueError, match="one value each"):
        make_study(tmp_path, widths=())
    with pytest.raises(ValueError, match="`policy` must be"):
        make_study(tmp_path, policies={"w4a4": "w4"})
    with pytest.raises(ValueError, match="top1_train and top1_eval"):
        make_study(tmp_path, lambda model, run, backups: {"top1_eval": 0.5}).run(verbose=0)
    with pytest.raises(ValueError, match=r"ended before 1 quantisers began to round.*start_step"):
        make_study(tmp_path / "float", policies={"w4a4": "aqt_w4a4"}).run(verbose=0)


RECORDS = [
    {
        "network": "n",
        "width": width,
        "policy": policy,
        "seed": seed,
        "is_float": policy == "float",
        "linear": price,
        "top1_train": 0.9,
        "top1_eval": q,
    }
    for policy, width, price, qualities in (
        ("float", 1.0, 400, (0.5, 0.6)),
        ("float", 2.0, 1600, (0.7, 0.7)),
        ("w4a4", 1.0, 100, (0.5, 0.5)),
        ("w4a4", 2.0, 400, (0.65, 0.75)),
        ("w4a4", 4.0, 1600, (0.8, 0.8)),
    )
    for seed, q in enumerate(qualities)
]


def test_curves_are_means_over_seeds():
    found = cost.study_curves(RECORDS)
    assert list(found) == ["float", "w4a4"]
    for policy, expected in {
        "float": [(400, 0.55), (1600, 0.7)],
        "w4a4": [(100, 0.5), (400, 0.7), (1600, 0.8)],
    }.items():
        assert found[policy] == [(price, pytest.approx(quality)) for price, quality in expected]


def test_a_report_says_who_dominates():
    text = cost.study_report(RECORDS)
    lines = [[cell.strip() for cell in line.strip()[1:-1].split("│")] for line in text.splitlines() if "│" in line]
    assert lines[0] == ["float", "n", "1", "400", "55.00%", "90.00%", "+35.00%", "2", ""]
    assert lines[3] == ["w4a4", "n", "2", "400", "70.00%", "90.00%", "+20.00%", "2", "*"]
    assert lines[5] == ["float", "+27.50%", "55.00%", ""]
    assert lines[6] == ["w4a4", "+23.33%", "70.00%", "yes"]
    assert cost.study_report([]) == "No records yet.\n"


@pytest.mark.parametrize("records", [RECORDS, []])
def test_costs_and_scores_that_there_are_not_are_named(records):
    for report in (cost.study_curves, cost.study_report, plots.plot_curves):
        with pytest.raises(ValueError, match=r"`cost` must be one of \(.*'linear',.*Received: cost='latency'"):
            report(records, cost="latency")
    with pytest.raises(ValueError, match=r"`score` must be one of \('top1_train', .*Received: score='top5'"):
        cost.study_curves(records, score="top5")


def test_curves_are_drawn():
    axes = plots.plot_curves(RECORDS)
    drawn = {dots.get_label(): dots.get_offsets().tolist() for dots in axes.collections}
    assert drawn == {policy: [list(point) for point in line] for policy, line in cost.study_curves(RECORDS).items()}


@pytest.mark.slow
def test_resnet50_costs_what_the_paper_counts(tmp_path):
    """In a study; test_resnet.py has the other policies."""
    policies = {"float": None, "w4a4": "aqt_w4a4_first_last_8"}
    study = make_study(tmp_path, networks={"resnet50": lambda width: ResNet50(alpha=width)}, policies=policies)
    exact, found = (costs_of(study.build(cost.Run("resnet50", 1.0, policy, 0))) for policy in policies)
    assert (exact["macs"], exact["quadratic"], exact["memory"]) == (4_089_184_256, 1_046_831_169_536, 408_046_592)
    ratios = [found[each] / exact[each] for each in ("linear", "quadratic")]
    assert ratios == pytest.approx([0.2573, 0.0680], abs=5e-5)


def start(*arguments, **environment):
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def records_in(folder):
    return {path.name: path.read_text() for path in folder.glob("tiny*.json")}


@pytest.mark.slow
def test_a_study_survives_being_killed(tmp_path):
    delays = random.Random(0)
    for _ in range(10):
        process = start(tmp_path)
        assert process.stdout.readline() == "started\n"
        time.sleep(delays.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = records_in(tmp_path)
    assert 0 < len(before) < 40, "the kills fell outside of the work"
    process = start(tmp_path)
    process.communicate(timeout=300)
    assert process.returncode == 0
    after = records_in(tmp_path)
    assert len(after) == 40
    assert before.items() <= after.items()  # records say when they were made


def start_together(folder, **environment):
    """A chief and two workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    return [start(folder, 2, KERASTUNER_TUNER_ID=name, **environment) for name in ("chief", "worker1", "worker2")]


@pytest.mark.slow
def test_processes_share_a_study(tmp_path):
    for process in start_together(tmp_path)[::-1]:
        process.communicate(timeout=300)
        assert process.returncode == 0
    assert len(records_in(tmp_path)) == 40
    lines = (tmp_path / "workers.txt").read_text().split()
    assert set(lines) == {"worker1", "worker2"}
    assert len(lines) == 40


@pytest.mark.slow
def test_a_worker_whose_runs_fail_keeps_nobody_waiting(tmp_path):
    processes = start_together(tmp_path, MNV4_FAIL="worker1")
    for process in processes[::-1]:
        process.communicate(timeout=300)
    assert [process.returncode for process in processes] == [1, 1, 0]
    assert 0 < len(records_in(tmp_path)) < 40
    process = start(tmp_path)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert len(records_in(tmp_path)) == 40
