import keras
import numpy as np
import pytest
from conftest import fit_statistics
from conftest import randomize_statistics
from conftest import tiny_network
from keras import layers
from keras import ops

from keras_mnv4 import qat
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.qat.bias_correction import clear_mean


@pytest.mark.once
def test_means_of_the_logits_are_those_of_the_float_model(real_photos):
    """With weights of 4 bits, whose rounding shifts much; of the picture-to-picture error nothing can be said."""
    photos = real_photos(16, 32).astype("float32")
    model = fit_statistics(randomize_statistics(tiny_network(classes=8, classifier_activation=None)), photos)
    expected = model.predict(photos, verbose=0).mean(0)
    quantized = qat.quantize_model(model, "w4a8")
    qat.calibrate(quantized, photos)
    before = np.abs(ops.convert_to_numpy(quantized(photos)).mean(0) - expected)
    qat.correct_biases(quantized, photos)
    after = np.abs(ops.convert_to_numpy(quantized(photos)).mean(0) - expected)
    assert before.mean() > 0.02
    assert after.mean() < 0.5 * before.mean()


def test_a_shift_that_is_of_one_picture_is_no_shift():
    """Of ten pictures: one of 10 is a mean of 1 with a standard error of 3 / sqrt(10), ten of 0.9 and 1.1 are clear."""
    outlier = [10.0] + [0.0] * 9
    steady = [0.9, 1.1] * 5
    found = clear_mean(ops.convert_to_tensor(np.stack([outlier, steady], -1).astype("float32")))
    np.testing.assert_allclose(ops.convert_to_numpy(found), [[0.0, 1.0]], rtol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("correct", [qat.correct_biases, qat.optimize_rounding])
@pytest.mark.parametrize("make", [lambda: layers.Conv2D(8, 3), lambda: ConvNormAct(8, 3)])
def test_a_layer_that_is_called_twice_is_corrected_once(make, correct):
    """On the same inputs, twice what one call gives: the mean of the sum is right if and only if that of one is."""
    pixels = np.random.default_rng(0).uniform(0, 1, (16, 12, 12, 4)).astype("float32")
    inputs, layer = layers.Input((12, 12, 4)), make()
    model = keras.Model(inputs, layers.Add()([layer(inputs), layer(inputs)]))
    expected = model.predict(pixels, verbose=0).mean((0, 1, 2))
    quantized = qat.quantize_model(model, "w4a8", pixels)
    before = np.abs(quantized.predict(pixels, verbose=0).mean((0, 1, 2)) - expected).mean()
    correct(quantized, pixels)
    quantized.predict_function = None
    after = np.abs(quantized.predict(pixels, verbose=0).mean((0, 1, 2)) - expected).mean()
    assert after < 0.2 * before


@pytest.mark.once
@pytest.mark.parametrize("fault", ["float model", "no data"])
def test_what_cannot_be_corrected_is_refused(fault, real_photos):
    photos = real_photos(4, 32).astype("float32")
    model = tiny_network() if fault == "float model" else qat.quantize_model(tiny_network())
    before = [np.array(weight) for weight in model.get_weights()]
    with pytest.raises(ValueError, match=r"no quantisers|at least one input"):
        qat.correct_biases(model, photos if fault == "float model" else photos[:0])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.once
def test_models_compute_as_before_after_a_failure(real_photos):
    photos = real_photos(4, 32).astype("float32")
    quantized = qat.quantize_model(tiny_network())
    expected = ops.convert_to_numpy(quantized(photos))
    with pytest.raises(ValueError, match="incompatible"):
        qat.correct_biases(quantized, photos[..., :2])
    np.testing.assert_array_equal(ops.convert_to_numpy(quantized(photos)), expected)
