"""Synthesis: its terms against numbers worked out by hand, its pictures, and what is left of it when it is killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_mnv4 import datafree
from keras_mnv4.datafree.canvas import MEAN
from keras_mnv4.datafree.canvas import STD
from keras_mnv4.datafree.canvas import Canvas
from keras_mnv4.datafree.canvas import Windows
from keras_mnv4.datafree.listening import listening
from keras_mnv4.datafree.listening import normalizations_of
from keras_mnv4.datafree.objective import channel_moments
from keras_mnv4.datafree.objective import norm_distance
from keras_mnv4.datafree.objective import relative_distance
from keras_mnv4.datafree.objective import total_variation
from keras_mnv4.datafree.synthesis import default_stages
from keras_mnv4.gradients import value_and_gradients
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers import UniversalInvertedBottleneck

pytestmark = pytest.mark.filterwarnings("ignore:.* have room for:UserWarning")  # a few pictures do here

SIZE = 12
STAGES = (datafree.Stage(4, 6, pool=2), datafree.Stage(6, SIZE))
HOW = {"stages": STAGES, "canvas": 16, "batch_size": 2, "verbose": 0}


def make_teacher(seed=0):
    """A small network whose statistics are far from those of nothing."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 3))
    maps = layers.Rescaling(1 / 128, -1.0)(inputs)
    for filters in (6, 8):
        maps = layers.Conv2D(filters, 3, strides=2, padding="same")(maps)
        maps = layers.BatchNormalization()(maps)
        maps = layers.Activation("relu")(maps)
    outputs = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(maps))
    model = keras.Model(inputs, outputs, name="teacher")
    random = np.random.default_rng(seed)
    for layer in normalizations_of(model):
        layer.moving_mean.assign(random.normal(size=layer.moving_mean.shape))
        layer.moving_variance.assign(random.uniform(0.2, 2.0, layer.moving_variance.shape))
    return model


def make(directory, num_images=4, teacher=None, **kwargs):
    return datafree.synthesize(teacher or make_teacher(), num_images, directory, **{**HOW, "rounds": 2, **kwargs})


def files_of(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(pathlib.Path(directory).rglob("*.png"))
        if path.name != "contact_sheet.png"
    }


class TestTerms:
    def test_statistics_are_compared_as_worked_out_by_hand(self):
        layer = layers.BatchNormalization(epsilon=0.0)
        layer.build((None, 1, 1, 2))
        layer.moving_mean.assign([1.0, 0.0])
        layer.moving_variance.assign([4.0, 1.0])
        inputs = np.array([[0.0, 3.0], [2.0, 3.0 + 2 * np.e]], "float32").reshape(2, 1, 1, 2)
        # means 1 and 3 + e, variances 1 and e squared
        norm = (3 + np.e) + np.sqrt(3.0**2 + (np.e**2 - 1) ** 2)
        assert float(norm_distance(layer, inputs)) == pytest.approx(norm, rel=1e-5)
        relative = ((0 + (3 + np.e) ** 2) + (np.log(4) ** 2 + 2.0**2)) / 2
        assert float(relative_distance(layer, inputs)) == pytest.approx(relative, rel=1e-5)

    def test_variation_is_that_of_four_directions(self):
        pictures = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype("float32")
        differences = [
            pictures[:, 1:] - pictures[:, :-1],
            pictures[:, :, 1:] - pictures[:, :, :-1],
            pictures[:, 1:, 1:] - pictures[:, :-1, :-1],
            pictures[:, 1:, :-1] - pictures[:, :-1, 1:],
        ]
        assert float(total_variation(pictures)) == pytest.approx(sum(map(np.linalg.norm, differences)), rel=1e-5)
        means = sum((each**2).mean() for each in differences)
        assert float(total_variation(pictures, relative=True)) == pytest.approx(means, rel=1e-5)

    def test_cross_entropy_is_with_soft_labels(self):
        labels, logits = np.array([[0.25, 0.75]], "float32"), np.array([[0.0, np.log(3)]], "float32")
        layer = layers.BatchNormalization()
        layer.build((None, 1))
        terms = datafree.PAPER.terms(np.zeros((1, 4, 4, 3), "float32"), labels, logits, [(layer, np.zeros((1, 1)))])
        assert float(terms["classification"]) == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75), rel=1e-5)

    def test_the_first_normalisation_counts_ten_times(self):
        layer = layers.BatchNormalization()
        layer.build((None, 1))
        heard = [(layer, np.full((2, 1), 5.0, "float32")), (layer, np.full((2, 1), 2.0, "float32"))]
        pictures, labels = np.zeros((1, 4, 4, 3), "float32"), np.eye(2, dtype="float32")[:1]
        terms = datafree.PAPER.terms(pictures, labels, labels, heard)
        # means are 5 and 2 from 0; variances 1 from 1
        assert float(terms["features"]) == pytest.approx(0.01 * (10 * (5 + 1) + (2 + 1)), rel=1e-4)

    @pytest.mark.parametrize("arguments", [{"features": -1.0}, {"statistics": "none"}])
    def test_objectives_are_checked(self, arguments):
        with pytest.raises(ValueError, match="Received"):
            datafree.Objective(**arguments)


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2), (0, 2, 3)])
def test_gradients_of_moments(axes):
    random = np.random.default_rng(0)
    inputs = random.normal(1, 2, (5, 3) if len(axes) == 1 else (4, 3, 5, 2)).astype("float32")
    of_mean, of_variance = random.normal(size=(2, *np.mean(inputs, axes).shape)).astype("float32")

    def total(values):
        mean, variance = channel_moments(values[0], axes)
        np.testing.assert_allclose(ops.convert_to_numpy(ops.stop_gradient(mean)), np.mean(inputs, axes), rtol=1e-5)
        np.testing.assert_allclose(ops.convert_to_numpy(ops.stop_gradient(variance)), np.var(inputs, axes), rtol=1e-5)
        return ops.sum(of_mean * mean) + ops.sum(of_variance * variance)

    _, (gradient,) = value_and_gradients(total, [inputs])
    of_mean, of_variance = (np.expand_dims(each, axes) for each in (of_mean, of_variance))
    count = inputs.size / of_mean.size
    expected = of_mean / count + 2 * of_variance * (inputs - np.mean(inputs, axes, keepdims=True)) / count
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), expected, rtol=1e-4, atol=1e-6)


class TestListening:
    def test_hears_layers_inside_of_layers_and_leaves_no_trace(self):
        rows = [
            UniversalInvertedBottleneck(8, 2, start_kernel=3, middle_kernel=3),
            ConvNormAct(4, 3, activation="relu"),
        ]
        model = keras.Sequential([keras.Input((8, 8, 8)), *rows])
        normalisations = normalizations_of(model)
        maps = np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype("float32")
        before = ops.convert_to_numpy(model(maps, training=False))
        with listening(normalisations) as heard:
            during = ops.convert_to_numpy(model(maps, training=False))
        assert len(heard) == len(normalisations) == 5
        assert len({id(layer) for layer, _ in heard}) == 5
        np.testing.assert_array_equal(before, during)
        model(maps)
        assert len(heard) == 5
        assert all("call" not in vars(layer) for layer in normalisations)

    def test_what_is_heard_is_what_is_normalised(self):
        teacher = make_teacher()
        first = teacher.layers[2]
        pictures = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")
        with listening(normalizations_of(teacher)) as heard:
            teacher(pictures)
        np.testing.assert_allclose(heard[0][1], first(pictures / 128 - 1), rtol=1e-5, atol=1e-5)

    def test_a_model_without_normalisations_is_refused_by_name(self):
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Flatten(), layers.Dense(2)], name="folded")
        with pytest.raises(ValueError, match="`folded` has none"):
            datafree.synthesize(model, 2, "nowhere", teacher_outputs="logits", rounds=1)
        assert not pathlib.Path("nowhere").exists()


class TestCanvas:
    def test_a_step_changes_the_window_alone(self):
        stage = datafree.Stage(1, 6)
        canvas = Canvas(make_teacher(), 2, 16, stage, datafree.RELATIVE)
        start = np.zeros((2, 16, 16, 3), "float32")
        row, column, _ = Windows(stage, 16, seed=3)[0][0][0]
        painted = canvas.paint(start, np.eye(4, dtype="float32")[:2], seed=3, learning_rate=0.1)
        changed = (painted != start).any(axis=(0, 3))
        inside = np.zeros((16, 16), bool)
        inside[row : row + 6, column : column + 6] = True
        assert changed.any()
        assert not changed[~inside].any()

    def test_the_terms_fall_and_the_teacher_stays(self):
        teacher = make_teacher()
        before = [weight.numpy().copy() for weight in teacher.weights]
        trainable = [weight.trainable for weight in teacher.weights]
        canvas = Canvas(teacher, 4, SIZE, datafree.Stage(60, SIZE), datafree.RELATIVE)
        labels = np.eye(4, dtype="float32")
        start = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 3)).astype("float32")
        whole = np.array([[0, 0, 0]], "int32")

        def loss(pictures):
            canvas.pictures.assign(pictures)
            canvas.labels.assign(labels)
            terms = canvas(whole)
            return sum(float(terms[name]) for name in ("classification", "variation", "squares", "features"))

        first = loss(start)
        painted = canvas.paint(start, labels, 0, 0.1)
        assert loss(painted) < 0.7 * first
        assert [weight.trainable for weight in teacher.weights] == trainable
        for value, weight in zip(before, teacher.weights, strict=True):
            np.testing.assert_array_equal(value, weight.numpy())

    def test_pictures_keep_within_black_and_white(self):
        objective = datafree.Objective(features=1e4)
        canvas = Canvas(make_teacher(), 2, SIZE, datafree.Stage(3, SIZE), objective)
        painted = canvas.paint(np.zeros((2, SIZE, SIZE, 3), "float32"), np.eye(4, dtype="float32")[:2], 0, 50.0)
        values = painted * STD + MEAN
        assert -0.01 < values.min() < 1
        assert 254 < values.max() < 255.01

    @pytest.mark.parametrize(
        "stage", [datafree.Stage(1, 17), datafree.Stage(1, 9, pool=2), datafree.Stage(1, 2, pool=3)]
    )
    def test_stages_that_do_not_fit_are_refused(self, stage):
        with pytest.raises(ValueError, match="does not fit"):
            Canvas(make_teacher(), 1, 16, stage, datafree.RELATIVE)

    @pytest.mark.once
    def test_a_later_stage_that_does_not_fit_is_refused_before_painting(self, tmp_path):
        with pytest.raises(ValueError, match=r"window=17.*does not fit"):
            make(tmp_path / "made", stages=(datafree.Stage(1, 6, pool=2), datafree.Stage(1, 17)))
        assert not (tmp_path / "made").exists()

    @pytest.mark.once
    def test_a_last_stage_of_half_the_size_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"last of `stages` must have a `pool` of 1.*pool=2"):
            make(tmp_path / "made", stages=(datafree.Stage(1, 6, pool=2),))
        assert not (tmp_path / "made").exists()

    @pytest.mark.once
    @pytest.mark.parametrize("how", [{"stages": ()}, {"size": 64}])
    def test_stages_say_the_size(self, how, tmp_path):
        with pytest.raises(ValueError, match="`stages` must be one at least, and say the `size`"):
            make(tmp_path / "made", **{"stages": STAGES[1:], **how})
        assert not (tmp_path / "made").exists()

    @pytest.mark.once
    def test_a_teacher_of_grey_pictures_wants_them_made_grey(self, tmp_path):
        inputs = keras.Input((SIZE, SIZE, 1))
        maps = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
        teacher = keras.Model(inputs, layers.Dense(4, "softmax")(layers.GlobalAveragePooling2D()(maps)))
        how = {"num_images": 4, "rounds": 1, "stages": STAGES[1:], "teacher": teacher}
        with pytest.raises(ValueError, match=r"takes pictures of 1 channels.*give a `preprocess`"):
            make(tmp_path / "made", **how)
        assert not (tmp_path / "made").exists()
        made = make(tmp_path / "made", preprocess=lambda pictures: ops.mean(pictures, -1, keepdims=True) / 64, **how)
        assert len(made) == 4

    @pytest.mark.once
    @pytest.mark.parametrize("stage", [{"steps": 0}, {"window": 0}, {"pool": 0}])
    def test_stages_of_nothing_are_refused(self, stage):
        with pytest.raises(ValueError, match=f"Received: .*{next(iter(stage))}=0"):
            datafree.Stage(**{"steps": 1, "window": 6, **stage})

    @pytest.mark.once
    @pytest.mark.parametrize(("steps", "split"), [(1, (1, 1)), (2, (1, 1)), (5, (2, 3))])
    def test_every_stage_has_a_step(self, steps, split):
        stages, _ = default_stages(224, steps)
        assert tuple(stage.steps for stage in stages) == split


class TestSynthesize:
    @pytest.mark.once
    def test_classes_that_there_is_no_room_for_are_warned_of(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Canvas, "paint", lambda self, start, *_, **__: start)
        with pytest.warns(UserWarning, match="7 pictures in 2 rounds have room for 3 of 4 classes"):
            make(tmp_path / "few", num_images=7)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".* have room for")
            made = make(tmp_path / "enough", num_images=8)
        np.testing.assert_array_equal(np.bincount(made.classes), 4 * [2])

    @pytest.mark.once
    def test_a_teacher_of_other_numbers_than_bytes_is_warned_of(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Canvas, "paint", lambda self, start, *_, **__: start)
        of_bytes = make_teacher()
        of_units = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *of_bytes.layers[2:]])  # without its scaling
        how = {"num_images": 2, "rounds": 1}
        with pytest.warns(
            UserWarning, match="gets from pictures varies 50 times.*bytes, 0 to 255 may be what it does not"
        ):
            make(tmp_path / "bytes", teacher=of_units, **how)
        with pytest.warns(UserWarning, match="`preprocess` may be what it does not take"):
            make(tmp_path / "less", teacher=of_units, preprocess=lambda pictures: pictures / 128_000, **how)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".* gets from pictures")
            make(tmp_path / "units", teacher=of_units, preprocess=lambda pictures: pictures / 128 - 1.0, **how)
            make(tmp_path / "own", teacher=of_bytes, **how)

    @pytest.mark.once
    def test_a_call_that_painted_nothing_leaves_the_folder_to_the_next_one(self, tmp_path, monkeypatch):
        def run_out(*args, **kwargs):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(Canvas, "paint", run_out)
            with pytest.raises(MemoryError):
                make(tmp_path, batch_size=4)
        assert len(make(tmp_path, batch_size=2)) == 4
        with pytest.raises(ValueError, match="pictures of another batch_size"):
            make(tmp_path, batch_size=4)

    @pytest.mark.once
    def test_a_teacher_of_one_output_is_refused(self, tmp_path):
        teacher = make_teacher()
        one = keras.Model(teacher.input, keras.layers.Dense(1)(teacher.layers[-2].output))
        with pytest.raises(ValueError, match="two classes or more"):
            make(tmp_path / "one", teacher=one)
        assert not (tmp_path / "one").exists()

    @pytest.mark.once
    def test_noise_is_part_of_the_plan(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Canvas, "paint", lambda self, start, *_, **__: start)
        natural, white = (
            make(tmp_path / noise, noise=noise, num_images=8).arrays()[0] for noise in ("natural", "white")
        )
        neighbours = [np.diff(each.astype(float), axis=1).std() / each.std() for each in (natural, white)]
        assert neighbours[0] < 0.7 * neighbours[1]
        with pytest.raises(ValueError, match="pictures of another learning_rate, noise, objective"):
            make(tmp_path / "white", noise="natural", num_images=8)
        with pytest.raises(ValueError, match=r"`noise` must be one of .*Received: 'pink'"):
            make(tmp_path / "pink", noise="pink")

    @pytest.mark.once
    @pytest.mark.parametrize(
        ("noise", "rate", "objective"), [("natural", 0.1, datafree.NATURAL), ("white", 0.25, datafree.RELATIVE)]
    )
    def test_noises_have_their_own_rate_and_objective(self, tmp_path, noise, rate, objective):
        how = {"noise": noise, "num_images": 2, "rounds": 1}
        implied = make(tmp_path, **how)
        again = make(tmp_path, learning_rate=rate, objective=objective, **how)  # the same plan, or it is refused
        np.testing.assert_array_equal(implied.arrays()[0], again.arrays()[0])
        for others in ({"learning_rate": 2 * rate}, {"objective": datafree.PAPER}):
            with pytest.raises(ValueError, match=f"pictures of another {next(iter(others))}"):
                make(tmp_path, **{**how, **others})

    @pytest.mark.once
    @pytest.mark.parametrize(("size", "count", "batches"), [(64, 251, [1, 250]), (66, 51, [1, 50])])
    def test_small_pictures_are_painted_in_larger_batches(self, tmp_path, monkeypatch, size, count, batches):
        monkeypatch.setattr(Canvas, "paint", lambda self, start, *_, **__: start)
        how = {"stages": None, "canvas": None, "size": size, "batch_size": None}
        made = make(tmp_path, num_images=count, rounds=1, steps=1, **how)
        assert sorted(len(np.load(path)["classes"]) for path in (tmp_path / "batches").iterdir()) == batches
        assert len(made) == count

    @pytest.mark.once
    def test_one_step_of_a_large_picture(self, tmp_path):
        assert len(make(tmp_path, num_images=2, rounds=1, stages=None, canvas=None, size=66, steps=1)) == 2

    def test_the_policy_of_other_models_does_not_matter(self, tmp_path):
        teacher, how = make_teacher(), {"num_images": 2, "rounds": 1, "stages": STAGES[1:]}
        make(tmp_path / "float32", teacher=teacher, **how)
        keras.config.set_dtype_policy("mixed_float16")
        try:
            make(tmp_path / "other", teacher=teacher, **how)
            half = make(tmp_path / "half", **how)
        finally:
            keras.config.set_dtype_policy("float32")
        assert files_of(tmp_path / "other") == files_of(tmp_path / "float32")
        assert np.isfinite(half.logits).all()

    def test_pictures_labels_and_folders(self, tmp_path):
        made = make(tmp_path, num_images=6, class_names=list("abcd"), classes=[1, 3, 2])
        pictures, classes = made.arrays()
        assert pictures.shape == (6, SIZE, SIZE, 3)
        assert pictures.dtype == np.uint8
        assert sorted(classes) == [1, 1, 2, 2, 3, 3]
        assert {path.parent.name for path in made.files} == {"b", "c", "d"}
        assert made.probabilities().sum(-1) == pytest.approx(np.ones(6), rel=1e-5)
        assert (tmp_path / "contact_sheet.png").exists()
        seen = make_teacher().predict(pictures.astype("float32"), verbose=0)
        np.testing.assert_allclose(seen, made.probabilities(), atol=1e-5)

    def test_labels_are_what_the_teacher_said_a_round_before(self, tmp_path, monkeypatch):
        given = []
        paint = Canvas.paint
        monkeypatch.setattr(
            Canvas,
            "paint",
            lambda self, start, labels, *a, **k: (given.append(labels), paint(self, start, labels, *a, **k))[1],
        )
        made = make(tmp_path, num_images=4, stages=STAGES[1:], batch_size=2)
        np.testing.assert_array_equal(given[0], np.eye(4)[made.classes[:2]])
        np.testing.assert_allclose(given[1], made.probabilities()[:2], rtol=1e-5)

    def test_one_hot_labels_stay(self, tmp_path, monkeypatch):
        given = []
        monkeypatch.setattr(Canvas, "paint", lambda self, start, labels, *a, **k: (given.append(labels), start)[1])
        make(tmp_path, labels="one_hot")
        assert all(set(np.unique(labels)) == {0.0, 1.0} for labels in given)

    def test_the_same_seed_gives_the_same_pictures_and_another_others(self, tmp_path):
        for name, seed in (("one", 0), ("two", 0), ("three", 1)):
            make(tmp_path / name, num_images=2, seed=seed, rounds=1, stages=STAGES[1:])
        assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
        assert set(files_of(tmp_path / "one").values()) != set(files_of(tmp_path / "three").values())

    def test_goes_on_behind_the_last_finished_batch(self, tmp_path, monkeypatch):
        how = {"num_images": 4, "batch_size": 1, "stages": STAGES[1:]}
        whole = make(tmp_path / "whole", **how)
        paint, calls = Canvas.paint, []

        def stop(self, *args, **kwargs):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return paint(self, *args, **kwargs)

        monkeypatch.setattr(Canvas, "paint", stop)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "parts", **how)
        assert len(datafree.SyntheticSet(tmp_path / "parts")) == 2
        resumed = make(tmp_path / "parts", **how)
        assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")
        np.testing.assert_array_equal(whole.logits, resumed.logits)

    def test_a_folder_of_other_pictures_is_refused(self, tmp_path):
        make(tmp_path, num_images=2, rounds=1, stages=STAGES[1:])
        with pytest.raises(ValueError, match="another rounds, seed"):
            make(tmp_path, num_images=2, seed=1, stages=STAGES[1:])
        with pytest.raises(ValueError, match="another teacher_outputs"):
            make(tmp_path, num_images=2, rounds=1, stages=STAGES[1:], teacher_outputs="logits")

    def test_preprocessing_is_known_by_what_it_does(self, tmp_path):
        how = {"num_images": 2, "rounds": 1, "stages": STAGES[1:]}
        make(tmp_path, preprocess=lambda pictures: pictures / 2, **how)
        assert len(make(tmp_path, preprocess=lambda pictures: 0.5 * pictures, **how)) == 2
        with pytest.raises(ValueError, match="another preprocess"):
            make(tmp_path, preprocess=lambda pictures: pictures / 3, **how)

    def test_classes_of_one_name_have_folders_of_their_own(self, tmp_path):
        made = make(tmp_path, num_images=4, rounds=1, stages=STAGES[1:], class_names=["crane", "cat", "crane", "dog"])
        folders = {0: "crane_0000", 1: "cat", 2: "crane_0002", 3: "dog"}
        assert [path.parent.name for path in made.files] == [folders[each] for each in made.classes]
        assert made.class_names == ("crane", "cat", "crane", "dog")

    def test_a_teacher_whose_classes_are_not_known_is_refused(self, tmp_path):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.inner = make_teacher()

            def call(self, inputs):
                return self.inner(inputs)

        teacher = Subclassed()
        teacher(np.zeros((1, SIZE, SIZE, 3)))
        with pytest.raises(ValueError, match="`teacher` must be a Functional or Sequential model"):
            make(tmp_path / "out", teacher=teacher, teacher_outputs="probabilities")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_images": 0}, "num_images=0"),
            ({"labels": "hard"}, "`labels` must be one of"),
            ({"classes": [4]}, "from 0 to 3"),
            ({"class_names": ["a"]}, "must be 4 names"),
            ({"class_names": ["a", "b", "..", "c"]}, r"`class_names` must be names of folders.*'\.\.'"),
            ({"class_names": ["a", "b/c", "d", "e"]}, "Received: 'b/c'"),
            ({"class_names": ["a", "b", "/m/01g317", "c"]}, "Received: '/m/01g317'"),
            ({"rounds": 9}, "rounds=9"),
        ],
    )
    def test_arguments_are_checked_before_anything_is_written(self, tmp_path, arguments, message):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "out", **arguments)
        assert not (tmp_path / "out").exists()

    def test_other_preprocessing(self, tmp_path):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((SIZE, SIZE, 3))
        maps = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
        teacher = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(maps)))
        how = {"teacher": teacher, "teacher_outputs": "logits", "num_images": 3, "rounds": 1}
        scale = keras.applications.mobilenet_v2.preprocess_input
        made = make(tmp_path, preprocess=scale, stages=STAGES[1:], **how)
        pictures = made.arrays()[0].astype("float32")
        np.testing.assert_allclose(teacher.predict(pictures / 127.5 - 1, verbose=0), made.logits, atol=1e-5)


@pytest.mark.once
def test_what_a_killed_process_left_half_written_is_cleared(tmp_path):
    left = tmp_path / "batches" / ".00_000000.npz.abc", tmp_path / "pictures" / "0" / ".00_000000.png.abc"
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "half").touch()
    make(tmp_path)
    assert not any(folder.exists() for folder in left)


@pytest.mark.slow
@pytest.mark.once
def test_killed_at_ten_moments_it_loses_no_finished_batch(tmp_path):
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
        from test_synthesis import make
        make(sys.argv[1], num_images=24)
    """)
    command = [sys.executable, "-c", script]
    env = dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parents[2]))
    start = time.monotonic()
    subprocess.run([*command, tmp_path / "whole"], env=env, check=True)
    took = time.monotonic() - start
    random, kills, finished = np.random.default_rng(0), 0, {}
    for _ in range(200):
        process = subprocess.Popen([*command, tmp_path / "killed"], env=env)
        try:
            process.wait(took * random.uniform(0.5, 0.9) if kills < 10 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        now = {path.name: path.read_bytes() for path in (tmp_path / "killed" / "batches").glob("*.npz")}
        assert all(now[name] == content for name, content in finished.items())
        finished = now
        if process.returncode == 0:
            break
    assert kills
    assert process.returncode == 0
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "killed")
    assert json.loads((tmp_path / "killed" / "plan.json").read_text())["num_images"] == 24
