import numpy as np
from conftest import fit_statistics
from conftest import randomize_statistics
from conftest import tiny_network
from keras import ops

from keras_mnv4 import qat


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
    assert after.mean() < 0.1 * before.mean()


def test_without_rounding_there_is_nothing_to_correct(real_photos):
    photos = real_photos(4, 32).astype("float32")
    model = randomize_statistics(tiny_network())
    nothing = qat.Policy((qat.Rule(r".*"),))
    quantized = qat.quantize_model(model, nothing)
    before = [np.array(weight) for weight in quantized.get_weights()]
    qat.correct_biases(quantized, photos)
    for old, new in zip(before, quantized.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
