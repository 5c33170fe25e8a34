"""QAT as it is run: stopped and resumed, in half precision, on several devices, with statistics frozen on the way."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from devices import on_one_and_two

from keras_mnv4 import export
from keras_mnv4 import layers
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.data import PictureData
from keras_mnv4.data import PictureSet

STEPS = 8  # an epoch
PICTURES = np.random.default_rng(0).normal(size=(2 * STEPS, 8, 8, 3)).astype("float32")
PICTURES[1::2] *= 0.3  # the second half of every batch: a device that saw it alone would measure other ranges
LABELS = np.arange(2 * STEPS) % 3


def small_classifier(seed=0):
    """The least network with a convolution, a depthwise one, a normalisation, a mean and a softmax."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.ConvNormAct(4, 3, strides=2, activation="relu", name="stem")(image)
    x = layers.ConvNormAct(kernel_size=3, depthwise=True, use_norm=False, name="depthwise")(x)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
    return keras.Model(image, layers.Classifier(3, "softmax", name="predictions")(x))


def compiled(model, optimizer=None):
    model.compile(optimizer or keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def fit(model, epochs=1, **arguments):
    return model.fit(PICTURES, LABELS, batch_size=2, shuffle=False, epochs=epochs, verbose=0, **arguments)


def values(model, name=""):
    """The weights whose path holds `name`, by path."""
    return {weight.path: np.array(weight.numpy()) for weight in model.weights if name in weight.path}


def run_here(code, *arguments, **environment):
    """Starts Python on `code`, which may import from this file."""
    folder = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent), *sys.path])
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": path, **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Witness(keras.callbacks.Callback):
    """Notes what the model is when training begins, and the epochs that begin."""

    def on_train_begin(self, logs=None):
        self.ranges, self.step, self.epochs = values(self.model, "range_"), int(self.model.optimizer.iterations), []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)


TO_BE_KILLED = """
import sys, time
import keras, numpy as np
from test_training import *
folder = pathlib.Path(sys.argv[1])

class Wait(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        if step == STEPS + 4:  # the backup's last
            np.savez(folder / "ranges.npz", **values(self.model, "range_"))
        if step == STEPS + 6:
            print("ready", flush=True)
            time.sleep(600)

backup = keras.callbacks.BackupAndRestore(folder / "backup", save_freq=4)
fit(compiled(qat.quantize_model(small_classifier())), epochs=3, callbacks=[backup, Wait()])
"""


@pytest.mark.slow
def test_resumes_with_its_ranges_after_a_kill(tmp_path):
    child = run_here(TO_BE_KILLED, tmp_path)
    try:
        assert child.stdout.readline() == "ready\n", child.communicate()[1][-2000:]
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()

    model = compiled(qat.quantize_model(small_classifier(seed=1)))
    witness = Witness()
    fit(model, epochs=3, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=4), witness])
    with np.load(tmp_path / "ranges.npz") as saved:
        assert set(saved) == set(witness.ranges)
        for path, value in saved.items():
            np.testing.assert_array_equal(witness.ranges[path], value, err_msg=path)
    assert witness.step == STEPS + 4
    assert witness.epochs == [1, 2]  # Keras begins the epoch anew in which it was stopped
    assert int(model.optimizer.iterations) == witness.step + 2 * STEPS
    assert all(np.any(value != witness.ranges[path]) for path, value in values(model, "range_max").items())


@pytest.mark.once
def test_train_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    pictures = PictureSet(np.clip(PICTURES * 50 + 128, 0, 255).astype("uint8"), LABELS, size=8, batch_size=8)
    data = PictureData(("a", "b", "c"), pictures, pictures, pictures)
    backup = tmp_path / "backup"

    def stop(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.History, "on_epoch_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            training.train(small_classifier(), data, epochs=2, verbose=0, backup_dir=backup)
    assert any(backup.iterdir())
    for model, other, epochs, what in (
        (small_classifier(), data, 3, "epochs, optimizer"),
        (qat.quantize_model(small_classifier()), data, 2, "network, quantizers"),
        (small_classifier(), dataclasses.replace(data, class_names=("a", "b", "d")), 2, "class_names"),
    ):
        with pytest.raises(ValueError, match=f"has backups of another {what}: give another `backup_dir`"):
            training.train(model, other, epochs, verbose=0, backup_dir=backup)
    history = training.train(small_classifier(), data, epochs=2, verbose=0, backup_dir=backup)
    assert history.epoch == [1]
    assert not any(backup.iterdir())  # done: the next training begins anew


@pytest.mark.once
@pytest.mark.parametrize("epochs", [0, 1])
def test_corrections_see_all_classes_of_a_set_that_is_sorted_by_them(epochs, monkeypatch):
    seen, labels = [], np.repeat(np.arange(10, dtype="uint8"), 30)
    pictures = PictureSet(np.tile(labels[:, None, None, None], (1, 8, 8, 3)), labels, size=8)  # of their class's colour
    data = PictureData(tuple("abcdefghij"), pictures, pictures, pictures)
    for name in ("calibrate", "correct_biases", "optimize_rounding"):
        monkeypatch.setattr(qat, name, lambda model, shown: seen.append(shown[:, 0, 0, 0]))
    monkeypatch.setattr(training, "train", lambda *_, **__: None)
    monkeypatch.setattr(training, "CORRECTION_PIXELS", 32 * 8 * 8)
    training.quantize(small_classifier(), data, epochs=epochs)
    calibrated, corrected = seen
    assert len(calibrated) == training.CALIBRATION_PICTURES
    assert len(corrected) == 32
    assert set(corrected) == set(range(10))


@pytest.mark.once
@pytest.mark.parametrize(("size", "count"), [(224, 32), (112, 128), (32, 1024), (3000, 1)])
def test_corrections_see_more_of_small_pictures(size, count):
    class Pictures:
        def __init__(self, size):
            self.size = size

        def arrays(self, limit):
            return np.zeros(limit), None

    assert len(training.correction_pictures(Pictures(size))) == count


def trained():
    """The weights after five steps of two pictures each."""
    model = qat.quantize_model(small_classifier())
    qat.freeze_statistics(model)
    fit(compiled(model), steps_per_epoch=5)
    return values(model)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras trains on one device there")
def test_two_devices_train_like_one(tmp_path):
    """Though each sees pictures of another range, which TFMOT's quantisers by themselves would average."""
    one, two = on_one_and_two(trained, tmp_path)
    for path in one:
        np.testing.assert_allclose(two[path], one[path], rtol=0, atol=1e-4, err_msg=path)
    assert np.any(one["stem/kernel"] != values(small_classifier(), "stem/kernel")["stem/kernel"])


def statistics(model):
    return {**values(model, "moving_mean"), **values(model, "moving_variance")}


class StatisticsOfSteps(keras.callbacks.Callback):
    """Notes the moving statistics before every step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(statistics(self.model))


def test_statistics_freeze_at_a_step_and_stay_frozen(tmp_path):
    model = compiled(small_classifier(), keras.optimizers.Adam(0.01))
    watch, step = StatisticsOfSteps(), STEPS + 3
    fit(model, epochs=2, callbacks=[watch, qat.FreezeStatistics(step)])
    (path, *_) = statistics(model)
    moved = [np.any(after[path] != before[path]) for before, after in zip(watch.seen, watch.seen[1:], strict=False)]
    assert moved == [True] * step + [False] * (len(moved) - step)

    kernel, gamma = values(model, "stem/kernel"), values(model, "gamma")
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    assert int(loaded.optimizer.iterations) == 2 * STEPS  # its state came along
    for each in (model, loaded):
        before = statistics(each)
        fit(each, callbacks=[qat.FreezeStatistics(step)] if each is model else [])
        np.testing.assert_equal(statistics(each), before)
        assert np.any(values(each, "stem/kernel")["stem/kernel"] != kernel["stem/kernel"])
        assert np.any(values(each, "gamma")["stem/norm/gamma"] != gamma["stem/norm/gamma"])


@pytest.mark.once
@pytest.mark.parametrize("scales", [True, False])
def test_frozen_layers_normalise_as_at_inference(scales):
    model = qat.quantize_model(small_classifier())
    norm = model.get_layer("stem").norm
    norm.moving_mean.assign([0.1, -0.2, 0.3, 0.0])
    assert np.any(np.array(norm(np.ones((2, 4, 4, 4)), training=True)) != np.array(norm(np.ones((2, 4, 4, 4)))))
    qat.freeze_statistics(model, scales)
    np.testing.assert_array_equal(norm(np.ones((2, 4, 4, 4)), training=True), norm(np.ones((2, 4, 4, 4))))
    assert ("stem/norm/gamma" in {weight.path for weight in model.trainable_variables}) != scales


@pytest.mark.once
@pytest.mark.parametrize("step", [-1, 2.5, None])
def test_steps_to_freeze_at_are_whole_numbers(step):
    with pytest.raises(ValueError, match=rf"`step`.*step={step}"):
        qat.FreezeStatistics(step)


@pytest.mark.parametrize("policy", [pytest.param("mixed_float16", marks=pytest.mark.once), "mixed_bfloat16"])
def test_trains_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(qat.quantize_model(small_classifier()), keras.optimizers.Adam(0.05))
    finally:
        keras.config.set_dtype_policy("float32")
    qat.calibrate(model, PICTURES)
    before = values(model, "range_")
    losses = fit(model, epochs=8).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    for weight in model.weights:
        if "range_" in weight.path:
            assert weight.dtype == "float32"
            assert np.isfinite(weight.numpy()).all()
    moved = {path for path, value in values(model, "range_").items() if np.any(value != before[path])}
    assert {"stem/kernel_quantizer/range_max", "stem/output_quantizer/range_max"} <= moved
    # The kernel is rounded in float32: in half precision a code would be off its grid.
    stem = model.get_layer("stem")
    step = values(model, "stem/kernel_quantizer/range_max")["stem/kernel_quantizer/range_max"] / 127
    codes = np.array(stem.quantized_kernel()) / step
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)


@pytest.mark.tensorflow
def test_learned_ranges_train_and_export(tmp_path):
    learned = qat.LearnedRangeQuantizer
    weights, outputs = learned(8, per_axis=True, symmetric=True, narrow_range=True), learned(8)
    probability = qat.FixedQuantizer(8, 0.0, 255 / 256)
    policy = qat.Policy((qat.Rule(".*/softmax", outputs=probability), qat.Rule(".*", weights, outputs)))
    model = compiled(qat.quantize_model(small_classifier(), policy), keras.optimizers.Adam(0.05))
    qat.calibrate(model, PICTURES)
    before = values(model, "range_max")
    losses = fit(model, epochs=4).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    for path, value in values(model, "range_max").items():
        assert np.all(value != before[path]), path
    report = export.to_litert(model, tmp_path / "learned.tflite", target="edgetpu", samples=PICTURES)
    assert report.edgetpu.ok
    assert report.agreement.within_one_step == 1.0


TRAINED_ELSEWHERE = """
import sys
from test_training import *
model = compiled(qat.quantize_model(small_classifier()))
fit(model)
model.save(sys.argv[1])
outputs = keras.Model(model.input, [layer.output for layer in model.layers]).predict(PICTURES, verbose=0)
np.savez(sys.argv[2], **{layer.name: output for layer, output in zip(model.layers, outputs)})
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_layers_of_a_file_from_jax_compute_the_same_here(tmp_path):
    """Layer by layer, on the inputs that each had on JAX.

    Sums of another order may flip a code at a tie: up to three values of a layer may be off, by one code of eight bits.
    """
    child = run_here(TRAINED_ELSEWHERE, tmp_path / "q.keras", tmp_path / "outputs.npz", KERAS_BACKEND="jax")
    _, errors = child.communicate()
    assert child.returncode == 0, errors[-2000:]
    model = keras.models.load_model(tmp_path / "q.keras")
    with np.load(tmp_path / "outputs.npz") as outputs:
        for layer in model.layers[1:]:
            expected, before = outputs[layer.name], layer.input._keras_history.operation.name
            error = np.abs(layer(outputs[before]).numpy() - expected)
            largest = np.abs(expected).max()
            assert np.sum(error > 1e-5 * largest) <= 3, layer.name
            assert error.max() <= 2 * largest / 255, layer.name
