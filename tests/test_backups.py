"""Training that goes on where it was stopped, and only there."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import photo_data
from conftest import pooled_classifier
from conftest import small_network
from conftest import stopping_after

from keras_mnv4 import training
from keras_mnv4.data import PictureSet
from keras_mnv4.fitting import SmoothedCrossEntropy
from keras_mnv4.fitting import fit_classifier


def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    def train(data):
        keras.utils.set_random_seed(0)
        model = small_network()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        return fit_classifier(model, data, optimizer, epochs=4, verbose=0, backup_dir=tmp_path), model

    data = photo_data()
    _, expected = train(data)
    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks, "BackupAndRestore", stopping_after(1))
        with pytest.raises(KeyboardInterrupt):
            train(data)
    history, model = train(photo_data())  # as in a new process
    assert history.epoch == [2, 3]
    for ours, weights in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, weights, rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "latest").exists()


@pytest.mark.once
def test_a_backup_of_another_training_is_refused(tmp_path, monkeypatch):
    def train(data, rate=0.1, **how):
        optimizer = keras.optimizers.SGD(rate)
        fit_classifier(pooled_classifier(), data, optimizer, 2, verbose=0, backup_dir=tmp_path, **how)

    monkeypatch.setattr(keras.callbacks, "BackupAndRestore", stopping_after(0))
    data = photo_data()
    pictures, labels = data.train.arrays()
    with pytest.raises(KeyboardInterrupt):
        train(data)
    darker = dataclasses.replace(data, train=PictureSet(pictures // 2, labels, 32, 16, shuffle=True))
    smaller = dataclasses.replace(data, train=PictureSet(pictures[:, ::2, ::2], labels, 16, 16, shuffle=True))
    for arguments, how, other in (
        ((darker,), {}, "pictures"),
        ((smaller,), {}, "pictures, size"),
        ((data, 0.2), {}, "optimizer"),
        ((data,), {"loss": SmoothedCrossEntropy(0.1)}, "loss"),
        ((data,), {"augmentation": [keras.layers.RandomFlip()]}, "augmentation"),
        ((data,), {"start": small_network()}, "start"),
    ):
        with pytest.raises(ValueError, match=f"backups of another {other}: give another `backup_dir`"):
            train(*arguments, **how)


@pytest.mark.once
def test_a_backup_of_another_network_is_not_quantised_further(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.callbacks, "BackupAndRestore", stopping_after(0))
    data, first, second = photo_data(), small_network(), small_network()
    with pytest.raises(KeyboardInterrupt):
        training.quantize(first, data, epochs=2, verbose=0, backup_dir=tmp_path)
    with pytest.raises(ValueError, match="backups of another start"):
        training.quantize(second, data, epochs=2, verbose=0, backup_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):  # of its second epoch: it goes on
        training.quantize(first, data, epochs=2, verbose=0, backup_dir=tmp_path)


@pytest.mark.once
def test_a_backup_of_another_pretrained_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.callbacks, "BackupAndRestore", stopping_after(0))
    monkeypatch.setattr(training, "HEAD_EPOCHS", 1)
    data, first = photo_data(), small_network()
    pretrained = first.get_weights()
    with pytest.raises(KeyboardInterrupt):
        training.fine_tune(first, data, epochs=2, verbose=0, backup_dir=tmp_path)
    with pytest.raises(ValueError, match="backups of another start"):
        training.fine_tune(small_network(), data, epochs=2, verbose=0, backup_dir=tmp_path)
    first.set_weights(pretrained)
    with pytest.raises(KeyboardInterrupt):  # of its second epoch: it goes on
        training.fine_tune(first, data, epochs=2, verbose=0, backup_dir=tmp_path)


@pytest.mark.once
def test_a_plan_without_a_backup_holds_nobody_up(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    fit_classifier(pooled_classifier(), photo_data(), "sgd", 1, verbose=0, backup_dir=tmp_path)
    assert not list(tmp_path.iterdir())
