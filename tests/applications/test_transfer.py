import keras
import numpy as np
import pytest
from conftest import SMALL

from keras_mnv4 import data
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import build_network
from keras_mnv4.applications import replace_classifier


def test_a_replaced_classifier_keeps_the_rest_of_the_network():
    model = MobileNetV4ConvSmall(weights=None, input_shape=(32, 32, 3))
    other = replace_classifier(model, 3)
    assert other.output_shape == (None, 3)
    assert [layer.name for layer in other.layers] == [layer.name for layer in model.layers]
    assert all(ours is theirs for ours, theirs in zip(other.layers[:-1], model.layers[:-1], strict=True))
    assert other.layers[-1] is not model.layers[-1]
    np.testing.assert_allclose(other.predict(np.zeros((1, 32, 32, 3)), verbose=0).sum(), 1, rtol=1e-5)


def test_what_has_no_classifier_is_refused():
    model = MobileNetV4ConvSmall(weights=None, input_shape=(32, 32, 3), include_top=False)
    with pytest.raises(ValueError, match="include_top=True"):
        replace_classifier(model, 3)


@pytest.mark.once
def test_quantised_networks_are_refused():
    quantized = qat.quantize_model(build_network(SMALL, classes=2, input_shape=(32, 32, 3)))
    with pytest.raises(ValueError, match="that of the float model"):
        replace_classifier(quantized, 3)


def test_a_replaced_classifier_computes_in_the_precision_of_the_old():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_network(SMALL, input_shape=(32, 32, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    assert replace_classifier(model, 3).layers[-1].dtype_policy.name == "mixed_bfloat16"


@pytest.mark.once
def test_tuning_leaves_the_statistics_as_they_were(photo_folder):
    """That the classifier learns, `mnv4 train --weights imagenet` shows in tests/test_cli.py."""
    pictures = data.load_image_folder(photo_folder, 32, 8)
    network = build_network(SMALL)
    model = replace_classifier(network, 2)
    norm, kernel = model.get_layer("stem").norm, model.get_layer("stem").trainable_variables[0]
    before = [keras.ops.convert_to_numpy(each) for each in (norm.moving_mean, norm.gamma, kernel)]
    training.fine_tune(model, pictures, epochs=1, learning_rate=1e-2, verbose=0)
    mean, gamma, trained = (keras.ops.convert_to_numpy(each) for each in (norm.moving_mean, norm.gamma, kernel))
    np.testing.assert_array_equal(mean, before[0])
    np.testing.assert_array_equal(gamma, before[1])
    assert np.abs(trained - before[2]).max() > 1e-4
