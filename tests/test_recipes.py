"""Recipes: presets held against the paper, rates and decay against their formulas, and a `fit` that learns."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from conftest import photo_data
from conftest import pooled_classifier
from conftest import small_network

from keras_mnv4 import applications
from keras_mnv4 import training
from keras_mnv4.data import PictureSet
from keras_mnv4.distillation import D1
from keras_mnv4.distillation import D2
from keras_mnv4.distillation import D3
from keras_mnv4.recipes import MOBILENET_V4
from keras_mnv4.recipes import MOBILENET_V4_DISTILLATION
from keras_mnv4.recipes import AdamWRecipe
from keras_mnv4.recipes import SGDRecipe


def test_parts_of_epochs_leave_a_step_between_them():
    schedule = SGDRecipe(epochs=1, warmup_epochs=0.4, cooldown_epochs=0.5).schedule(32, 3)
    assert (schedule.total_steps, schedule.warmup_steps, schedule.cooldown_steps) == (3, 1, 1)
    assert AdamWRecipe(epochs=1, warmup_epochs=0.9).schedule(32, 3).warmup_steps == 2


def test_rates_grow_with_the_batch():
    schedule = SGDRecipe().schedule(batch_size=2048, steps_per_epoch=625)
    assert schedule.peak == pytest.approx(0.8)
    assert (schedule.total_steps, schedule.warmup_steps, schedule.cooldown_steps) == (156_250, 3_125, 31_250)


def test_recipes_must_leave_epochs():
    with pytest.raises(ValueError, match="must leave some between"):
        SGDRecipe(epochs=20)


@pytest.mark.once
def test_a_network_learns_to_tell_photos_apart():
    data = photo_data()
    data.train.reseed(3)
    recipe = SGDRecipe(epochs=6, warmup_epochs=1, cooldown_epochs=2, learning_rate=0.4)
    history = recipe.fit(small_network(), data, [keras.layers.RandomFlip("horizontal")], verbose=0)
    optimizer = history.model.optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert int(optimizer.iterations) == optimizer._learning_rate.total_steps == 18
    assert history.history["accuracy"][-1] > 0.9
    assert history.history["loss"][-1] < history.history["loss"][0]


# Table 10 of arXiv 2404.10518, column by column.
TABLE_10 = {
    "size": (224, 256, 256, 384, 384),
    "batch_size": (4096, 4096, 16384, 16384, 16384),
    "learning_rate": (0.002, 0.004, 0.016, 0.004, 0.01),
    "floor": (0, 0, 0, 0, 0.001),
    "epochs": (9600, 500, 500, 500, 500),
    "warmup_epochs": (5, 5, 20, 20, 20),
    "weight_decay": (0.01, 0.1, 0.1, 0.2, 0.2),
    "beta_1": (0.6, 0.9, 0.9, 0.9, 0.9),
    "beta_2": (0.999,) * 5,
    "epsilon": (1e-6, 1e-7, 1e-7, 1e-7, 1e-7),
    "ema": (0.9999, None, None, None, None),
    "l2": (1e-5, 0, 0, 0, 0),
    "label_smoothing": (0.1,) * 5,
    "dropout_rate": (0.3, 0.2, 0.2, 0.2, 0.2),
    "drop_path_rate": (0, 0.075, 0.075, 0.35, 0.35),
    "mixup_chance": (0, 0, 0, 0.3, 0.3),
    "operations": (2,) * 5,
    "magnitude": (9, 15, 15, 15, 15),
    "probability": (0.5, 0.7, 0.7, 1.0, 1.0),
}
NAMES = [f"MobileNetV4{name}" for name in ("ConvSmall", "ConvMedium", "HybridMedium", "ConvLarge", "HybridLarge")]


def test_presets_are_those_of_the_paper():
    assert list(MOBILENET_V4) == list(MOBILENET_V4_DISTILLATION) == NAMES
    for row, values in TABLE_10.items():
        for recipe, value in zip(MOBILENET_V4.values(), values, strict=True):
            (augmentation,) = recipe.augmentations
            assert getattr(recipe if hasattr(recipe, row) else augmentation, row) == value, row
    for name, recipe in MOBILENET_V4_DISTILLATION.items():
        assert (recipe.augmentations, recipe.ratio) == ((D1, D2, D3), (1, 1, 2))
        assert (recipe.batch_size, recipe.epochs) == (16384, 2000)
        assert (recipe.label_smoothing, recipe.drop_path_rate, recipe.l2, recipe.mixup_chance) == (0, 0, 0, 0)
        assert recipe.dropout_rate == MOBILENET_V4[name].dropout_rate
        one, other = (each.schedule(512, 10).peak for each in (recipe, MOBILENET_V4[name]))
        assert one == pytest.approx(other)
        assert recipe.model_arguments().keys() <= inspect.signature(getattr(applications, name)).parameters.keys()


@pytest.mark.once
def test_a_mix_is_of_the_recipe():
    data = photo_data()
    pictures, labels = data.train.arrays()
    recipe = dataclasses.replace(MOBILENET_V4_DISTILLATION["MobileNetV4ConvSmall"], size=16)
    mix = recipe.mix(data.train, pictures, list(pictures), batch_size=8, classes=2, epoch_size=64, seed=1)
    found = np.bincount([mix.example(position).source for position in range(64)])
    assert tuple(found) == (16, 16, 32)
    assert [source.augmentation for source in mix.sources] == [D1, D2, D3]
    shown, shares = mix[0]
    assert shown.shape == (8, 16, 16, 3)
    assert mix.seed == 1
    for position, share in enumerate(shares):  # labels of those that have them
        assert share.sum() == (mix.example(position).source == 0)
    with pytest.raises(ValueError, match=r"must be given 3 sources\. Received: 1"):
        recipe.mix(data.train)
    with pytest.raises(ValueError, match=r"must be classes\. Received: probabilities"):
        MOBILENET_V4["MobileNetV4ConvMedium"].mix(PictureSet(pictures, np.eye(2)[labels], 32))


def test_rates_of_adamw_grow_with_the_root_of_the_batch():
    schedule = MOBILENET_V4["MobileNetV4ConvSmall"].schedule(batch_size=1024, steps_per_epoch=10)
    assert schedule.peak == pytest.approx(0.001)
    assert (schedule.total_steps, schedule.warmup_steps, schedule.floor) == (96_000, 50, 0.0)


@pytest.mark.parametrize(("steps_per_epoch", "momentum"), [(312, 0.9999), (1, 1 - 1 / 960)])
def test_averages_reach_back_a_tenth_at_most(steps_per_epoch, momentum):
    optimizer = MOBILENET_V4["MobileNetV4ConvSmall"].optimizer(small_network(), 32, steps_per_epoch)
    assert optimizer.use_ema
    assert optimizer.ema_momentum == pytest.approx(momentum, rel=1e-9)
    assert not MOBILENET_V4["MobileNetV4ConvLarge"].optimizer(small_network(), 32, 10).use_ema


def test_adamw_decays_kernels_alone():
    model = small_network()
    recipe = AdamWRecipe(epochs=1, warmup_epochs=0, weight_decay=0.5, learning_rate=0.1, batch_size=32)
    optimizer = recipe.optimizer(model, 32, 100)
    optimizer.build(model.trainable_variables)
    before = {weight.path: np.array(weight.numpy()) for weight in model.trainable_weights}
    optimizer.apply([keras.ops.zeros(weight.shape) for weight in model.trainable_weights])
    for weight in model.trainable_weights:
        factor = 1 - 0.1 * 0.5 if weight.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(weight.numpy(), factor * before[weight.path], rtol=1e-5, err_msg=weight.path)


@pytest.mark.once
def test_adamw_follows_logits_and_soft_labels():
    """From the same weights, with the same pictures: the first loss is the same."""
    data = photo_data()
    shares = PictureSet(data.train.arrays()[0], np.eye(2)[data.train.labels], 32, 16)
    recipe = dataclasses.replace(MOBILENET_V4["MobileNetV4ConvMedium"], epochs=1, warmup_epochs=0, learning_rate=1e-9)
    found = []
    for activation in ("softmax", None):
        for pictures in (data, dataclasses.replace(data, train=shares, validation=shares)):
            keras.utils.set_random_seed(0)
            found.append(recipe.fit(pooled_classifier(activation), pictures, verbose=0).history["loss"][0])
    np.testing.assert_allclose(found, found[0], rtol=1e-4)


@pytest.mark.once
def test_a_network_learns_by_adamw():
    data = photo_data()
    data.train.reseed(3)
    recipe = dataclasses.replace(
        MOBILENET_V4["MobileNetV4ConvSmall"], epochs=8, warmup_epochs=1, learning_rate=0.02, batch_size=16
    )
    model = small_network()
    history = recipe.fit(model, data, verbose=0)
    assert int(history.model.optimizer.iterations) == 24
    assert history.history["accuracy"][-1] > 0.9
    assert any(kernel.regularizer is not None for kernel in model.trainable_variables)
    # What is left is the average of the weights.
    averages = history.model.optimizer._model_variables_moving_average
    for weight, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average.numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"warmup_epochs": 500}, "must leave some"), ({"ratio": (1, 1)}, "1 numbers, one an augmentation")],
)
def test_recipes_of_adamw_must_make_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdamWRecipe(**arguments)


@pytest.mark.once
def test_a_head_of_logits_is_tuned_as_one_of_probabilities():
    data = photo_data()
    found = []
    for activation in (None, "softmax"):
        keras.utils.set_random_seed(0)
        image = keras.Input((32, 32, 3))
        outputs = keras.layers.Dense(2, activation)(keras.layers.GlobalAveragePooling2D()(image))
        model = keras.Model(image, outputs)
        found.append(training.fine_tune(model, data, epochs=0).history["loss"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
