import keras
import numpy as np
import pytest
from keras import ops

from keras_mnv4.layers import Classifier


def test_maps_of_more_than_a_pixel_are_refused():
    with pytest.raises(ValueError, match="GlobalAveragePooling2D"):
        Classifier(5).build((None, 7, 7, 8))


def test_is_a_dense_layer():
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 1, 1, 7)).astype("float32")
    classifier = Classifier(5, activation="softmax")
    classifier.build(features.shape)
    bias = random.normal(size=5).astype("float32")
    classifier.conv.bias.assign(bias)
    dense = keras.layers.Dense(5, activation="softmax")
    dense.build((3, 7))
    dense.set_weights([classifier.conv.kernel.numpy()[0, 0], bias])
    np.testing.assert_allclose(
        ops.convert_to_numpy(classifier(features)), ops.convert_to_numpy(dense(features[:, 0, 0])), atol=1e-6
    )


def test_parts_name_the_activation_if_there_is_one():
    assert Classifier(3, activation="softmax").quantizable_parts == ("conv", "softmax")
    assert Classifier(3).quantizable_parts == ("conv",)


def test_configuration_round_trip():
    classifier = Classifier(3, activation="sigmoid", name="head")
    assert Classifier.from_config(classifier.get_config()).get_config() == classifier.get_config()
