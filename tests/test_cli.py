import functools
import inspect
import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from conftest import SMALL
from conftest import photo_data
from keras import ops

import mnv4 as entry
from keras_mnv4 import applications
from keras_mnv4 import cli
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4 import tuner
from keras_mnv4.cli import commands
from keras_mnv4.cli import named
from keras_mnv4.cli import parser
from keras_mnv4.demo import run_demo
from keras_mnv4.export import metadata


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch):
    """The command line with a network of three blocks, which compiles in seconds."""
    monkeypatch.setattr(applications, "MobileNetV4ConvSmall", functools.partial(applications.build_network, SMALL))


def answer(capsys):
    """What a command printed with `--json`."""
    return json.loads(capsys.readouterr().out)


def mnv4(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_the_program_runs_the_command_it_was_called_with(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["mnv4", "check", str(tmp_path / "missing.tflite")])
    assert entry.main() == 1
    assert "missing.tflite" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.tensorflow
def test_from_photos_to_an_app_file_step_by_step(photo_folder, tmp_path, capsys):
    model, quantized = tmp_path / "model.keras", tmp_path / "quantized.keras"
    narrow = ("--data", photo_folder, "--size", 32, "--alpha", 0.35, "--epochs", 1)
    assert mnv4("train", *narrow, "--out", model) == 0
    assert "test top-1" in capsys.readouterr().out
    assert (tmp_path / "model.labels.txt").read_text() == "china\nflower\n"
    assert mnv4("quantize", model, "--data", photo_folder, "--epochs", 0, "--out", quantized) == 0
    project = tmp_path / "project"
    (project / "app" / "src" / "main").mkdir(parents=True)
    files = {target: tmp_path / f"{target}.tflite" for target in ("edgetpu", "app", "float")}
    files["onnx"] = tmp_path / "float.onnx"
    for target, path in files.items():
        source = quantized if target in ("edgetpu", "app") else model
        android = ("--android", project) if target == "app" else ()
        assert mnv4("export", source, "--target", target, "--data", photo_folder, "--out", path, *android) == 0
        assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert metadata.read_class_names(files["app"].read_bytes()) == ["china", "flower"]
    assert (project / "app/src/main/assets/vision.tflite").read_bytes() == files["app"].read_bytes()
    assert mnv4("check", files["edgetpu"]) == 0
    assert "operators map to the Edge TPU" in capsys.readouterr().out
    assert mnv4("check", files["float"]) == 1
    assert "FLOAT32" in capsys.readouterr().out

    assert mnv4("train", *narrow, "--out", model) == 1  # an existing file
    assert "overwrite" in capsys.readouterr().err
    assert mnv4("quantize", model, "--policy", "w9a9", "--out", tmp_path / "q.keras") == 1
    assert "'w9a9'" in capsys.readouterr().err
    assert mnv4("export", model, "--out", tmp_path / "float_as_int8.tflite") == 1
    assert "quantize_model" in capsys.readouterr().err
    (tmp_path / "quantized.labels.txt").unlink()
    assert mnv4("export", quantized, "--target", "app", "--out", tmp_path / "a.tflite") == 1
    assert "quantized.labels.txt" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


@pytest.mark.tensorflow
@pytest.mark.parametrize(("target", "name"), [("float", "model.tflite"), ("onnx", "model.onnx")])
def test_files_have_names_where_none_is_given(target, name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    applications.MobileNetV4ConvSmall(classes=3, input_shape=(32, 32, 3)).save("trained.keras")
    assert mnv4("export", "trained.keras", "--target", target) == 0
    assert name in capsys.readouterr().out
    assert (tmp_path / name).is_file()


@pytest.mark.tensorflow
@pytest.mark.parametrize(("is_scaled", "labels"), [(True, ["a", "b", "c"]), (False, [])])
def test_a_float_file_carries_labels_where_pictures_are_bytes(is_scaled, labels, tmp_path):
    arguments = {"classes": 3, "input_shape": (32, 32, 3), "include_preprocessing": is_scaled}
    applications.MobileNetV4ConvSmall(weights=None, **arguments).save(tmp_path / "model.keras")
    (tmp_path / "model.labels.txt").write_text("a\nb\nc\n")
    out = tmp_path / "model.tflite"
    assert mnv4("export", tmp_path / "model.keras", "--target", "float", "--out", out) == 0
    assert metadata.read_class_names(out.read_bytes()) == labels


@pytest.mark.tensorflow
def test_what_stays_in_float_is_said(tmp_path, capsys):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="plain")(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="predictions")(keras.layers.Flatten()(x)))
    policy = qat.Policy((qat.Rule("plain"), *qat.get_policy("w8a8").rules))
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3))
    qat.quantize_model(model, policy, pictures).save(tmp_path / "m.keras")
    assert mnv4("export", tmp_path / "m.keras", "--target", "onnx", "--out", tmp_path / "m.onnx") == 0
    assert "In float: plain, predictions" in capsys.readouterr().out
    assert mnv4("--json", "export", tmp_path / "m.keras", "--target", "onnx", "--out", tmp_path / "n.onnx") == 0
    assert answer(capsys)["float_layers"] == ["plain", "predictions"]


def test_errors_are_one_line_and_leave_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "empty").mkdir()
    assert mnv4("train", "--data", tmp_path / "empty", "--out", out / "m.keras") == 1
    assert mnv4("train", "--out", tmp_path / "no" / "m.keras") == 1
    assert mnv4("quantize", tmp_path / "missing.keras", "--out", out / "q.keras") == 1
    assert mnv4("check", tmp_path / "missing.tflite") == 1
    lines = capsys.readouterr().err.splitlines()
    assert mnv4("train", "--out", out / "model") == 1
    assert mnv4("quantize", tmp_path / "missing.keras", "--out", out / "q.h5") == 1
    lines += capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert all("`--out` must end in .keras" in line for line in lines[4:])
    assert all(line.startswith("mnv4: ") for line in lines)
    assert not list(out.iterdir())


@pytest.mark.slow
@pytest.mark.once
def test_a_search_leaves_a_network(photo_folder, tmp_path, capsys):
    out = tmp_path / "search"
    how = ("--space", "tiny", "--weight-bits", 4, 8, "--limit", "macs=7e5", "--epochs", 1, "--population", 2)
    assert mnv4("search", "--data", photo_folder, "--out", out, *how, "--generations", 1, "--train-epochs", 1) == 0
    printed = capsys.readouterr().out
    assert "network.json" in printed
    assert "test top-1" in printed
    network = applications.MobileNetV4(out / "network.json", classes=2, input_shape=(32, 32, 3))
    assert keras.models.load_model(out / "model.keras").count_params() >= network.count_params()
    assert len(json.loads((out / "results.json").read_text())) == 2


@pytest.mark.once
def test_limits_of_a_search_are_read(capsys):
    assert mnv4("search", "--limit", "macs") == 1
    assert "macs=30e6" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--limit", "flops=1e6"), "flops"),
        (("--limit", "macs=0"), "numbers above 0"),
        (("--limit", "macs=1e6", "--limit", "macs=2e6"), "once for each measure"),
        (("--limit", "macs=10"), "Raise the limits"),
        (("--size", 16), "32 pixels at least"),
        (("--weight-bits", 9), "w9a8"),
        (("--weight-bits", 9, "--space", "two-stage"), "w9a8"),
        (("--strategy", "darts", "--space", "two-stage"), "--strategy spos"),
    ],
)
def test_a_search_is_checked_before_pictures_are_made(arguments, message, tmp_path, capsys):
    assert mnv4("search", "--teacher", tmp_path / "not_looked_for.keras", *arguments, "--out", tmp_path / "search") == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_a_search_checks_its_data_before_pictures_are_made(photo_folder, tmp_path, capsys):
    teacher, out = _save_teacher(tmp_path / "teacher.keras", classes=5), tmp_path / "search"
    assert mnv4("search", "--teacher", teacher, "--data", photo_folder, "--size", 32, "--out", out) == 1
    assert "was trained for 5 classes" in capsys.readouterr().err
    assert mnv4("search", "--teacher", teacher, "--data", tmp_path / "missing", "--out", out) == 1
    assert "missing" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.once
def test_limits_of_a_search_are_checked_for_the_classes_there_are(tmp_path, capsys):
    """The least network of 5 classes has fewer parameters than a classifier of 1,000 alone."""
    teacher, limit = _save_teacher(tmp_path / "teacher.keras", classes=5), ("--limit", "parameters=1e5")
    for how in ((), ("--teacher", teacher)):
        assert mnv4("search", "--data", tmp_path / "missing", *how, *limit, "--out", tmp_path / "search") == 1
        assert "missing" in capsys.readouterr().err


@pytest.mark.once
def test_pictures_of_a_search_are_made_from_a_teacher_only(tmp_path, capsys):
    assert mnv4("search", "--pictures", 20, "--batch-size", 20, "--steps", 120, "--out", tmp_path / "search") == 1
    assert "without it: `--pictures`, `--batch-size`" in capsys.readouterr().err


@pytest.mark.once
def test_what_a_search_found_is_trained_with_backups(photo_folder, tmp_path, monkeypatch):
    out, backups = tmp_path / "search", []

    def search(space, data, directory, strategy, *, seed, **_):
        assert seed == 3
        directory.mkdir()
        return space.largest

    def train(model, *_, backup_dir, **__):
        backups.append(backup_dir)
        return model

    monkeypatch.setattr(tuner, "gradient_search", search)
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "quantize", train)
    monkeypatch.setattr(commands, "_report_and_save", lambda *_: commands.Outcome("", {}))
    how = ("--space", "tiny", "--strategy", "darts", "--weight-bits", 4, 8, "--seed", 3)
    assert mnv4("search", "--data", photo_folder, *how, "--out", out) == 0
    assert backups == [out / "backup" / "float", out / "backup" / "quantized"]


TRAINING = ("train", "fine_tune", "distill", "quantize")


class Noted(Exception):
    """Far enough: what is trained, and how, is known."""


@pytest.fixture
def noted(monkeypatch):
    """What was given to whichever function trains; nothing is trained."""
    given = {}

    def note(model, *others, **how):
        given.update(how, model=model, others=others)
        raise Noted

    for name in TRAINING:
        monkeypatch.setattr(training, name, note)
    return given


@pytest.mark.once
@pytest.mark.parametrize("command", [*TRAINING, "demo"])
@pytest.mark.parametrize(
    ("pictures", "options", "is_mirrored"),
    [("photos", (), True), ("photos", ("--no-flip",), False), ("digits", (), False)],
)
def test_photos_are_mirrored_in_training_unless_told_otherwise(
    command, pictures, options, is_mirrored, photo_folder, tmp_path, noted
):
    teacher = _save_teacher(tmp_path / "teacher.keras", classes=2 if pictures == "photos" else 10)
    words = {"train": ("train",), "fine_tune": ("train", "--weights", teacher), "demo": ("demo",)}
    words |= {name: (name, teacher) for name in ("distill", "quantize")}
    data = ("--data", photo_folder) if pictures == "photos" else ()
    size = () if command == "quantize" else ("--size", 32)
    with pytest.raises(Noted):
        mnv4("--traceback", *words[command], *data, *size, *options, "--out", tmp_path / "m.keras")
    assert noted["flip"] is is_mirrored


@pytest.mark.once
@pytest.mark.parametrize("source", ["--teacher", "--data"])
@pytest.mark.parametrize(("options", "is_mirrored"), [((), True), (("--no-flip",), False)])
def test_pictures_of_a_search_are_mirrored_unless_told_otherwise(
    source, options, is_mirrored, photo_folder, tmp_path, monkeypatch
):
    searched = {}

    def search(space, data, directory, strategy, *, augmentation, **_):
        searched["in the search"] = any(isinstance(each, keras.layers.RandomFlip) for each in augmentation)
        directory.mkdir()
        return space.largest

    def train_found(*_, flip):
        searched["behind it"] = flip

    made = types.SimpleNamespace(picture_data=lambda size: photo_data(), size=32)
    monkeypatch.setattr(commands, "_synthesize", lambda *_: made)
    monkeypatch.setattr(commands, "_report_and_save", lambda *_: commands.Outcome("", {}))
    monkeypatch.setattr(tuner, "gradient_search", search)
    monkeypatch.setattr(tuner, "train_found", train_found)
    path = photo_folder if source == "--data" else _save_teacher(tmp_path / "teacher.keras")
    how = ("--space", "tiny", "--strategy", "darts", "--size", 32, *options)
    assert mnv4("search", source, path, *how, "--out", tmp_path / "search") == 0
    assert searched == {"in the search": is_mirrored, "behind it": is_mirrored}


def _save_teacher(path, classes=2, size=32):
    applications.build_network(SMALL, classes=classes, input_shape=(size, size, 3)).save(path)
    return path


def test_a_teacher_of_any_size_is_asked_in_the_size_that_it_painted(tmp_path):
    pictures = keras.Input((None, None, 3))
    maps = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 5, activation="relu")(pictures))
    teacher = keras.Model(pictures, keras.layers.Dense(2, "softmax")(maps))
    asked = commands._for_pictures(teacher, 48, (32, 32, 3))
    shown = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = teacher(keras.layers.Resizing(48, 48)(shown))
    np.testing.assert_allclose(ops.convert_to_numpy(asked(shown)), ops.convert_to_numpy(expected), rtol=1e-5)
    of_one_size = keras.models.load_model(_save_teacher(tmp_path / "of_one_size.keras"))
    assert commands._for_pictures(of_one_size, 48, (32, 32, 3)) is of_one_size


def _save_teacher_that_tells_them_apart(path):
    """China's photo is the brighter one by far: two units weigh a picture's mean against a grey between the two."""
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    classify = keras.layers.Dense(2, activation="softmax")
    teacher = keras.Model(pixels, classify(x))
    classify.set_weights([np.full((3, 2), [1.0, -1.0]), np.array([-1.2, 1.2])])
    teacher.save(path)
    return path


@pytest.mark.tensorflow
def test_a_student_learns_from_a_file(photo_folder, tmp_path, capsys):
    teacher = _save_teacher_that_tells_them_apart(tmp_path / "teacher.keras")
    store, student = tmp_path / "store", tmp_path / "student.keras"
    how = ("--data", photo_folder, "--size", 32, "--alpha", 0.35, "--mix", "1:2:1", "--pool", photo_folder)
    assert mnv4("distill", teacher, *how, "--epochs", 1, "--store", store, "--out", student) == 0
    assert "test top-1" in capsys.readouterr().out
    assert (tmp_path / "student.labels.txt").read_text() == "china\nflower\n"
    plan = json.loads((store / "store.json").read_text())
    assert (plan["pictures"], plan["mix"]["ratio"], plan["mix"]["size"]) == (14, [1, 2, 1], 32)
    assert [source["augmentation"]["mixup"] for source in plan["mix"]["sources"]] == [None, 1.0, None]
    assert keras.models.load_model(student).output_shape == (None, 2)


@pytest.mark.slow
def test_a_student_asks_its_teacher_in_each_step(photo_folder, tmp_path, capsys):
    teacher, student = _save_teacher(tmp_path / "teacher.keras"), tmp_path / "student.keras"
    assert mnv4("distill", teacher, "--data", photo_folder, "--size", 32, "--epochs", 2, "--out", student) == 0
    assert "test top-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "arguments", "message"),
    [
        (3, (), "was trained for 3 classes. The pictures of --data have 2: china, flower."),
        (2, ("--mix", "1:one:0"), "such as 1:1:0"),
        (2, ("--mix", "1:1"), "--mix must be three parts"),
        (2, ("--mix", "0:0:0"), "--mix must be three parts"),
        (2, ("--mix", "nan:1:0"), "--mix must be three parts"),
        (2, ("--mix", "1:1:2"), "D3 takes its pictures from --pool"),
        (2, ("--pool", None), "a --mix that ends in 0"),
        (2, ("--mix", "1:1:2", "--pool", "no/such/folder"), "--pool must be a folder"),
    ],
)
def test_what_a_student_cannot_learn_from(photo_folder, tmp_path, capsys, classes, arguments, message):
    teacher = _save_teacher(tmp_path / "teacher.keras", classes)
    out = tmp_path / "student.keras"
    arguments = [photo_folder if each is None else each for each in arguments]
    assert mnv4("distill", teacher, "--data", photo_folder, "--size", 32, *arguments, "--out", out) == 1
    assert message in capsys.readouterr().err.replace("`", "")
    assert not out.exists()


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ("pants\nshirt\n", ("--data", None), "2 classes: pants, shirt. The pictures of --data have 2: china, flower."),
        (None, (), "2 classes. The pictures of --data have 10: 0, 1, 2"),  # the digits, of a forgotten --data
    ],
)
def test_models_of_other_classes_are_not_quantised(photo_folder, tmp_path, capsys, labels, arguments, message):
    model = _save_teacher(tmp_path / "model.keras")
    if labels is not None:
        (tmp_path / "model.labels.txt").write_text(labels)
    arguments = [photo_folder if each is None else each for each in arguments]
    assert mnv4("quantize", model, *arguments, "--epochs", 0, "--out", tmp_path / "q.keras") == 1
    assert message in capsys.readouterr().err.replace("`", "")
    assert not (tmp_path / "q.keras").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((None, None, 3), "has (None, None, 3), (2,)"),
        ((32, 48, 3), "has (32, 48, 3), (2,)"),
        ((32, 32, 1), "has (32, 32, 1), (2,)"),
    ],
)
def test_models_that_are_no_classifiers_of_pictures_are_not_quantised(tmp_path, capsys, shape, message):
    _pooled(shape, "softmax").save(tmp_path / "model.keras")
    assert mnv4("quantize", tmp_path / "model.keras", "--out", tmp_path / "q.keras") == 1
    assert message in capsys.readouterr().err


def _pooled(shape, activation):
    pixels = keras.Input(shape)
    outputs = keras.layers.Dense(2, activation)(keras.layers.GlobalAveragePooling2D()(pixels))
    return keras.Model(pixels, outputs)


@pytest.mark.once
@pytest.mark.tensorflow
def test_models_that_give_logits_are_quantised_and_exported(photo_folder, tmp_path):
    model = _pooled((32, 32, 3), None)
    model.save(tmp_path / "model.keras")
    data, quantized = ("--data", photo_folder), tmp_path / "q.keras"
    assert mnv4("quantize", tmp_path / "model.keras", *data, "--epochs", 1, "--out", quantized) == 0
    assert mnv4("export", quantized, *data, "--target", "cpu", "--out", tmp_path / "model.tflite") == 0


@pytest.mark.once
@pytest.mark.tensorflow
@pytest.mark.parametrize(("target", "suffix"), [("cpu", "tflite"), ("onnx", "onnx")])
def test_exports_say_how_each_output_agrees(target, suffix, tmp_path, capsys):
    pixels = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    model = keras.Model(pixels, [keras.layers.Conv2D(2, 3, name=name)(scaled) for name in ("boxes", "scores")])
    pictures = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3))
    qat.quantize_model(model, calibration_data=pictures).save(tmp_path / "q.keras")
    how = ("--target", target, "--out", tmp_path / f"m.{suffix}")
    assert mnv4("export", tmp_path / "q.keras", *how) == 0
    printed = capsys.readouterr().out
    assert "\nboxes: Agreement(samples=" in printed
    assert "\nscores: Agreement(samples=" in printed
    assert mnv4("--json", "export", tmp_path / "q.keras", *how, "--overwrite") == 0
    assert set(json.loads(capsys.readouterr().out)["agreements"]) == {"boxes", "scores"}


@pytest.mark.once
@pytest.mark.parametrize("command", [("train",), ("distill", "teacher.keras"), ("demo",)])
def test_pictures_that_are_too_small_are_refused_before_any_is_read(tmp_path, capsys, command):
    out = () if command == ("demo",) else ("--out", tmp_path / "model.keras")
    assert mnv4(*command, "--data", tmp_path / "not_looked_for", "--size", 16, *out) == 1
    assert "`--size` must be 32 pixels at least. Received: 16" in capsys.readouterr().err


@pytest.mark.once
def test_checkpoints_of_other_classes_are_built_with_theirs(photo_folder, tmp_path, monkeypatch):
    built = []

    def build(**how):
        built.append((how["weights"], how["classes"]))
        raise ValueError("far enough")

    monkeypatch.setattr(applications, "MobileNetV4ConvMedium", build)
    for tag in ("e250_r384_in12k", "imagenet"):
        out = ("--data", photo_folder, "--out", tmp_path / "model.keras")
        assert mnv4("train", "--model", "conv_medium", "--weights", tag, *out) == 1
    assert built == [("e250_r384_in12k", 11821), ("imagenet", 1000)]


@pytest.mark.once
def test_labels_and_files_of_others_are_not_replaced(photo_folder, tmp_path, capsys):
    (tmp_path / "m.labels.txt").write_text("mine")
    assert mnv4("train", "--data", photo_folder, "--out", tmp_path / "m.keras") == 1
    assert "`--overwrite`" in capsys.readouterr().err
    model = _save_teacher(tmp_path / "model.keras")
    for target, out in (("onnx", "m.tflite"), ("edgetpu", "m.onnx"), ("edgetpu", model.name)):
        assert mnv4("export", model, "--target", target, "--out", tmp_path / out, "--overwrite") == 1
        assert "`--out` must end in .tflite" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("train", "--out", "m.keras"), "--backup"),
        (("distill", "teacher.keras", "--out", "m.keras"), "--backup"),
        (("distill", "teacher.keras", "--out", "m.keras"), "--store"),
        (("quantize", "model.keras", "--out", "m.keras"), "--backup"),
        (("search",), "--out"),
        (("search", "--teacher", "teacher.keras"), "--out"),
        (("synthesize", "model.keras"), "--out"),
        (("demo",), "--out"),
    ],
)
@pytest.mark.parametrize("inside", ["", "folder"])
def test_files_where_folders_go_are_refused_before_any_work(command, option, inside, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    assert mnv4(*command, option, tmp_path / "taken" / inside) == 1
    error = capsys.readouterr().err
    assert f"`{option}` must be a folder, or the name of a new one" in error
    assert "overwrite" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.once
@pytest.mark.parametrize(
    "command",
    [("train",), ("distill", "t.keras"), ("quantize", "m.keras"), ("export", "m.keras"), ("cost", "conv_small")],
)
def test_files_that_exist_are_an_error_with_the_way_out(command, tmp_path, capsys):
    out = tmp_path / {"export": "there.tflite", "cost": "there.csv"}.get(command[0], "there.keras")
    out.write_text("mine")
    assert mnv4(*command, "--out", out) == 1
    assert capsys.readouterr().err == f"mnv4: '{out}' exists. `--out` names another, `--overwrite` replaces it.\n"


@pytest.mark.once
def test_a_model_in_an_android_project_is_an_error_with_the_way_out(tmp_path, capsys):
    asset = tmp_path / "app" / "src" / "main" / "assets" / "vision.tflite"
    asset.parent.mkdir(parents=True)
    asset.write_text("mine")
    how = ("--target", "app", "--out", tmp_path / "a.tflite", "--android", tmp_path)
    assert mnv4("export", "m.keras", *how) == 1
    expected = f"mnv4: '{asset}' exists. `--android` names another, `--overwrite` replaces it.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--size", "0"),
        ("train", "--alpha", "-1"),
        ("train", "--epochs", "-1"),
        ("search", "--train-epochs", "-1"),
        ("cost", "m.keras", "--size", "-5"),
    ],
)
def test_numbers_out_of_range_are_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        mnv4(*arguments)
    assert ended.value.code == 2
    assert f"{arguments[-2]}: must be" in capsys.readouterr().err


def test_unreadable_pictures_are_counted(photo_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_, **__: None)
    (photo_folder / "china" / "broken.jpg").write_text("damaged")
    narrow = ("--size", 32, "--alpha", 0.35)
    assert mnv4("train", "--data", photo_folder, *narrow, "--out", tmp_path / "m.keras") == 0
    assert "Left out 1 unreadable files" in capsys.readouterr().err


@pytest.mark.tensorflow
def test_the_demo_runs_on_a_folder_and_says_what_fails(photo_folder, tmp_path, capsys):
    """Two epochs are too few to learn in: the files must be made and verified, and the exit status tell."""
    status = mnv4("demo", "--data", photo_folder, "--out", tmp_path / "out", "--size", 32, "--epochs", 2)
    printed = " ".join(capsys.readouterr().out.split())
    names = {"float.keras", "w8a8.keras", "edgetpu.tflite", "app.tflite", "float.onnx"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for check in ("Edge TPU file maps wholly", "every operator is its layer", "saved model gives the same outputs"):
        assert f"ok {check}" in printed
    assert "M multiply-accumulates" in printed
    assert (status == 0) == ("FAILED" not in printed)


@pytest.mark.once
def test_the_demo_of_a_network_that_is_quantised_already_is_refused(photo_folder, tmp_path, noted):
    def build(**how):
        return qat.quantize_model(applications.build_network(SMALL, **how))

    with pytest.raises(ValueError, match="`build` must build a float network"):
        run_demo(tmp_path / "out", photo_folder, 32, build=build)
    assert not noted


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_model_optimization", "tf_keras", "tf2onnx"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import keras, numpy as np
from keras_mnv4 import applications, data, export, qat, training
assert keras.backend.backend() == "jax"
folder, out = sys.argv[1:]
photos = data.load_image_folder(folder, 32, batch_size=8)
blocks = (
    applications.Conv(8, kernel=3, stride=2),
    applications.UIB(8, expand=2, start=3, middle=3),
    applications.MQA(8, heads=2, key_dim=4),
)
small = applications.Architecture("small", blocks[:2])
hybrid = applications.build_network(applications.Architecture("hybrid", blocks), input_shape=(32, 32, 3))
assert hybrid.output_shape == (None, 1000)
model = applications.build_network(small, input_shape=(32, 32, 3), classes=2)
quantized = qat.quantize_model(model, calibration_data=photos.train.arrays(limit=16)[0])
quantized.compile("adam", "sparse_categorical_crossentropy")
quantized.fit(photos.train, verbose=0)
quantized.save(out)
loaded = keras.models.load_model(out)
pictures = photos.test.arrays()[0].astype("float32")
assert np.array_equal(loaded.predict(pictures, verbose=0), quantized.predict(pictures, verbose=0))
try:
    export.to_litert(quantized, out + ".tflite")
except RuntimeError as error:
    assert "KERAS_BACKEND=tensorflow" in str(error)
else:
    raise AssertionError("exported without TensorFlow")
assert "tensorflow" not in sys.modules
"""


@pytest.mark.no_cover
@pytest.mark.tensorflow  # for the last lines; the rest is a process of its own
def test_everything_but_export_works_on_jax_without_tensorflow(photo_folder, tmp_path):
    quickly = "--xla_backend_optimization_level=0"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": quickly}
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", BLOCKED, str(photo_folder), str(tmp_path / "q.keras")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # A file made there, with portable quantisers, opens here with TFMOT's.
    loaded = keras.models.load_model(tmp_path / "q.keras")
    engine = loaded.get_layer("stem").output_quantizer.engine.quantizer
    assert type(engine).__module__.startswith("tensorflow_model_optimization")


@pytest.mark.once
def test_cost_of_a_network_as_a_table_and_as_files(tmp_path, capsys):
    files = [tmp_path / f"cost{ending}" for ending in (".csv", ".json", ".html", ".png")]
    for path in files:
        assert mnv4("cost", "conv_small", "--size", 32, "--policy", "w4a8", "--out", path) == 0
        assert path.stat().st_size > 1000
    output = capsys.readouterr().out
    assert "block_1/middle_depthwise" in output
    assert "int4 x int8" in output
    assert "pixel_8_edgetpu" in output
    applications.MobileNetV4ConvSmall(weights=None, input_shape=(32, 32, 3)).save(tmp_path / "model.keras")
    assert mnv4("cost", tmp_path / "model.keras") == 0
    assert "float32 x float32" in capsys.readouterr().out
    assert mnv4("cost", "ResNet18", "--size", 32) == 0
    assert "resnet18" in capsys.readouterr().out
    for wrong in (("nothing",), ("conv_small", "--out", tmp_path / "cost.txt"), ("conv_small", "--prices", "gold")):
        assert mnv4("cost", *wrong) == 1
    assert "gold" in capsys.readouterr().err
    assert not (tmp_path / "cost.txt").exists()


@pytest.fixture
def found(tmp_path):
    """The file that a search leaves."""
    (tmp_path / "network.json").write_text(json.dumps(SMALL.to_dict()))
    return tmp_path / "network.json"


@pytest.mark.once
@pytest.mark.parametrize("command", ["train", "distill"])
def test_a_network_that_was_found_is_trained(command, found, photo_folder, tmp_path, noted):
    teacher = (_save_teacher(tmp_path / "teacher.keras"),) if command == "distill" else ()
    how = ("--data", photo_folder, "--model", found, "--alpha", 2, "--size", 32, "--out", tmp_path / "m.keras")
    with pytest.raises(Noted):
        mnv4("--traceback", command, *teacher, *how)
    assert (noted["model"].name, noted["model"].output_shape) == ("small", (None, 2))
    assert noted["model"].get_layer("stem").filters == 16


@pytest.mark.once
def test_the_cost_of_a_network_that_was_found(found, capsys):
    assert mnv4("--json", "cost", found) == 0
    expected = applications.build_network(SMALL).count_params()
    assert 0 < answer(capsys)["parameters"] <= expected


@pytest.mark.once
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "`--model` names no file. Received: "),
        ("no table", "`--model` must be a JSON file of an architecture"),
        (json.dumps([{"accuracy": 0.5}] * 1000), "An architecture is a dictionary"),  # such as results.json
        (json.dumps(tuner.tiny_space().architecture.to_dict()), "it is a search space"),
    ],
)
def test_files_that_are_no_network_are_refused_before_pictures_are_read(content, message, tmp_path, capsys):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    out = ("--data", tmp_path / "not_looked_for", "--out", tmp_path / "m.keras")
    assert mnv4("train", "--model", path, *out) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error) < 600 + len(str(path))


@pytest.mark.once
def test_networks_go_by_their_constructors_in_either_spelling():
    shape = {"weights": None, "input_shape": (32, 32, 3), "classes": 2, "dropout_rate": 0.2}
    for name in applications.ARCHITECTURES:
        build = named.network(name)
        assert build is getattr(applications, name)
        inspect.signature(build).bind(**shape)
    for short, name in (("conv_aa_large", "MobileNetV4ConvAALarge"), ("resnet18", "ResNet18")):
        assert named.network(short) is getattr(applications, name)
    assert named.network("pikelpn_1x") is applications.PikeLPN1x
    assert len({named._spelling(name) for name in applications.ARCHITECTURES}) == len(applications.ARCHITECTURES)


@pytest.mark.once
@pytest.mark.parametrize("command", [("train",), ("distill", "teacher.keras"), ("demo",), ("cost",)])
def test_a_network_that_is_none_is_refused_with_those_that_are(command, tmp_path, capsys):
    argument, name = ("model", ("nothing",)) if command == ("cost",) else ("--model", ("--model", "nothing"))
    assert mnv4(*command, *name, "--out", tmp_path / ("out.csv" if command == ("cost",) else "out.keras")) == 1
    error = capsys.readouterr().err
    assert f"`{argument}` must be a network, or a file of one that is there. Received: nothing." in error
    assert all(name in error for name in ("MobileNetV4ConvAALarge", "EfficientNetLite2", "ResNet200", "PikeLPN6x"))


@pytest.mark.once
def test_networks_of_one_width_have_no_other(tmp_path, capsys):
    how = ("--data", tmp_path / "not_looked_for", "--model", "PikeLPN1x", "--alpha", 0.5)
    assert mnv4("train", *how, "--out", tmp_path / "m.keras") == 1
    assert "`--alpha` must be 1 for `--model` PikeLPN1x" in capsys.readouterr().err
    assert named.network("resnet18", 0.5)(weights=None, input_shape=(32, 32, 3)).get_layer("block_2").filters == 32


@pytest.mark.once
def test_policies_of_files(photo_folder, tmp_path, capsys, noted):
    path, model = tmp_path / "policy.json", _save_teacher(tmp_path / "model.keras")
    rules = (qat.Rule("predictions/.*"), *qat.get_policy("w4a8").rules)
    path.write_text(qat.Policy(rules, name="mine").to_json())
    assert mnv4("cost", "conv_small", "--size", 32, "--policy", path) == 0
    printed = capsys.readouterr().out
    assert "int4 x int8" in printed
    assert "float32" in printed
    with pytest.raises(Noted):
        mnv4("--traceback", "quantize", model, "--data", photo_folder, "--policy", path, "--out", tmp_path / "q.keras")
    assert noted["others"][1].name == "mine"
    path.write_text("{}")
    for wrong, message in ((path, "or a .json file of one"), (tmp_path / "no.json", "`--policy` names no file")):
        for command in (("cost", "conv_small"), ("quantize", model, "--out", tmp_path / "q.keras")):
            assert mnv4(*command, "--policy", wrong) == 1
            assert message in capsys.readouterr().err


@pytest.mark.tensorflow
def test_cost_of_a_file_is_its_latency(tmp_path, capsys):
    model = applications.MobileNetV4ConvSmall(weights=None, input_shape=(32, 32, 3), classes=3)
    model.save(tmp_path / "model.keras")
    assert mnv4("export", tmp_path / "model.keras", "--target", "float", "--out", tmp_path / "model.tflite") == 0
    assert mnv4("cost", tmp_path / "model.tflite") == 0
    assert "DEPTHWISE_CONV_2D" in capsys.readouterr().out


@pytest.mark.once
@pytest.mark.parametrize("size", [32, None])
def test_pictures_are_made_from_a_file(tmp_path, capsys, size):
    teacher, out = _save_teacher(tmp_path / "teacher.keras", size=size), tmp_path / "made"
    (tmp_path / "teacher.labels.txt").write_text("china\nflower\n")
    how = ("--pictures", 2, "--rounds", 1, "--steps", 2, "--batch-size", 2, *(() if size else ("--size", 24)))
    how = (*how, *(("--noise", "natural") if size else ()))
    assert mnv4("synthesize", teacher, *how, "--out", out) == 0
    assert "2 pictures" in capsys.readouterr().out
    assert {path.parent.name for path in (out / "pictures").rglob("*.png")} == {"china", "flower"}
    plan = json.loads((out / "plan.json").read_text())
    assert plan["stages"][0]["window"] == (size or 24)
    assert plan["noise"] == ("natural" if size else "white")


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("strategy", ["spos", "darts"])
def test_a_search_without_data(tmp_path, capsys, strategy):
    teacher, out = _save_teacher(tmp_path / "teacher.keras"), tmp_path / "search"
    made = ("--pictures", 20, "--rounds", 1, "--steps", 2, "--batch-size", 20)
    how = ("--space", "tiny", "--strategy", strategy, "--limit", "macs=1e6", "--epochs", 1, "--train-epochs", 1)
    how = (*how, "--size", 40)
    evolution = ("--population", 2, "--generations", 1)
    assert mnv4("search", "--teacher", teacher, *made, *how, *evolution, "--out", out) == 0
    assert "test top-1" in capsys.readouterr().out
    assert applications.MobileNetV4(out / "network.json", classes=2).input_shape == (None, 40, 40, 3)
    assert keras.models.load_model(out / "model.keras").output_shape == (None, 2)


@pytest.mark.once
def test_every_example_of_the_help_is_understood(capsys):
    lines = [line.partition(" #")[0].split() for text in parser.EXAMPLES.values() for line in text.splitlines()]
    lines += [line.split() for line in parser.EPILOG.splitlines() if line.startswith("  mnv4")]
    assert len(lines) > 20
    for program, *words in lines:
        assert program == "mnv4"
        words = words[: words.index(">")] if ">" in words else words
        parser.make_parser().parse_args(words)
    for name, examples in parser.EXAMPLES.items():
        with pytest.raises(SystemExit) as stopped:
            mnv4(name, "--help")
        assert stopped.value.code == 0
        assert examples in capsys.readouterr().out


@pytest.mark.once
def test_quantisation_has_as_many_epochs_wherever_it_is_started():
    epochs = {
        "command": parser.make_parser().parse_args(["quantize", "model.keras"]).epochs,
        "function": inspect.signature(training.quantize).parameters["epochs"].default,
        "demo": inspect.signature(run_demo).parameters["qat_epochs"].default,
    }
    assert set(epochs.values()) == {2}, epochs


@pytest.mark.once
def test_answers_in_json(tmp_path, capsys):
    assert mnv4("--json", "cost", "MobileNetV4ConvMedium") == 0
    found = answer(capsys)
    assert (found["ok"], found["parameters"]) == (True, 9715512)
    assert mnv4("--json", "check", tmp_path / "missing.tflite") == 1
    found = answer(capsys)
    assert found["ok"] is False
    assert "missing.tflite" in found["error"]


@pytest.mark.once
def test_a_mistake_of_ours_is_one_line_too(capsys, monkeypatch):
    monkeypatch.setattr(commands, "_profile", lambda _: {}["key"])
    assert mnv4("cost", "conv_small") == 1
    message = capsys.readouterr().err
    assert message.startswith("mnv4: KeyError")
    assert "--traceback" in message
    assert message.count("\n") == 1
    with pytest.raises(KeyError):
        mnv4("--traceback", "cost", "conv_small")


@pytest.mark.once
@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completions_name_the_commands(shell, capsys):
    assert mnv4("completion", shell) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in parser.EXAMPLES)


@pytest.mark.once
def test_without_shtab_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert mnv4("completion", "bash") == 1
    assert "keras-mnv4[completion]" in capsys.readouterr().err


@pytest.mark.once
def test_a_pretrained_network_learns_new_classes(photo_folder, tmp_path, capsys):
    how = ("--model", "efficientnet_lite0", "--weights", "imagenet", "--size", 64, "--epochs", 0)
    assert mnv4("--json", "train", "--data", photo_folder, *how, "--out", tmp_path / "model.keras") == 0
    assert answer(capsys)["top1"] == 1.0


@pytest.mark.once
def test_a_network_of_a_file_learns_new_classes(photo_folder, tmp_path, capsys):
    teacher, out = _save_teacher(tmp_path / "teacher.keras", classes=3), tmp_path / "model.keras"
    how = ("--data", photo_folder, "--weights", teacher, "--epochs", 0, "--out", out)
    for odd in (("--alpha", 0.5), ("--size", 64), ("--model", "conv_medium")):
        assert mnv4("train", *how, *odd) == 1
        assert "is a whole network: leave out `--model`, `--alpha` and `--size`" in capsys.readouterr().err
    assert mnv4("train", *how, "--size", 32) == 0
    before, after = (keras.models.load_model(path) for path in (teacher, out))
    assert after.output_shape == (None, 2)
    for body in zip(before.layers[:-1], after.layers[:-1], strict=True):
        for theirs, ours in zip(*(layer.get_weights() for layer in body), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.once
def test_weights_of_a_file_learn_new_classes_whatever_theirs_were(photo_folder, tmp_path, capsys):
    network = {"weights": None, "classes": 7, "input_shape": (32, 32, 3)}
    applications.MobileNetV4ConvSmall(**network).save_weights(tmp_path / "seven.weights.h5")
    out = tmp_path / "model.keras"
    how = ("--data", photo_folder, "--size", 32, "--epochs", 0, "--weights", tmp_path / "seven.weights.h5")
    assert mnv4("--json", "train", *how, "--out", out) == 0
    assert keras.models.load_model(out).output_shape == (None, 2)


@pytest.mark.once
def test_only_apps_go_into_an_android_project(tmp_path, capsys):
    assert mnv4("export", "model.keras", "--out", tmp_path / "a.tflite", "--android", tmp_path) == 1
    assert "--target app" in capsys.readouterr().err
    assert mnv4("export", "model.keras", "--out", tmp_path / "a.tflite", "--target", "app", "--android", tmp_path) == 1
    assert "app/src/main" in capsys.readouterr().err
