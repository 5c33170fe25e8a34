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
from keras_mnv4.cost.study import Run

SCRIPT = pathlib.Path(__file__).with_name("run_study.py")


def tiny(width):
    return keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(int(4 * width), 1, use_bias=False)])


def make_study(folder, train=None, **changes):
    arguments = {
        "networks": {"tiny": tiny},
        "widths": (1.0, 2.0),
        "policies": {"float": None, "w4a4": "aqt_w4a4"},
        "seeds": (0, 1),
        "train": train or (lambda model, backups: {"top1_train": 0.75, "top1_eval": 0.5, "epochs": 3}),
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
        "settings": {"epochs": 3},
        "top1_train": 0.75,
        "top1_eval": 0.5,
        "epochs": 3,
        "macs": products,
        "parameters": 16,
        "linear": 4 * products,
        "quadratic": 16 * products,
        "memory": 64,
        "ace": 16 * products,
    }
    assert {name: record[name] for name in expected} == expected
    assert record["ace_v2"] > record["ace"]


def test_what_is_done_is_not_done_again(tmp_path):
    trained = []

    def train(model, backups):
        if len(trained) == 3:
            raise RuntimeError("the power went")
        trained.append(backups.name)
        return {"top1_train": 0.5, "top1_eval": 0.5}

    study = make_study(tmp_path, train)
    with pytest.raises(RuntimeError, match="the power went"):
        study.run(verbose=0)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".json"] == []
    assert len(study.records()) == 3
    trained.append("")
    study.run(verbose=0)
    assert len(study.records()) == 8
    study.run(verbose=0)
    assert len(set(trained)) == len(trained) == 9


def test_seeds_make_networks(tmp_path):
    study = make_study(tmp_path)
    kernels = [study.build(Run("tiny", 1.0, "float", seed)).get_weights()[0].tolist() for seed in (0, 0, 1)]
    assert kernels[0] == kernels[1] != kernels[2]
    assert any(isinstance(each, qat.FakeQuantize) for each in study.build(study.runs[2])._flatten_layers())


def test_bad_studies(tmp_path):
    with pytest.raises(ValueError, match="one value each"):
        make_study(tmp_path, widths=())
    with pytest.raises(ValueError, match="'float' must be None"):
        make_study(tmp_path, policies={"float": "w8a8"})
    with pytest.raises(ValueError, match="top1_train and top1_eval"):
        make_study(tmp_path, lambda model, backups: {"top1_eval": 0.5}).run(verbose=0)
    make_study(tmp_path).run(verbose=0)
    with pytest.raises(ValueError, match="another `directory`"):
        make_study(tmp_path, settings={"epochs": 4}).run(verbose=0)


RECORDS = [
    {"network": "n", "width": width, "policy": policy, "seed": seed, "linear": price, "top1_train": 0.9, "top1_eval": q}
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
    found = cost.curves(RECORDS)
    assert list(found) == ["float", "w4a4"]
    for policy, expected in {
        "float": [(400, 0.55), (1600, 0.7)],
        "w4a4": [(100, 0.5), (400, 0.7), (1600, 0.8)],
    }.items():
        assert found[policy] == [(price, pytest.approx(quality)) for price, quality in expected]


def test_a_report_says_who_dominates():
    text = cost.report(RECORDS)
    lines = [[cell.strip() for cell in line.strip()[1:-1].split("│")] for line in text.splitlines() if "│" in line]
    assert lines[0] == ["float", "n", "1", "400", "55.00%", "90.00%", "+35.00%", "2", ""]
    assert lines[3] == ["w4a4", "n", "2", "400", "70.00%", "90.00%", "+20.00%", "2", "*"]
    assert lines[5] == ["float", "+27.50%", "55.00%", ""]
    assert lines[6] == ["w4a4", "+23.33%", "70.00%", "yes"]
    assert cost.report([]) == "No records yet.\n"


@pytest.mark.once
def test_resnet50_costs_what_the_paper_counts(tmp_path):
    policies = {"float": None, "w8a8": "aqt_w8a8", "w4a4": "aqt_w4a4", "ends8": "aqt_w4a4_first_last_8"}
    study = make_study(tmp_path, networks={"resnet50": lambda width: ResNet50(alpha=width)}, policies=policies)
    costs = {policy: cost.costs_of(study.build(Run("resnet50", 1.0, policy, 0))) for policy in policies}
    exact = costs["float"]
    assert (exact["macs"], exact["quadratic"]) == (4_089_184_256, 1_046_831_169_536)
    assert exact["memory"] == 408_046_592
    ratios = {
        policy: [found[each] / exact[each] for each in ("linear", "quadratic")] for policy, found in costs.items()
    }
    assert ratios["w8a8"] == [0.5, 0.25]
    assert ratios["w4a4"] == [0.25, 0.0625]
    assert ratios["ends8"] == pytest.approx([0.2573, 0.0680], abs=5e-5)


def start(folder, **environment):
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    return subprocess.Popen([sys.executable, SCRIPT, folder], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_study_survives_being_killed(tmp_path):
    delays = random.Random(0)
    for _ in range(10):
        process = start(tmp_path)
        assert process.stdout.readline() == "started\n"
        time.sleep(delays.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    assert 0 < len(before) < 40, "the kills fell outside of the work"
    process = start(tmp_path)
    process.communicate()
    assert process.returncode == 0
    after = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    assert len(after) == 40
    assert before.items() <= after.items()  # records say when they were made


@pytest.mark.slow
def test_processes_share_a_study(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    processes = [start(tmp_path, KERASTUNER_TUNER_ID=name, **address) for name in ("chief", "worker1", "worker2")]
    for process in processes[1:]:
        process.communicate()
        assert process.returncode == 0
    assert len(list(tmp_path.glob("*.json"))) == 40
    lines = (tmp_path / "workers.txt").read_text().split()
    assert set(lines) == {"worker1", "worker2"}
    assert len(lines) == 40
    processes[0].communicate(timeout=60)
    assert processes[0].returncode == 0
