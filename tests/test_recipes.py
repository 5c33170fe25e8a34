"""Recipes: schedules held against values by hand, decay against its formula, and a `fit` that learns."""

import keras
import numpy as np
import pytest
from conftest import photo_crops
from conftest import tiny_network

from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import build_network
from keras_mnv4.data import PictureData
from keras_mnv4.data import PictureSet
from keras_mnv4.recipes import SGDRecipe
from keras_mnv4.recipes import WarmupCosineCooldown
from keras_mnv4.recipes import decay_kernels


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5, 0.05), (10, 0.1), (45, 0.05005), (80, 1e-4), (90, 5e-5), (100, 0.0), (120, 0.0)],
)
def test_schedule_by_hand(step, rate):
    schedule = WarmupCosineCooldown(0.1, total_steps=100, warmup_steps=10, cooldown_steps=20)
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-5, abs=1e-9)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert float(again(step)) == float(schedule(step))


def test_a_schedule_without_ends_is_a_cosine():
    schedule = WarmupCosineCooldown(1.0, total_steps=100, floor=0.0)
    rates = [float(schedule(step)) for step in (0, 25, 50, 99)]
    np.testing.assert_allclose(rates, [1.0, 0.8535534, 0.5, 0.0002467], rtol=1e-3)


def test_warmup_and_cooldown_must_leave_steps():
    with pytest.raises(ValueError, match="leave steps between"):
        WarmupCosineCooldown(0.1, total_steps=30, warmup_steps=10, cooldown_steps=20)


def test_rates_grow_with_the_batch():
    schedule = SGDRecipe().schedule(batch_size=2048, steps_per_epoch=625)
    assert schedule.peak == pytest.approx(0.8)
    assert (schedule.total_steps, schedule.warmup_steps, schedule.cooldown_steps) == (156_250, 3_125, 31_250)


def test_only_kernels_decay():
    model = tiny_network()
    decay_kernels(model, 0.5)
    kernels = [weight.numpy() for weight in model.trainable_weights if weight.path.endswith("kernel")]
    assert len(kernels) > 5
    np.testing.assert_allclose(float(sum(model.losses)), 0.25 * sum((kernel**2).sum() for kernel in kernels), rtol=1e-5)


def test_a_kernel_with_a_regulariser_of_its_own_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, kernel_regularizer="l1")])
    with pytest.raises(ValueError, match="has a regulariser of its own"):
        decay_kernels(model, 0.5)


def test_recipes_must_leave_epochs():
    with pytest.raises(ValueError, match="must leave some between"):
        SGDRecipe(epochs=20)


def small_network():
    rows = (Conv(8, kernel=3, stride=2), Conv(16, kernel=3, stride=2), Conv(16, kernel=3, stride=2))
    return build_network(Architecture("small", rows, head_filters=None), classes=2, input_shape=(32, 32, 3))


def photo_data():
    crops = list(photo_crops(48, 32))
    pictures, labels = np.stack([crop for crop, _ in crops]), [label for _, label in crops]
    sets = [PictureSet(pictures, labels, 32, batch_size=16, shuffle=shuffle) for shuffle in (True, False, False)]
    return PictureData(("china", "flower"), *sets)


@pytest.mark.once
def test_a_network_learns_to_tell_photos_apart():
    data = photo_data()
    data.train.restart(3)
    recipe = SGDRecipe(epochs=6, warmup_epochs=1, cooldown_epochs=2, learning_rate=0.4)
    history = recipe.fit(small_network(), data, [keras.layers.RandomFlip("horizontal")], verbose=0)
    optimizer = history.model.optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert int(optimizer.iterations) == optimizer._learning_rate.total_steps == 18
    assert history.history["accuracy"][-1] > 0.9
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.slow
def test_training_that_was_stopped_goes_on(tmp_path):
    data = photo_data()
    recipe = SGDRecipe(epochs=4, warmup_epochs=1, cooldown_epochs=1)
    end_epoch, epochs = data.train.on_epoch_end, []

    def stop_in_the_third():
        end_epoch()
        epochs.append(len(epochs))
        if len(epochs) == 3:
            raise KeyboardInterrupt

    data.train.on_epoch_end = stop_in_the_third
    with pytest.raises(KeyboardInterrupt):
        recipe.fit(small_network(), data, verbose=0, backup_dir=tmp_path)
    data.train.on_epoch_end = end_epoch
    history = recipe.fit(small_network(), data, verbose=0, backup_dir=tmp_path)
    assert history.epoch == [1, 2, 3]  # the second's end was not reached
    assert int(history.model.optimizer.iterations) == 12
    assert not (tmp_path / "latest").exists()


def test_orders_of_a_seed():
    train = photo_data().train
    train.restart(5)
    first = train[0][1].tolist()
    train.on_epoch_end()
    assert train[0][1].tolist() != first
    train.restart(5)
    assert train[0][1].tolist() == first
