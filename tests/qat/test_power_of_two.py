"""Powers of two and rounded scales, held against QKeras, arithmetic by hand, and properties."""

import pathlib

import keras
import numpy as np
import pytest
from conftest import tiny_hybrid
from conftest import tiny_network
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_mnv4 import qat
from keras_mnv4.qat.power_of_two import power_of_two

QKERAS = np.load(pathlib.Path(__file__).parent.parent / "golden" / "qkeras_values.npz")


def rounded(quantizer, values, training=True):
    layer = qat.FakeQuantize(quantizer)
    return ops.convert_to_numpy(layer(np.asarray(values, "float32"), training=training)), layer


def test_powers_are_exact():
    exponents = np.arange(-126, 128)
    exact = np.float32([float.fromhex(f"0x1p{exponent}") for exponent in exponents])
    np.testing.assert_array_equal(ops.convert_to_numpy(power_of_two(exponents)), exact)


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_powers_of_two_are_qkeras(bits):
    quantizer = qat.PowerOfTwoQuantizer(bits, per_axis=False, has_zero=False, top_exponent=2 ** (bits - 2) - 1)
    np.testing.assert_array_equal(rounded(quantizer, QKERAS["inputs"])[0], QKERAS[f"po2_{bits}"])


@pytest.mark.parametrize("bits", [4, 8])
def test_equal_steps_are_qkeras(bits):
    end = 1 - 2.0 ** (1 - bits)
    quantizer = qat.FixedQuantizer(bits, -end, end, narrow_range=True)
    np.testing.assert_array_equal(rounded(quantizer, QKERAS["inputs"])[0], QKERAS[f"linear_{bits}"])


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(2, 6), has_zero=st.booleans(), scale=st.floats(1e-4, 1e4), seed=st.integers(0, 1000))
def test_every_value_goes_to_a_near_power(bits, has_zero, scale, seed):
    values = (scale * np.random.default_rng(seed).normal(size=(5, 7))).astype("float32")
    quantizer = qat.PowerOfTwoQuantizer(bits, has_zero=has_zero)
    found, layer = rounded(quantizer, values)
    top = layer.range[1]
    np.testing.assert_array_equal(np.log2(top) % 1, 0)
    assert (np.abs(np.log2(np.abs(values).max(0) / top)) <= 0.5 + 1e-5).all()
    bottom = top / 2.0 ** (quantizer.num_exponents - 1)
    is_zero = found == 0
    assert has_zero or not is_zero.any()
    assert (np.abs(values)[is_zero] < np.broadcast_to(bottom, values.shape)[is_zero]).all()
    exponents = np.log2(np.abs(found[~is_zero]))
    np.testing.assert_array_equal(exponents % 1, 0)
    assert len(np.unique(found[:, 0])) <= 2**bits
    inside = ~is_zero & (np.abs(values) >= bottom) & (np.abs(values) <= top)
    assert (np.abs(np.log2(np.abs(values[inside] / found[inside]))) <= 0.5 + 1e-5).all()
    assert (np.sign(found[~is_zero]) == np.sign(values[~is_zero])).all()


@settings(max_examples=30, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    scale_bits=st.sampled_from([None, 4, 8]),
    symmetric=st.booleans(),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_scales_are_rounded_and_codes_stay(bits, scale_bits, symmetric, scale, seed):
    random = np.random.default_rng(seed)
    values = (scale * random.normal(size=(9, 6)) * random.uniform(0.2, 1, 6)).astype("float32")
    inner = qat.LastValueQuantizer(bits, per_axis=True, symmetric=symmetric, narrow_range=symmetric)
    found, layer = rounded(qat.DoubleQuantizer(inner, scale_bits), values)
    _, plain = rounded(inner, values)
    codes = 2**bits - 1 - symmetric
    steps, exact = ((high - low) / codes for low, high in (layer.range, plain.range))
    if scale_bits is None:
        np.testing.assert_array_equal(np.log2(steps) % 1, 0)
        assert (np.abs(np.log2(steps / exact)) <= 0.5 + 1e-3).all()
    else:
        unit = 2.0 ** np.ceil(np.log2(exact.max() / (2**scale_bits - 1)) - 1e-6)
        whole = steps / unit
        np.testing.assert_allclose(whole, np.round(whole), rtol=1e-5)
        assert whole.max() <= 2**scale_bits - 1
        assert (np.abs(steps - exact) <= unit * 0.501).all()
    np.testing.assert_allclose(found / steps, np.round(found / steps), atol=1e-3)
    low, high = layer.range
    inside = (values >= low) & (values <= high)
    assert (np.abs(found - values)[inside] <= np.broadcast_to(steps, values.shape)[inside] * 0.501).all()


def test_gradients_pass_straight_through():
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are taken with TensorFlow's tape")
    values = tensorflow.constant(np.random.default_rng(0).normal(size=(6, 4)).astype("float32"))
    four_bits = qat.LastValueQuantizer(4, per_axis=True, symmetric=True, narrow_range=True)
    for quantizer in (qat.PowerOfTwoQuantizer(4), qat.DoubleQuantizer(four_bits, 8)):
        layer = qat.FakeQuantize(quantizer)
        layer.build((6, 4))
        layer.set_range_from(2 * values)  # wide enough for all
        with tensorflow.GradientTape() as tape:
            tape.watch(values)
            total = tensorflow.reduce_sum(layer(values) * 3.0)
        np.testing.assert_array_equal(tape.gradient(total, values), 3.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qat.PowerOfTwoQuantizer(9), "num_bits=9"),
        (lambda: qat.PowerOfTwoQuantizer(4, symmetric=False), "symmetric"),
        (lambda: qat.DoubleQuantizer(qat.FixedQuantizer()), "keeps a range"),
        (lambda: qat.DoubleQuantizer(qat.PowerOfTwoQuantizer()), "keeps a range"),
        (lambda: qat.DoubleQuantizer(qat.MovingAverageQuantizer(), 1), "scale_bits"),
        (lambda: qat.NormQuantization(scale_bits=1), "scale_bits"),
        (lambda: qat.NormQuantization(scale_bits=10, power_of_two=True), "scale_bits"),
        (lambda: qat.NormQuantization(offset_bits=17), "offset_bits"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("build", "policy"),
    [
        pytest.param(tiny_network, "pikelpn", marks=pytest.mark.slow),
        pytest.param(tiny_network, qat.pikelpn_policy(4, scale_bits=None), marks=pytest.mark.slow),
        pytest.param(tiny_hybrid, "pikelpn", marks=pytest.mark.slow),
    ],
)
def test_the_policy_trains_saves_and_loads(build, policy, tmp_path):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (16, 32, 32, 3)).astype("float32")
    model = qat.quantize_model(build(), policy, pictures)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    before = model.get_layer("stem").kernel.numpy().copy()
    losses = model.fit(pictures, random.integers(0, 3, 16), epochs=6, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert np.abs(model.get_layer("stem").kernel.numpy() - before).max() > 0
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), model.predict(pictures, verbose=0))


def test_the_policy_is_json_and_its_parts_are_arguments():
    policy = qat.get_policy("pikelpn")
    assert qat.Policy.from_json(policy.to_json()) == policy
    assert isinstance(policy.rule_for("block_3/expand").weights, qat.PowerOfTwoQuantizer)
    assert policy.rule_for("block_3/start_depthwise").weights.num_bits == 8
    assert policy.rule_for("stem").weights.num_bits == policy.rule_for("predictions/conv").weights.num_bits == 8
    assert policy.rule_for("block_3/expand").norm == qat.NormQuantization()
    reverse = qat.pikelpn_policy(
        depthwise=policy.rule_for("block_3/expand").weights, pointwise=qat.LastValueQuantizer()
    )
    assert isinstance(reverse.rule_for("block_3/start_depthwise").weights, qat.PowerOfTwoQuantizer)
    plain = qat.pikelpn_policy(norm=None, scale_bits="float")
    assert plain.rule_for("stem").norm is None
    assert isinstance(plain.rule_for("stem").outputs, qat.MovingAverageQuantizer)
