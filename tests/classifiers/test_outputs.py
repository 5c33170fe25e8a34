"""What a classifier gives, seen from its last layers."""

import keras
import numpy as np
import pytest
from conftest import photo_data
from keras import layers
from keras import ops

from keras_mnv4 import qat
from keras_mnv4.classifiers.outputs import cross_entropy_of
from keras_mnv4.classifiers.outputs import ends_in_softmax
from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.fitting import fit_classifier
from keras_mnv4.recipes import MOBILENET_V4

pytestmark = pytest.mark.once


def classifier(*stack):
    """A model of four outputs, behind a convolution."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(image)
    for layer in stack:
        x = layer(x)
    return keras.Model(image, x, name="classifier")


def scores(activation=None):
    return layers.Conv2D(4, 1, activation=activation)


@pytest.mark.parametrize(
    ("stack", "is_softmax"),
    [
        ([scores(), layers.GlobalAveragePooling2D()], False),
        ([scores(), layers.AveragePooling2D(6), layers.Flatten()], False),
        ([scores(), layers.GlobalMaxPooling2D(keepdims=True), layers.Reshape((4,)), layers.Dropout(0.1)], False),
        ([scores("softmax"), layers.GlobalAveragePooling2D(), layers.Activation("linear")], True),
        ([layers.GlobalAveragePooling2D(), ops.softmax, layers.Identity()], True),
        ([layers.GlobalAveragePooling2D(), layers.Softmax(), layers.Activation("linear")], True),
        ([layers.ReLU(), layers.GlobalAveragePooling2D()], None),
        ([layers.GlobalAveragePooling2D(), layers.Dense(4, "relu")], None),
        ([layers.ReLU(), layers.GlobalAveragePooling2D(), layers.Activation("linear")], False),
        ([layers.GlobalAveragePooling2D(), layers.Dense(4, "sigmoid"), layers.Activation("linear")], None),
    ],
)
def test_what_a_model_gives_is_seen_through_poolings(stack, is_softmax):
    model = classifier(*stack)
    assert ends_in_softmax(model) is is_softmax
    assert ends_in_softmax(keras.Sequential([keras.Input((8, 8, 3)), model, layers.Identity()])) is is_softmax


def test_a_quantised_model_gives_what_the_float_one_does():
    for activation, is_softmax in ((None, False), ("softmax", True)):
        model = classifier(scores(activation), layers.GlobalAveragePooling2D(), layers.Identity())
        assert ends_in_softmax(qat.quantize_model(model)) is is_softmax


def test_a_head_of_pooled_scores_is_trained_as_logits():
    """Taken for probabilities, the loss of which is that of their share in the sum, they learnt nothing."""
    data = photo_data()
    image = keras.Input((32, 32, 3))
    scaled = layers.Rescaling(1 / 127.5, -1)(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1)(scaled)))
    history = fit_classifier(model, data, keras.optimizers.Adam(0.1), epochs=5, verbose=0).history
    logits, (_, labels) = model.predict(data.validation.arrays()[0], verbose=0), data.validation.arrays()
    expected = np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels])
    assert history["val_loss"][-1] == pytest.approx(expected, rel=1e-4)
    assert history["val_loss"][-1] < 0.9 * history["val_loss"][0]


@pytest.mark.parametrize(
    ("last", "from_logits"),
    [(layers.Dense(4, "sigmoid"), False), (ops.sigmoid, False), (layers.Dense(4), True), (layers.ReLU(), None)],
)
def test_the_loss_asks_where_it_is_not_clear(last, from_logits):
    model = classifier(layers.GlobalAveragePooling2D(), last)
    if from_logits is None:
        with pytest.raises(
            ValueError, match=r"not clear from the last layer of model `classifier` .*: give .* a `loss`"
        ):
            cross_entropy_of(model, np.zeros(3))
    else:
        assert cross_entropy_of(model, np.zeros(3)).from_logits is from_logits


def test_trainings_that_cannot_tell_ask_before_they_begin():
    data = photo_data()
    image = keras.Input((32, 32, 3))
    unclear = keras.Model(image, layers.ReLU()(layers.Dense(2)(layers.GlobalAveragePooling2D()(image))))
    before = unclear.get_weights()
    for fit in (
        lambda: fit_classifier(unclear, data, "sgd", 1),
        lambda: MOBILENET_V4["MobileNetV4ConvSmall"].fit(unclear, data),
    ):
        with pytest.raises(ValueError, match="It is not clear from the last layer"):
            fit()
    np.testing.assert_array_equal(unclear.get_weights()[0], before[0])
    fit_classifier(unclear, data, "sgd", 1, verbose=0, loss="sparse_categorical_crossentropy")
    fit_classifier(keras.Sequential([unclear, layers.Activation("softmax")]), data, "sgd", 1, verbose=0)


@pytest.mark.parametrize(
    "stack",
    [
        [layers.GlobalAveragePooling2D(), layers.Softmax(), layers.Activation("linear")],
        [layers.GlobalAveragePooling2D(), layers.Activation("softmax"), layers.Identity()],
        [scores("softmax"), layers.GlobalAveragePooling2D()],
    ],
)
def test_logits_in_front_of_a_softmax_that_layers_follow(stack):
    model = classifier(*stack)
    pictures = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    seen = ClassifierView(model, "teacher")(pictures)
    np.testing.assert_allclose(ops.softmax(seen["logits"]), model(pictures), rtol=1e-5)
