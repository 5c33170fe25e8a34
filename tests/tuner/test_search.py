"""Searches in one call: with shared weights, in one stage and in two."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_mnv4 import data
from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import choice
from keras_mnv4.tuner.strategies.strategy import Strategy

pytestmark = [pytest.mark.slow, pytest.mark.once]
FILTERS = choice(8, 16, name="filters")
ROWS = Conv(8, kernel=3, stride=2), *(UIB(FILTERS, expand=2, middle=3, stride=stride) for stride in (2, 1))
COARSE = tuner.SearchSpace(Architecture("coarse", ROWS, default_size=32, head_filters=None))


@pytest.fixture
def digits():
    loaded = data.load_digits(32)
    few = {name: data.PictureSet(*getattr(loaded, name).arrays(64), 32, 16) for name in ("train", "validation", "test")}
    return data.PictureData(loaded.class_names, **few)


def small_classifier(classes=10):
    layers = [keras.layers.Flatten(), keras.layers.Dense(classes, "softmax")]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers])


def test_a_search_in_one_call_goes_on_where_it_was(digits, tmp_path):
    how = {"limits": {"macs": 7e5}, "epochs": 1, "population": 3, "generations": 1, "verbose": 0}
    found = tuner.search(tuner.tiny_space((4, 8)), digits, tmp_path, **how)
    results = found.results()
    assert len(results) == 3
    assert all(each["costs"]["macs"] <= 7e5 for each in results)
    supernet = (tmp_path / "supernet.keras").stat().st_mtime
    again = tuner.search(tuner.tiny_space((4, 8)), digits, tmp_path, **{**how, "generations": 2})
    assert len(again.results()) == 6
    assert all(each in again.results() for each in results)
    assert (tmp_path / "supernet.keras").stat().st_mtime == supernet
    others, teacher = dataclasses.replace(digits, train=digits.test), small_classifier()
    train = data.PictureSet(*digits.train.arrays(), 32, 2 * digits.train.batch_size, shuffle=True)
    in_other_batches = dataclasses.replace(digits, train=train)
    for space, pictures, changes, other in (
        (tuner.tiny_space(), digits, {}, "space"),
        (tuner.tiny_space((4, 8)), others, {}, "pictures"),
        (tuner.tiny_space((4, 8)), in_other_batches, {}, "batch_size"),
        (tuner.tiny_space((4, 8)), digits, {"limits": {"macs": 6e5}}, "limits"),
        (tuner.tiny_space((4, 8)), digits, {"uniform_in": "macs"}, "uniform_in"),
        (tuner.tiny_space((4, 8)), digits, {"objective": "val_loss"}, "objective"),
        (tuner.tiny_space((4, 8)), digits, {"augmentation": [keras.layers.RandomFlip()]}, "augmentation"),
        (tuner.tiny_space((4, 8)), digits, {"teacher": teacher}, "teacher"),
    ):
        with pytest.raises(ValueError, match=f"a search of another {other}: give another `directory`"):
            tuner.search(space, pictures, tmp_path, **{**how, **changes})
    with pytest.raises(ValueError, match="of another strategy"):
        tuner.gradient_search(tuner.tiny_space((4, 8)), digits, tmp_path, limits={"macs": 7e5}, epochs=1)


@pytest.mark.once
def test_a_search_with_a_teacher_goes_on_where_it_was(digits, tmp_path):
    teacher = small_classifier()
    how = {"limits": {"macs": 7e5}, "epochs": 1, "population": 2, "generations": 1, "verbose": 0, "teacher": teacher}
    results = tuner.search(tuner.tiny_space(), digits, tmp_path / "search", **how).results()
    assert tuner.search(tuner.tiny_space(), digits, tmp_path / "search", **how).results() == results
    teacher.layers[-1].bias.assign_add([1.0] * 10)
    with pytest.raises(ValueError, match="a search of another teacher"):
        tuner.search(tuner.tiny_space(), digits, tmp_path / "search", **how)
    for find in (tuner.search, tuner.gradient_search):
        with pytest.raises(ValueError, match=r"probabilities of 10 classes. Of a picture it says: \(1, 3\)"):
            find(tuner.tiny_space(), digits, tmp_path / "others", limits={"macs": 7e5}, teacher=small_classifier(3))
    assert not (tmp_path / "others").exists()


def test_a_call_that_is_refused_leaves_the_folder_to_the_next_one(digits, tmp_path):
    how = {"epochs": 1, "population": 2, "generations": 1, "verbose": 0}
    for wrong, message in (
        ({"uniform_in": "mac"}, "`uniform_in` must be of"),
        ({"measures": ("latency",)}, "`measures` must be of"),
        ({"loss": "no_such_loss"}, "no_such_loss"),
    ):
        with pytest.raises(ValueError, match=message):
            tuner.search(tuner.tiny_space(), digits, tmp_path / "spos", **how, **wrong)
    assert len(tuner.search(tuner.tiny_space(), digits, tmp_path / "spos", **how).results()) == 2
    how = {"epochs": 1, "verbose": 0, "limits": {"macs": np.int64(700_000)}}
    with pytest.raises(ValueError, match="form"):
        tuner.gradient_search(tuner.tiny_space(), digits, tmp_path / "gates", "proxylessnas", form="multiply", **how)
    found = tuner.gradient_search(tuner.tiny_space(), digits, tmp_path / "gates", "proxylessnas", form="mul", **how)
    assert (
        tuner.gradient_search(tuner.tiny_space(), digits, tmp_path / "gates", "proxylessnas", form="mul", **how)
        == found
    )
    assert not (tmp_path / "gates" / "backup").exists()
    others = dataclasses.replace(digits, validation=digits.test)
    for pictures, changes, other in (
        (digits, {}, "form"),
        (digits, {"form": "mul", "limits": {"macs": np.int64(600_000)}}, "limits"),
        (others, {"form": "mul"}, "pictures"),
    ):
        with pytest.raises(ValueError, match=f"a search of another {other}: give another `directory`"):
            tuner.gradient_search(
                tuner.tiny_space(), pictures, tmp_path / "gates", "proxylessnas", **{**how, **changes}
            )


def test_teachers_that_are_functions_are_known_by_what_they_say(digits, tmp_path):
    how = {"epochs": 1, "verbose": 0, "limits": {"macs": 7e5}}

    def says(share):
        def teacher(pictures):
            first = ops.one_hot(ops.zeros(ops.shape(pictures)[:1], "int32"), 10)
            return share * first + (1 - share) / 10

        return teacher

    sharp, soft = says(0.9), says(0.5)
    found = tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, teacher=sharp, **how)
    assert tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, teacher=sharp, **how) == found
    with pytest.raises(ValueError, match="a search of another teacher"):
        tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, teacher=soft, **how)


def test_candidates_are_scored_on_held_out_pictures_as_they_are(digits, tmp_path):
    how = {"epochs": 1, "population": 4, "generations": 1, "verbose": 0, "teacher": small_classifier()}
    how["augmentation"] = [keras.layers.Rescaling(-1.0, 255.0)]
    found = tuner.search(tuner.tiny_space(), digits, tmp_path, **how)
    for each in found.results():
        score = found.supernet.score(each["candidate"], digits.validation.arrays(), digits.train.arrays(1024)[0])
        assert each["accuracy"] == pytest.approx(score["accuracy"], abs=1e-3)
        assert each["loss"] == pytest.approx(score["loss"], rel=1e-5)


def test_candidates_are_compared_by_the_loss_if_that_is_the_objective(digits, tmp_path):
    how = {"epochs": 1, "population": 8, "generations": 1, "verbose": 0, "objective": "val_loss"}
    losses = [each["loss"] for each in tuner.search(tuner.tiny_space(), digits, tmp_path, **how).results()]
    assert losses == sorted(losses)
    assert len(set(losses)) > 1
    with pytest.raises(ValueError, match=r"`objective` must be one of val_accuracy, val_loss. Received: 'loss'"):
        tuner.search(tuner.tiny_space(), digits, tmp_path, **{**how, "objective": "loss"})


@pytest.mark.parametrize(("rate", "expected"), [(None, 0.02), (3e-4, 3e-4)])
def test_rates_of_choices(digits, tmp_path, rate, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(Strategy, "best_candidate", lambda each: seen.append(each) or tuner.tiny_space().largest)
    how = {"limits": {"macs": 1e9}, "epochs": 1, "verbose": 0, "architecture_learning_rate": rate}
    tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, "darts", **how)
    assert float(seen[0].optimizer.inner_optimizers[1].learning_rate) == pytest.approx(expected)
    assert (seen[0].goal.target, float(seen[0].goal.price)) == (1e9, 0.0)


@pytest.mark.parametrize(("rate", "expected"), [(None, 3e-4 * 16 / 256), (0.02, 0.02)])
def test_tunas_in_one_call(digits, tmp_path, rate, expected, monkeypatch):
    seen, fit = [], Strategy.fit
    monkeypatch.setattr(Strategy, "fit", lambda each, *args, **how: seen.append(each) or fit(each, *args, **how))
    how = {"limits": {"macs": 7e5, "parameters": 1e6}, "epochs": 2, "verbose": 0, "architecture_learning_rate": rate}
    found = tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, "tunas", **how)
    assert tuner.CostModel(tuner.tiny_space(), how["limits"], (32, 32, 3), 10).allows(found)
    assert tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, "tunas", **how) == found
    (strategy,) = seen  # what was found is not searched for again
    assert [target for _, target in strategy.tables] == [7e5]
    assert strategy.total_steps == int(strategy.steps)
    assert np.any(ops.convert_to_numpy(strategy.logits) != 0)  # behind the warm-up they are learnt
    schedule = strategy.optimizer.inner_optimizers[1]._learning_rate
    assert float(schedule(strategy.total_steps)) == pytest.approx(10 * expected)


def test_a_network_that_cannot_be_brought_within_the_limits_gives_way(digits, tmp_path, monkeypatch):
    stuck = {"stage_1/filters": 8, "stage_2/filters": 24, "block_3": "UIB"}
    for number in (1, 2, 3):
        stuck |= {f"block_{number}/start": 0, f"block_{number}/middle": 3}
    costs = tuner.CostModel(tuner.tiny_space(), {"macs": 9e4}, (32, 32, 3), 10)
    with pytest.raises(ValueError, match="From here no network within"):
        costs.bring_within(stuck)
    monkeypatch.setattr(Strategy, "best_candidate", lambda strategy: stuck)
    how = {"limits": {"macs": 9e4}, "epochs": 1, "verbose": 0}
    assert costs.allows(tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, **how))


def test_limits_that_nothing_is_within_are_refused_before_training(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Strategy, "fit", None)
    with pytest.raises(ValueError, match="no network within"):
        tuner.gradient_search(tuner.tiny_space(), digits, tmp_path, limits={"macs": 1000})
    assert not list(tmp_path.iterdir())


def test_crops_draw_their_seeds_anew_in_each_process(digits, tmp_path):
    how = {"limits": {"macs": 7e5}, "epochs": 1, "population": 2, "generations": 1, "verbose": 0}
    for _ in range(2):
        crops = [keras.layers.ZeroPadding2D(4), keras.layers.RandomCrop(32, 32)]
        assert len(tuner.search(tuner.tiny_space(), digits, tmp_path, augmentation=crops, **how).results()) == 2


def test_searches_of_one_seed_are_the_same_whatever_was_done_with_the_pictures(digits, tmp_path):
    how = {"epochs": 2, "population": 4, "generations": 1, "verbose": 0}
    first, again = (tuner.search(tuner.tiny_space(), digits, tmp_path / name, **how).results() for name in "ab")
    assert [each["loss"] for each in again] == pytest.approx([each["loss"] for each in first], rel=1e-4)


def test_labels_that_are_probabilities_have_their_loss(digits, tmp_path):
    sure = {
        name: data.PictureSet(each.arrays()[0], np.eye(10)[each.labels], 32, each.batch_size, each.shuffle)
        for name, each in (("train", digits.train), ("validation", digits.validation), ("test", digits.test))
    }
    soft = data.PictureData(digits.class_names, **sure)
    how = {"epochs": 1, "population": 4, "generations": 1, "verbose": 0}
    of_classes, of_shares = (
        tuner.search(tuner.tiny_space(), pictures, tmp_path / name, **how).results()
        for name, pictures in (("classes", digits), ("shares", soft))
    )
    assert [each["loss"] for each in of_shares] == pytest.approx([each["loss"] for each in of_classes], rel=1e-4)


def test_two_stages_in_one_call(digits, tmp_path):
    in_8_bits = tuner.CostModel(COARSE, None, (32, 32, 3), 10, bits=8).cost(COARSE.largest, "weight_bytes")
    limits = {"weight_bytes": in_8_bits}  # which no network meets in float
    with pytest.raises(ValueError, match="Raise the limits"):
        tuner.CostModel(COARSE, limits, (32, 32, 3), 10).sample(np.random.default_rng(0))
    how = {"epochs": 1, "population": 3, "generations": 1, "limits": limits, "verbose": 0}
    found = tuner.two_stage_search(COARSE, digits, tmp_path, weight_bits=(4, 8), **how)
    plan = json.loads((tmp_path / "coarse" / "plan.json").read_text())
    assert plan["cost_bits"] == 8
    assert tuner.SearchSpace.from_json(json.dumps(plan["space"])) == COARSE
    fine = found.space
    assert {f"block_1/{part}" for part in ("start", "middle", "weight_bits")} <= fine.decisions.keys()
    assert fine.is_network(found.best_candidate())
