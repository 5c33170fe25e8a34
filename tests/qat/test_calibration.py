import keras
import numpy as np
import pytest
from conftest import randomize_statistics
from conftest import tiny_network as tiny
from keras import layers

from keras_mnv4 import data
from keras_mnv4 import qat


def pictures(count=8, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("float32")


def one_quantizer(quantizer):
    """A network that is nothing but a quantiser."""
    inputs = layers.Input((4,))
    return keras.Model(inputs, qat.FakeQuantize(quantizer, name="quantizer")(inputs))


def calibrated_range(quantizer, values, **how):
    model = one_quantizer(quantizer)
    qat.calibrate(model, np.reshape(values, (-1, 4)).astype("float32"), **how)
    return tuple(map(float, model.get_layer("quantizer").range))


def test_calibration_sets_the_mean_of_the_batches_ranges():
    model = tiny()
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, pictures(), batch_size=4)
    state = quantized.get_layer("stem").output_quantizer._state
    stem = keras.Model(model.input, model.get_layer("stem").output)
    largest = [stem.predict(pictures()[start : start + 4], verbose=0).max() for start in (0, 4)]
    assert state["min_var"].numpy() == 0.0  # of a ReLU
    np.testing.assert_allclose(state["max_var"].numpy(), np.mean(largest), rtol=1e-6)


@pytest.mark.parametrize("num_bits", [4, 8])
def test_what_is_zero_throughout_keeps_its_range(num_bits):
    """As the branch of a new residual unit is, whose range no file could hold and no moving average would leave."""
    quantizer = qat.MovingAverageQuantizer(num_bits)
    low, high = calibrated_range(quantizer, np.zeros((4, 3), "float32"))
    assert (low, high) == quantizer.initial_range


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_few_codes_give_up_a_lonely_value_for_a_finer_grid(low):
    """999 values that are a little off for the width of the steps weigh more than one that is cut off."""
    values = np.append(np.linspace(low, 1.0, 999), 8.0)
    errors = []
    for end in 8.0 * np.linspace(1.0, 0.2, 33):
        step = (end - low) / 15
        zero = round(-low / step)
        codes = np.clip(np.rint(values / step) + zero, 0, 15)
        errors.append(np.mean((step * (codes - zero) - values) ** 2))
    best = 8.0 * np.linspace(1.0, 0.2, 33)[np.argmin(errors)]
    assert best < 7.0
    four_bits = qat.MovingAverageQuantizer(4)
    assert calibrated_range(four_bits, values, batch_size=250) == pytest.approx((low, best))
    assert calibrated_range(four_bits, values, batch_size=250, method="minmax") == pytest.approx((low, 8.0))


def test_many_codes_keep_all_values_unless_told():
    values = np.append(np.linspace(-1.0, 1.0, 19_999), 8.0)
    assert calibrated_range(qat.MovingAverageQuantizer(8), values, batch_size=5_000) == pytest.approx((-1.0, 8.0))
    assert calibrated_range(qat.MovingAverageQuantizer(8), values, batch_size=5_000, method="mse")[1] < 8.0


@pytest.mark.parametrize("narrow_range", [False, True])
def test_symmetric_ranges_stay_symmetric(narrow_range):
    values = np.append(np.linspace(-1.0, 1.0, 999), -8.0)
    quantizer = qat.MovingAverageQuantizer(4, symmetric=True, narrow_range=narrow_range)
    low, high = calibrated_range(quantizer, values, batch_size=250)
    assert -7.0 < low < -1.0
    assert high == pytest.approx(-low if narrow_range else -low * 14 / 16)


def test_ranges_of_rounded_scales_are_drawn_in_as_others_are():
    values = np.append(np.linspace(-1.0, 1.0, 999), 8.0)
    quantizer = qat.DoubleQuantizer(qat.MovingAverageQuantizer(4), scale_bits=16)
    assert calibrated_range(quantizer, values, batch_size=250, method="minmax")[1] > 7.5
    assert calibrated_range(quantizer, values, batch_size=250)[1] < 7.0


@pytest.mark.parametrize("seed", range(8))
def test_scales_of_powers_of_two_are_chosen_as_they_are_rounded(seed):
    """A range a little narrower can have half the scale: the error that counts is that of the scale in use."""
    values = np.abs(np.random.default_rng(seed).normal(size=4000)).astype("float32")

    def error(method):
        model = one_quantizer(qat.DoubleQuantizer(qat.MovingAverageQuantizer(4), scale_bits=None))
        qat.calibrate(model, values.reshape(-1, 4), batch_size=1000, method=method)
        return np.mean((model.predict(values.reshape(-1, 4), verbose=0).ravel() - values) ** 2)

    assert error("mse") <= error("minmax") * 1.001


@pytest.mark.parametrize("quantizer", [qat.AllValuesQuantizer(4), qat.LastValueQuantizer(4, per_axis=True)])
def test_ranges_that_hold_all_values_by_definition_do_so(quantizer):
    model = one_quantizer(quantizer)
    values = np.append(np.linspace(-1.0, 1.0, 999), 8.0).reshape(-1, 4).astype("float32")
    qat.calibrate(model, values, batch_size=250, method="mse")
    assert np.max(model.get_layer("quantizer").range[1]) == 8.0


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_the_range_of_a_normal_distribution_is_the_one_of_the_literature(spread):
    """Banner et al. (arXiv 1810.05723): 4 bits do best where a normal distribution is cut at 2.55 deviations."""
    values = np.random.default_rng(0).normal(0.0, spread, 80_000)
    low, _ = calibrated_range(qat.MovingAverageQuantizer(4, symmetric=True), values, batch_size=5_000)
    assert -low / spread == pytest.approx(2.55, rel=0.1)


def test_a_network_is_no_longer_observed_when_calibration_fails():
    quantized = qat.quantize_model(randomize_statistics(tiny()), "w4a4")
    qat.calibrate(quantized, pictures())
    before = quantized.predict(pictures(), verbose=0)
    with pytest.raises(Exception, match=r"(?s)."):
        qat.calibrate(quantized, pictures(size=31)[..., :2])
    np.testing.assert_array_equal(quantized.predict(pictures(), verbose=0), before)


def test_calibrating_a_float_model_on_nothing_or_by_no_method_is_an_error():
    with pytest.raises(ValueError, match="no quantisers"):
        qat.calibrate(tiny(), pictures())
    with pytest.raises(ValueError, match="`data`"):
        qat.calibrate(qat.quantize_model(tiny()), pictures(0))
    with pytest.raises(ValueError, match=r"`method` must be one of.*'entropy'"):
        qat.calibrate(qat.quantize_model(tiny()), pictures(), method="entropy")


HOLDERS = {
    "pairs": lambda shown: (shown, np.zeros(len(shown))),
    "list": list,
    "PictureSet": lambda shown: data.PictureSet(shown.astype("uint8"), np.zeros(len(shown)), 32, batch_size=4),
    "tf.data": lambda shown: to_tf_data(shown).batch(4),
    "tf.data of pairs": lambda shown: to_tf_data((shown, np.zeros(len(shown)))).batch(4),
}


def to_tf_data(tensors):
    return pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices(tensors)


@pytest.mark.parametrize("holder", HOLDERS)
def test_inputs_come_in_whatever_fit_takes(holder):
    """By each function that takes pictures, and of 4 bits, so that they are gone through twice."""
    model = randomize_statistics(tiny())
    expected, quantized = (qat.quantize_model(model, "w4a4") for _ in range(2))
    for model, shown in ((expected, pictures()), (quantized, HOLDERS[holder](pictures()))):
        qat.calibrate(model, shown, batch_size=4)
        qat.correct_biases(model, shown)
        qat.optimize_rounding(model, shown)
    for one, other in zip(quantized.weights, expected.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


def test_values_that_are_not_finite_are_refused_and_change_no_range():
    quantized = qat.quantize_model(randomize_statistics(tiny()))
    qat.calibrate(quantized, pictures())
    before = [weight.numpy() for weight in quantized.weights]
    spoilt = pictures()
    spoilt[3, 5, 7, 0] = np.nan
    with pytest.raises(ValueError, match=r"are not finite: look for NaN in `data`"):
        qat.calibrate(quantized, spoilt)
    for weight, value in zip(quantized.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


@pytest.mark.once
def test_what_is_no_pictures_is_refused():
    quantized = qat.quantize_model(tiny())
    for wrong in (["first.jpg", "second.jpg"], (each for each in pictures()), None):
        with pytest.raises(ValueError, match="`data` must be an array of pictures"):
            qat.calibrate(quantized, wrong)
        with pytest.raises(ValueError, match="`data` must be an array of pictures"):
            qat.correct_biases(quantized, wrong)
    with pytest.raises(ValueError, match=r"`batch_size` must be 1 or more. Received: 0"):
        qat.calibrate(quantized, pictures(), batch_size=0)


@pytest.mark.parametrize("scale", [1 / 127.5, [1 / 58, 1 / 57, 1 / 57]])
def test_scaled_pictures_for_a_model_that_scales_them_are_warned_of(scale):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(layers.Rescaling(scale, -1.0)(inputs)))
    quantized = qat.quantize_model(model, calibration_data=pictures())
    with pytest.raises(UserWarning, match=r"from 0 to 1, but model .* scales its inputs as bytes"):
        qat.calibrate(quantized, pictures() / 255)
    qat.calibrate(quantized, np.zeros((2, 32, 32, 3)))  # black ones are bytes


@pytest.mark.once
@pytest.mark.parametrize(
    "scale", [lambda x: x / 127.5 - 1, lambda x: layers.Rescaling(1 / 255)(layers.Identity()(x))], ids=["ops", "behind"]
)
def test_scaled_pictures_are_warned_of_however_the_model_scales_bytes(scale):
    inputs = keras.Input((32, 32, 3))
    quantized = qat.quantize_model(keras.Model(inputs, layers.Conv2D(4, 3)(scale(inputs))), calibration_data=pictures())
    with pytest.raises(UserWarning, match=r"from 0 to 1, but model .* scales its inputs as bytes"):
        qat.calibrate(quantized, pictures() / 255)


def test_a_model_without_a_scaling_takes_scaled_pictures():
    inputs = keras.Input((32, 32, 3))
    qat.quantize_model(keras.Model(inputs, layers.Conv2D(4, 3)(inputs)), calibration_data=pictures() / 255)
