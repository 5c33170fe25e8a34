import keras
import numpy as np
import pytest
from keras import ops

from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers import QuantNorm
from keras_mnv4.qat import LayerQuantization
from keras_mnv4.qat import NormQuantization

FEATURES = np.random.default_rng(0).normal(1.0, 2.0, size=(8, 5, 5, 6)).astype("float32")


def with_random_weights(norm, shape=FEATURES.shape):
    norm.build(shape)
    random = np.random.default_rng(1)
    norm.gamma.assign(random.uniform(0.5, 1.5, 6))
    norm.beta.assign(random.normal(size=6))
    norm.moving_mean.assign(random.normal(size=6))
    norm.moving_variance.assign(random.uniform(0.3, 3.0, 6))
    return norm


def exact(norm):
    scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    return scale, norm.beta.numpy() - norm.moving_mean.numpy() * scale


@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (4, 7)])
def test_scale_and_offset_have_few_bits_and_one_power_of_two(bits, steps):
    norm = with_random_weights(QuantNorm(NormQuantization(bits, bits)))
    found = [ops.convert_to_numpy(each) for each in norm.scale_and_offset()]
    scale, _ = exact(norm)
    offset = norm.beta.numpy() - norm.moving_mean.numpy() * found[0]  # with the rounded scale
    for rounded, value in zip(found, (scale, offset), strict=True):
        step = 2.0 ** np.ceil(np.log2(np.abs(value).max() / steps))
        codes = rounded / step
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-5)
        assert np.abs(codes).max() <= steps
        assert np.abs(rounded - value).max() <= step * 0.501
    expected = FEATURES * found[0] + found[1]
    np.testing.assert_allclose(ops.convert_to_numpy(norm(FEATURES)), expected, atol=1e-5)


def test_scales_can_be_powers_of_two():
    norm = with_random_weights(QuantNorm(NormQuantization(4, 8, power_of_two=True)))
    scale = ops.convert_to_numpy(norm.scale_and_offset()[0])
    np.testing.assert_array_equal(np.log2(scale) % 1, 0)
    assert np.abs(np.log2(scale / exact(norm)[0])).max() <= 0.5


def test_rounding_once_errs_less_than_rounding_everything():
    """The naive way rounds gamma, beta, mean and variance each for itself. Variances of one layer span decades."""
    errors = []
    for is_fused in (True, False):
        norm = with_random_weights(QuantNorm(NormQuantization(is_fused=is_fused)))
        norm.moving_variance.assign(np.geomspace(1e-3, 10, 6))
        scale, offset = exact(norm)
        features = FEATURES * np.sqrt(norm.moving_variance.numpy()) + norm.moving_mean.numpy()
        outputs = ops.convert_to_numpy(norm(features))
        errors.append(np.mean((outputs - features * scale - offset) ** 2))
    assert errors[0] < 0.1 * errors[1]


def test_many_bits_are_a_batch_normalisation_in_training_and_at_inference():
    norm = with_random_weights(QuantNorm(NormQuantization(16, 16), momentum=0.8))
    twin = with_random_weights(keras.layers.BatchNormalization(momentum=0.8))
    for training in (True, False):
        ours, theirs = (ops.convert_to_numpy(each(FEATURES, training=training)) for each in (norm, twin))
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    for mine, other in zip(norm.weights, twin.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-5)


def test_weights_are_those_of_batch_normalisation():
    inputs = keras.Input((5, 5, 6))
    plain = keras.Model(inputs, with_random_weights(keras.layers.BatchNormalization(name="norm"))(inputs))
    model = keras.Model(inputs, QuantNorm(name="norm")(inputs))
    model.set_weights(plain.get_weights())
    assert [weight.name for weight in model.weights] == [weight.name for weight in plain.weights]
    np.testing.assert_allclose(model.predict(FEATURES, verbose=0), plain.predict(FEATURES, verbose=0), atol=0.1)


def test_frozen_it_normalises_in_training_as_at_inference():
    norm = with_random_weights(QuantNorm())
    norm.trainable = False
    found = [ops.convert_to_numpy(norm(FEATURES, training=training)) for training in (True, False)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_rounds_in_float32(dtype):
    norm = with_random_weights(QuantNorm(dtype=dtype))
    reference = with_random_weights(QuantNorm())
    outputs = norm(FEATURES)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype.removeprefix("mixed_")
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(outputs, "float32")), ops.convert_to_numpy(reference(FEATURES)), atol=0.1
    )


def test_it_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((5, 5, 6))
    model = keras.Model(inputs, with_random_weights(QuantNorm(NormQuantization(5, 6)))(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[-1].norm_quantization == NormQuantization(5, 6)
    np.testing.assert_array_equal(again.predict(FEATURES, verbose=0), model.predict(FEATURES, verbose=0))


def test_a_convolution_takes_it_by_its_quantisation():
    layer = ConvNormAct(4, quantization=LayerQuantization(norm=NormQuantization(power_of_two=True)))
    layer.build((1, 8, 8, 3))
    assert isinstance(layer.norm, QuantNorm)
    again = ConvNormAct.from_config(layer.get_config())
    assert again.quantization.norm == NormQuantization(power_of_two=True)


def test_renormalisation_is_refused():
    with pytest.raises(ValueError, match="renorm"):
        QuantNorm(renorm=True)
