"""The portable quantisers against TFMOT's own objects: every value and every range, bit for bit."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_mnv4 import qat
from keras_mnv4.qat import fake_quantize as hosting
from keras_mnv4.qat import quantizers
from keras_mnv4.qat import tfmot

RANGED = (qat.LastValueQuantizer, qat.MovingAverageQuantizer, qat.AllValuesQuantizer)
IS_TENSORFLOW = keras.backend.backend() == "tensorflow"


class Host:
    """A host of plain variables: Keras's, or TensorFlow's for TFMOT."""

    def __init__(self, make):
        self.make = make

    def add_weight(self, name, initializer, trainable, shape=None):
        shape = () if shape is None else (shape,)
        return self.make(np.full(shape, initializer.get_config()["value"], "float32"))


def run(quantizer, batches, make):
    """Values of each batch in training, then the last batch's at inference, and the final ranges."""
    state = quantizer.build(batches[0].shape, "range", Host(make)) or {}
    values = [np.array(quantizer(to_tensor(make, batch), True, state)) for batch in batches]
    values.append(np.array(quantizer(to_tensor(make, batches[-1]), False, state)))
    return values, [variable.numpy() for variable in state.values()]


def to_tensor(make, batch):
    return ops.convert_to_tensor(batch) if make is keras.Variable else _tensorflow().constant(batch)


def _tensorflow():
    import tensorflow

    return tensorflow


def assert_equal_to_tfmot(quantizer, batches):
    ours = run(quantizer, batches, keras.Variable)
    theirs = run(tfmot.to_tfmot(quantizer), batches, _tensorflow().Variable)
    for mine, other in zip(ours[0] + ours[1], theirs[0] + theirs[1], strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("kind", RANGED)
@pytest.mark.parametrize("per_axis", [False, True])
@settings(max_examples=12, deadline=None)
@given(
    num_bits=st.sampled_from((2, 4, 8)),
    symmetric=st.booleans(),
    narrow_range=st.booleans(),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-2, 2),
    seed=st.integers(0, 2**20),
)
def test_bit_equal_to_tfmot(kind, per_axis, num_bits, symmetric, narrow_range, scale, shift, seed):
    if per_axis and kind is not qat.LastValueQuantizer:
        return  # TFMOT's own fail an assertion there
    random = np.random.default_rng(seed)
    batches = [(scale * (random.normal(size=(3, 3, 4, 6)) + shift)).astype("float32") for _ in range(3)]
    assert_equal_to_tfmot(kind(num_bits, per_axis, symmetric, narrow_range), batches)


@pytest.mark.parametrize("narrow_range", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.0, 255 / 256), (-1.0, 127 / 128), (-6.0, 6.0), (-0.3, 7.7)])
def test_fixed_is_bit_equal_to_tfmot(low, high, narrow_range):
    if IS_TENSORFLOW:
        pytest.skip("TFMOT's own runs there")
    quantizer = qat.FixedQuantizer(num_bits=8, init_min=low, init_max=high, narrow_range=narrow_range)
    assert_equal_to_tfmot(quantizer, [np.random.default_rng(0).normal(0, 4, 1000).astype("float32")])


def test_a_channel_of_zeros_stays_zero():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype("float32")
    kernel[..., 2] = 0
    assert_equal_to_tfmot(qat.LastValueQuantizer(8, True, True, True), [kernel])


@pytest.mark.parametrize("per_axis", [False, True])
def test_gradient_is_tensorflows(per_axis):
    """One inside the range, zero outside: of `fake_quant_with_min_max_vars`, hand-computed at the ends."""
    quantizer = qat.LastValueQuantizer(4, per_axis, True, True)
    layer = qat.FakeQuantize(quantizer)
    inputs = np.array([[-9.0, -7.0, -0.5, 0.0, 0.3, 6.9, 7.0, 7.1]], "float32").T
    layer.build(inputs.shape)
    layer._state["min_var"].assign(-7.0 * np.ones(layer._state["min_var"].shape))
    layer._state["max_var"].assign(7.0 * np.ones(layer._state["max_var"].shape))
    expected = [[0.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [0.0]]
    if IS_TENSORFLOW:
        tf = _tensorflow()
        variable = tf.Variable(inputs)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(variable))
        gradient = tape.gradient(total, variable).numpy()
    elif keras.backend.backend() == "torch":
        import torch

        variable = torch.tensor(inputs, requires_grad=True)
        ops.sum(layer(variable)).backward()
        gradient = variable.grad.numpy()
    else:
        import jax

        gradient = jax.grad(lambda x: ops.sum(layer(x)))(inputs)
    np.testing.assert_array_equal(gradient, expected)


@settings(max_examples=20, deadline=None)
@given(
    num_bits=st.sampled_from((2, 4, 8)),
    low=st.floats(-100, 0, width=32),
    span=st.floats(0.015625, 100, width=32),
    narrow_range=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_rounds_to_a_grid_that_holds_zero(num_bits, low, span, narrow_range, seed):
    high = max(low + span, 0.0)
    if high == low:
        return
    inputs = np.random.default_rng(seed).uniform(2 * low - 1, 2 * high + 1, 500).astype("float32")
    inputs[0] = 0.0
    outputs = np.array(quantizers.fake_quantize(inputs, low, high, num_bits, narrow_range))
    scale = (high - low) / (2**num_bits - 1 - narrow_range)
    assert outputs[0] == 0.0
    assert len(np.unique(outputs)) <= 2**num_bits - narrow_range
    np.testing.assert_allclose(outputs / scale, np.round(outputs / scale), atol=1e-3)
    inside = (inputs >= low + scale) & (inputs <= high - scale)
    assert np.all(np.abs(outputs - inputs)[inside] <= scale * 0.501)
    again = np.array(quantizers.fake_quantize(outputs, low, high, num_bits, narrow_range))
    np.testing.assert_allclose(again, outputs, atol=1e-5 * scale)


def test_half_precision_in_half_precision_out():
    layer = qat.FakeQuantize(qat.FixedQuantizer(8, -1.0, 127 / 128))
    outputs = layer(ops.cast(np.array([0.3, 5.0]), "float16"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"


def test_the_backend_decides_who_runs():
    layer = qat.FakeQuantize(qat.MovingAverageQuantizer(8))
    layer.build((1, 4))
    if IS_TENSORFLOW:
        hosted = layer.engine.quantizer
        assert type(hosted) is tfmot.import_tfmot_quantizers().MovingAverageQuantizer
    else:
        assert layer.engine is layer.quantizer


def test_tfmot_has_no_fixed_quantizer_of_other_widths():
    assert tfmot.to_tfmot(qat.FixedQuantizer(4, 0.0, 1.0)) is None
    outputs = qat.FakeQuantize(qat.FixedQuantizer(2, 0.0, 3.0))(np.array([0.4, 1.6, 9.0]))
    np.testing.assert_array_equal(ops.convert_to_numpy(outputs), [0.0, 2.0, 3.0])


@pytest.mark.parametrize("quantizer", [*(kind(4, False, True, True) for kind in RANGED), qat.FixedQuantizer(8, 0, 1)])
def test_configuration_round_trip(quantizer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert again == quantizer
    layer = qat.FakeQuantize(quantizer, name="q")
    assert qat.FakeQuantize.from_config(layer.get_config()).quantizer == quantizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qat.LastValueQuantizer(num_bits=1), "num_bits=1"),
        (lambda: qat.LastValueQuantizer(num_bits=9), "num_bits=9"),
        (lambda: qat.MovingAverageQuantizer(per_axis=True), "per axis"),
        (lambda: qat.FixedQuantizer(8, 0.5, 1.0), "enclose zero"),
        (lambda: qat.FixedQuantizer(8, 0.0, 0.0), "enclose zero"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_quantizers_are_hosted():
    with pytest.raises(TypeError, match="`quantizer`"):
        qat.FakeQuantize("int8")


def test_weight_host_gives_scalars_and_vectors():
    layer = keras.layers.Layer()
    host = hosting._WeightHost(layer)
    constant = keras.initializers.Constant(3.0)
    assert host.add_weight("a", constant, False).shape == ()
    assert host.add_weight("b", constant, False, shape=5).shape == (5,)
