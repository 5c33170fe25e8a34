"""What classifiers are fitted with: schedules and losses held against values by hand, decay against its formula."""

import keras
import numpy as np
import pytest
from conftest import photo_data
from conftest import tiny_network

from keras_mnv4 import training
from keras_mnv4.data import PictureData
from keras_mnv4.data import PictureSet
from keras_mnv4.fitting import SmoothedCrossEntropy
from keras_mnv4.fitting import WarmupCosineCooldown
from keras_mnv4.fitting import decay_kernels
from keras_mnv4.fitting import fit_classifier


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


def test_smoothed_labels_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], "float32")
    loss = SmoothedCrossEntropy(0.3)
    soft = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    expected = -(soft * np.log(probabilities)).sum(-1).mean()
    for labels in (np.array([0, 2]), np.array([[0], [2]])):
        assert float(loss(labels, probabilities)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(np.eye(3)[[0, 2]], probabilities)) == pytest.approx(expected, rel=1e-5)
    of_logits = SmoothedCrossEntropy.from_config(SmoothedCrossEntropy(0.3, from_logits=True).get_config())
    assert float(of_logits(np.array([0, 2]), np.log(probabilities))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.once
def test_the_loss_is_that_of_what_the_model_gives_and_of_the_labels():
    data = photo_data()
    shares = [
        PictureSet(each.arrays()[0], np.eye(2)[each.labels], 32, 16)
        for each in (data.train, data.validation, data.test)
    ]
    image = keras.Input((32, 32, 3))
    hidden = keras.layers.GlobalAveragePooling2D()(image)
    logits = keras.layers.Dense(2)(hidden)
    found = []
    for outputs in (logits, keras.layers.Softmax()(logits)):
        for pictures in (data, PictureData(data.class_names, *shares)):
            model = keras.Model(image, outputs)
            model.set_weights([np.array([[0.01, 0.0], [0.0, 0.02], [0.03, 0.0]]), np.zeros(2)])
            history = fit_classifier(model, pictures, keras.optimizers.SGD(0.0), epochs=1, verbose=0).history
            found.append((history["val_loss"][0], history["val_accuracy"][0]))
            assert history["val_accuracy"][0] == pytest.approx(training.top1(model, pictures.validation))
    np.testing.assert_allclose(found, [found[0]] * 4, rtol=1e-5)


@pytest.mark.once
def test_what_is_saved_does_not_depend_on_the_module():
    for made in (WarmupCosineCooldown(0.1, 30), SmoothedCrossEntropy(0.1)):
        saved = keras.saving.serialize_keras_object(made)
        assert saved["registered_name"] == f"keras_mnv4>{type(made).__name__}"
        again = keras.saving.deserialize_keras_object({**saved, "module": "keras_mnv4.recipes"})
        assert again.get_config() == made.get_config()
