"""The portable quantisers against TFMOT's own objects: every value and every range, bit for bit."""

import keras
import numpy as np
import pytest
from hypothesis import example
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
    for mine, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_array_equal(mine, other)
    for inputs, mine, other in zip([*batches, batches[-1]], ours[0], theirs[0], strict=True):
        if not IS_TENSORFLOW:  # one product in a few hundred thousand is a tie, which an ulp decides
            is_tie = np.abs(inputs - (mine + other) / 2) <= 1e-4 * np.abs(mine - other)
            mine = np.where(is_tie, other, mine)
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("kind", RANGED)
@pytest.mark.parametrize("per_axis", [False, True])
@example(num_bits=4, symmetric=True, narrow_range=False, scale=98.68875338627785, shift=1.890625, seed=67)
@example(num_bits=8, symmetric=False, narrow_range=False, scale=1.2212879796668137, shift=1.2212879796668137, seed=157)
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


def gradients(function, *arrays):
    """The gradients of a scalar `function` of `arrays` for each of them, on the backend at hand."""
    if IS_TENSORFLOW:
        return tensorflow_gradients(function, *arrays)
    if keras.backend.backend() == "torch":
        import torch

        tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
        function(*tensors).backward()
        return [tensor.grad.numpy() for tensor in tensors]
    import jax

    return [np.array(gradient) for gradient in jax.grad(function, tuple(range(len(arrays))))(*arrays)]


def tensorflow_gradients(function, *arrays):
    tf = _tensorflow()
    tensors = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = function(*tensors)
    return [gradient.numpy() for gradient in tape.gradient(total, tensors)]


@pytest.mark.parametrize("per_axis", [False, True])
def test_gradient_is_straight_through(per_axis):
    """One inside the range, zero outside, by hand at the ends."""
    quantizer = qat.LastValueQuantizer(4, per_axis, True, True)
    layer = qat.FakeQuantize(quantizer)
    inputs = np.array([[-9.0, -7.0, -0.5, 0.0, 0.3, 6.9, 7.0, 7.1]], "float32").T
    layer.build(inputs.shape)
    layer._state["min_var"].assign(-7.0 * np.ones(layer._state["min_var"].shape))
    layer._state["max_var"].assign(7.0 * np.ones(layer._state["max_var"].shape))
    expected = [[0.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [0.0]]
    (gradient,) = gradients(lambda x: ops.sum(layer(x)), inputs)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("per_axis", [False, True])
@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("narrow_range", [False, True])
def test_gradients_are_those_of_tensorflows_op(per_axis, num_bits, narrow_range):
    """Of inputs and of both ends of the range: nudged ones, one with an end at zero, and an empty one."""
    tf, random = _tensorflow(), np.random.default_rng(0)
    inputs, upstream = random.normal(size=(2, 5, 4, 6)).astype("float32")[..., None] * np.ones(4, "float32")
    low = np.array([-0.7, 0.0, -1.3, 0.0], "float32")
    high = np.array([1.1, 0.9, 0.0, 0.0], "float32")
    fake_quant = tf.quantization.fake_quant_with_min_max_vars_per_channel
    if not per_axis:
        low, high, fake_quant = low[0], high[0], tf.quantization.fake_quant_with_min_max_vars

    def ours(x, low, high):
        return ops.sum(upstream * quantizers.fake_quantize(x, low, high, num_bits, narrow_range, per_axis))

    def theirs(x, low, high):
        return tf.reduce_sum(upstream * fake_quant(x, low, high, num_bits, narrow_range))

    of_inputs, *of_ends = gradients(ours, inputs, low, high)
    expected, *expected_of_ends = tensorflow_gradients(theirs, inputs, low, high)
    np.testing.assert_array_equal(of_inputs, expected)
    np.testing.assert_allclose(of_ends, expected_of_ends, rtol=1e-5, atol=1e-6)
    assert np.any(expected_of_ends)


@pytest.mark.parametrize("gradient_scale", [False, True])
def test_learned_ranges_are_pulled_by_what_they_cut_off_and_by_rounding(gradient_scale):
    """By hand, on the grid 0, 1, 2, 3 with the values 0.4 and 1.6 inside and one value beyond each end."""
    quantizer = qat.LearnedRangeQuantizer(num_bits=2, gradient_scale=gradient_scale)
    inputs, upstream = np.array([0.4, 1.6, 9.0, -1.0], "float32"), np.array([1.0, 2.0, 3.0, 4.0], "float32")

    def total(low, high):
        return ops.sum(upstream * quantizer(inputs, True, {"min_var": low, "max_var": high}))

    of_rounding = (1.0 * (0.0 - 0.4) + 2.0 * (2.0 - 1.6)) / 3
    scale = 3**2 / 2 / np.sqrt(4 * 3) if gradient_scale else 1.0
    low, high = gradients(total, np.float32(0.0), np.float32(3.0))
    np.testing.assert_allclose([low, high], scale * np.array([4.0 - of_rounding, 3.0 + of_rounding]), rtol=1e-5)
    outputs = quantizer(inputs, True, {"min_var": np.float32(0.0), "max_var": np.float32(3.0)})
    np.testing.assert_array_equal(np.array(outputs), [0.0, 2.0, 3.0, 0.0])


@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_learned_ranges_move_as_learned_steps(num_bits):
    """A step of gradient descent on the range, and one on the step as arXiv 1902.08153 has it, in NumPy."""
    random = np.random.default_rng(0)
    inputs, upstream = random.normal(size=(2, 64)).astype("float32")
    largest = 2 ** (num_bits - 1) - 1
    step = 1.5 / largest
    quantizer = qat.LearnedRangeQuantizer(num_bits, symmetric=True, narrow_range=True)

    def total(low, high):
        return ops.sum(upstream * quantizer(inputs, True, {"min_var": low, "max_var": high}))

    low, high = gradients(total, np.float32(-1.5), np.float32(1.5))
    codes = inputs / step
    of_step = np.where(np.abs(codes) < largest, np.rint(codes) - codes, np.sign(codes) * largest)
    expected = np.sum(upstream * of_step) / np.sqrt(64 * largest)
    assert (high - low) / 2 / largest == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("per_axis", "symmetric"), [(True, True), (False, False)])
def test_learned_ranges_find_the_best_one(per_axis, symmetric):
    """From the range that holds every value, which at 4 bits is too wide for values with long tails."""
    inputs = np.random.default_rng(0).laplace(size=(4096, 2)).astype("float32") * [1.0, 5.0 if per_axis else 1.0]
    quantizer = qat.LearnedRangeQuantizer(4, per_axis, symmetric, narrow_range=symmetric)
    layer = qat.FakeQuantize(quantizer)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.set_range_from(inputs)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    before = model.evaluate(inputs, inputs, batch_size=4096, verbose=0)
    often = np.tile(inputs, (40, 1))
    model.fit(often, often, batch_size=512, verbose=0)
    after = model.evaluate(inputs, inputs, batch_size=4096, verbose=0)

    def loss_within(end, channels):
        rounded = np.array(quantizers.fake_quantize(channels, -end, end, 4, symmetric))
        return np.mean((rounded - channels) ** 2)

    groups = [inputs[:, :1], inputs[:, 1:]] if per_axis else [inputs]
    ends = np.linspace(0.1, 1.0, 91)
    best = np.mean([min(loss_within(end * np.abs(each).max(), each) for end in ends) for each in groups])
    assert after < 1.05 * best < 0.7 * before
    low, high = (np.array(layer._state[name].numpy()) for name in ("min_var", "max_var"))
    assert low.shape == high.shape == ((2,) if per_axis else ())
    if symmetric:
        np.testing.assert_allclose(low, -high, rtol=1e-4)


def test_learned_ranges_keep_zero_inside():
    quantizer = qat.LearnedRangeQuantizer(num_bits=2)
    outputs = quantizer(np.array([0.4, 1.6], "float32"), False, {"min_var": np.float32(0.3), "max_var": np.float32(3)})
    np.testing.assert_array_equal(np.array(outputs), [0.0, 2.0])


@pytest.mark.parametrize("symmetric", [False, True])
def test_learned_ranges_that_are_empty_grow(symmetric):
    """Such as that of a channel that starts at zero."""
    quantizer = qat.LearnedRangeQuantizer(num_bits=4, symmetric=symmetric)

    def error(low, high):
        outputs = quantizer(np.array([-2.0, 3.0], "float32"), True, {"min_var": low, "max_var": high})
        return ops.sum((outputs - np.array([-2.0, 3.0], "float32")) ** 2)

    low, high = gradients(error, np.float32(0.0), np.float32(0.0))
    assert low > 0 > high  # descent lowers the one and raises the other


def test_learned_ranges_load_from_files_of_other_quantizers(tmp_path):
    def model(quantizer):
        return keras.Sequential([keras.Input((2,)), qat.FakeQuantize(quantizer, name="q")])

    measured = model(qat.MovingAverageQuantizer(4))
    measured.layers[0].set_range_from(np.array([[-1.0, 2.0]]))
    measured.save_weights(tmp_path / "q.weights.h5")
    learned = model(qat.LearnedRangeQuantizer(4))
    learned.load_weights(tmp_path / "q.weights.h5")
    assert [(weight.name, float(weight.numpy())) for weight in learned.trainable_weights] == [
        ("range_min", -1.0),
        ("range_max", 2.0),
    ]


@pytest.mark.once
@pytest.mark.parametrize("excluded", [False, True])
def test_ranges_can_be_left_out_of_weight_decay(excluded):
    layer = qat.FakeQuantize(qat.LearnedRangeQuantizer(4))
    model = keras.Sequential([keras.Input((2,)), layer])
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    if excluded:
        optimizer.exclude_from_weight_decay(var_names=qat.RANGE_NAMES)
    model.compile(optimizer, "mse")
    model.train_on_batch(np.zeros((1, 2)), np.zeros((1, 2)))  # no gradient: only decay moves anything
    assert (float(layer._state["max_var"].numpy()) == 6.0) == excluded


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


@pytest.mark.parametrize(
    "quantizer",
    [*(kind(4, False, True, True) for kind in (*RANGED, qat.LearnedRangeQuantizer)), qat.FixedQuantizer(8, 0, 1)],
)
def test_configuration_round_trip(quantizer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert again == quantizer
    layer = qat.FakeQuantize(quantizer, name="q")
    assert qat.FakeQuantize.from_config(layer.get_config()).quantizer == quantizer


@pytest.mark.parametrize("symmetric", [False, True])
def test_16_bits_are_within_a_step_of_tfmot(symmetric):
    """XLA joins products and sums, which at so many codes now and then decides a tie."""
    quantizer = qat.AllValuesQuantizer(16, symmetric=symmetric)
    batches = [np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype("float32")]
    ours = run(quantizer, batches, keras.Variable)
    theirs = run(tfmot.to_tfmot(quantizer), batches, _tensorflow().Variable)
    (low, high), values = theirs[1], (ours[0][0], theirs[0][0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(*values, atol=1.001 * (high - low) / 65535)
    assert len(np.unique(values[0])) > 200


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qat.LastValueQuantizer(num_bits=1), "num_bits=1"),
        (lambda: qat.LastValueQuantizer(num_bits=17), "num_bits=17"),
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


@pytest.mark.parametrize("double", [False, True])
def test_the_range_in_use_of_learned_ranges_holds_zero(double):
    quantizer = qat.LearnedRangeQuantizer(num_bits=4)
    layer = qat.FakeQuantize(qat.DoubleQuantizer(quantizer) if double else quantizer)
    values = np.linspace(-1, 2, 7, dtype="float32")
    layer(values)
    layer.set_range_from(values)
    layer._state["min_var"].assign(0.3)
    low, high = layer.range
    assert low == 0.0
    assert high == pytest.approx(2.0, rel=0.01)
    assert float(ops.max(layer(values))) == pytest.approx(float(high), rel=1e-6)
