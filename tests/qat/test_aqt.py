"""AQT's quantisers, held against the library AQT itself, a reference in NumPy, and what a network does under them."""

import pathlib

import keras
import numpy as np
import pytest
from conftest import flat_layers
from conftest import tiny_hybrid
from conftest import tiny_network
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Basic
from keras_mnv4.applications import Conv
from keras_mnv4.applications import build_network
from keras_mnv4.qat.aqt import round_as_aqt

AQT = np.load(pathlib.Path(__file__).parent.parent / "golden" / "aqt_values.npz")
BITS = (2, 3, 4, 8)
SMALL = Architecture("small", (Conv(8, kernel=3, stride=2), Basic(8), Conv(16, kernel=3, stride=2)), head_filters=None)


def gradient_of(function, values):
    """The gradient of the sum of `function(values)` weighted by 1, 2, 3 and so on."""
    weights = np.arange(values.size, dtype="float32").reshape(values.shape) + 1.0
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variable = tf.Variable(values)
        with tf.GradientTape() as tape:
            total = ops.sum(weights * function(variable))
        return np.asarray(tape.gradient(total, variable))
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: ops.sum(weights * function(x)))(values))
    pytest.skip("gradients are compared on TensorFlow and JAX")


@pytest.mark.parametrize("bits", BITS)
def test_weights_are_rounded_as_in_aqt(bits):
    quantizer = qat.AQTWeightQuantizer(bits)
    layer = qat.FakeQuantize(quantizer)
    found = layer(AQT["values"], training=True)
    np.testing.assert_array_equal(found, AQT[f"codes_weights_{bits}"])
    np.testing.assert_allclose(layer(2 * AQT["values"]), 2 * found, rtol=1e-5)  # recomputed, not kept
    gradients = gradient_of(lambda x: quantizer(x, False, {}), AQT["values"])
    np.testing.assert_allclose(gradients, AQT[f"gradients_weights_{bits}"], rtol=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_activations_are_rounded_as_in_aqt(bits, kind):
    def rounded(values):
        return round_as_aqt(values, AQT["bound"], bits, kind == "signed")

    np.testing.assert_array_equal(rounded(AQT["values"]), AQT[f"codes_{kind}_{bits}"])
    gradients = gradient_of(rounded, AQT["values"])
    np.testing.assert_allclose(gradients, AQT[f"gradients_{kind}_{bits}"], rtol=1e-6)


@pytest.mark.parametrize("bound", ["mean_of_max", "absdev", "rms", "mixed"])
@pytest.mark.parametrize("exclude_zeros", [False, True])
@pytest.mark.parametrize("per_axis", [False, True])
def test_bounds_come_to_those_of_aqt(per_axis, exclude_zeros, bound):
    batches = AQT["batches"]
    arguments = {"per_axis": per_axis, "exclude_zeros": exclude_zeros, "bound": bound, "mix": 0.3}
    layer = qat.FakeQuantize(qat.AQTActivationQuantizer(8, start_step=len(batches) - 1, **arguments))
    for batch in batches[:-1]:
        np.testing.assert_array_equal(layer(batch, training=True), batch)  # not rounded yet
    assert np.any(layer(batches[-1], training=True) != batches[-1])
    granularity = "per_channel" if per_axis else "per_tensor"
    expected = AQT[f"bounds_{granularity}_{exclude_zeros}_{bound}"]
    np.testing.assert_allclose(np.ravel(layer.range[1]), expected, rtol=2e-6, atol=1e-12)
    before = layer.range
    layer(3 * batches[0], training=True)
    np.testing.assert_array_equal(layer.range, before)  # computed once


def numpy_averages(batches, per_axis, exclude_zeros):
    """Moving averages of each batch's statistics, written out."""
    averages = {}
    for batch in batches.astype("float64"):
        columns = batch.reshape(-1, batch.shape[-1]).T if per_axis else batch.reshape(1, -1)
        for index, column in enumerate(columns):
            counted = column[column != 0] if exclude_zeros else column
            if not len(counted):
                continue
            seen = {
                "minimum": counted.min(),
                "maximum": counted.max(),
                "absolute": np.abs(counted).mean(),
                "square": (counted**2).mean(),
            }
            for name, value in seen.items():
                old = averages.setdefault(name, np.zeros(len(columns)))
                old[index] += 0.1 * (value - old[index])
    return averages


@settings(max_examples=20, deadline=None)
@given(
    per_axis=st.booleans(),
    exclude_zeros=st.booleans(),
    bound=st.sampled_from(("mean_of_max", "mixed")),
    count=st.integers(1, 5),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_averages_are_those_of_numpy(per_axis, exclude_zeros, bound, count, relu, seed):
    batches = np.random.default_rng(seed).normal(0, 2, (count, 3, 2, 4)).astype("float32")
    batches[..., 0] = 0.0
    if relu:
        batches = np.maximum(batches, 0.0)
    layer = qat.FakeQuantize(qat.AQTActivationQuantizer(per_axis=per_axis, exclude_zeros=exclude_zeros, bound=bound))
    for batch in batches:
        layer(batch, training=True)
    stored = {weight.path.split("range_")[-1]: ops.convert_to_numpy(weight) for weight in layer.weights}
    assert stored["steps"] == count
    used = {"minimum", *(("maximum",) if bound == "mean_of_max" else ("absolute", "square"))}
    assert stored.keys() == used | {"min", "max", "steps"}
    expected = numpy_averages(batches, per_axis, exclude_zeros)
    for name in used & expected.keys():
        np.testing.assert_allclose(np.ravel(stored[name]), expected[name], rtol=1e-5, atol=1e-6)


def test_signs_are_found_out():
    values = np.array([[-0.5, 0.3], [1.0, 0.9]], "float32")
    layer = qat.FakeQuantize(qat.AQTActivationQuantizer(4, start_step=0, momentum=0.0))
    found = ops.convert_to_numpy(layer(values, training=True))
    np.testing.assert_array_equal(layer.range, [[-1.0, 0.0], [1.0, np.float32(0.9)]])
    np.testing.assert_allclose(found[:, 0], [-3 / 7, 1.0], rtol=1e-6)  # -3.5 up to -3
    np.testing.assert_allclose(found[:, 1], [5 * 0.9 / 16, 15 * 0.9 / 16], rtol=1e-6)  # 5.33 and 16 down to 5 and 15
    for signed, low in ((True, -1.0), (False, 0.0)):
        quantizer = qat.AQTActivationQuantizer(4, per_axis=False, signed=signed)
        assert float(quantizer.observed_range(values)[0]) == low


def test_a_fixed_bound_and_a_calibrated_one():
    values = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    layer = qat.FakeQuantize(qat.AQTActivationQuantizer(4, bound="fixed", fixed_bound=2.0, start_step=0))
    layer(values, training=True)
    np.testing.assert_array_equal(layer.range[1], np.full(5, 2.0))
    layer = qat.FakeQuantize(qat.AQTActivationQuantizer(4, start_step=1))
    layer.build(values.shape)
    layer.set_range_from(values)
    bounds = np.abs(values).max(0)
    for _ in range(3):  # the step at which it would be computed passes
        layer(9 * values, training=True)
    np.testing.assert_allclose(layer.range[1], bounds, rtol=1e-6)


def test_bounds_along_the_first_axis():
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layers = [qat.FakeQuantize(qat.AQTActivationQuantizer(4, start_step=0), axis=axis) for axis in (-1, 1)]
    found = layers[0](values, training=True)
    moved = layers[1](np.moveaxis(values, -1, 1), training=True)
    np.testing.assert_array_equal(found, np.moveaxis(ops.convert_to_numpy(moved), 1, -1))
    np.testing.assert_array_equal(layers[0].range, layers[1].range)


@pytest.mark.parametrize(
    "arguments",
    [
        {"bound": "max"},
        {"start_step": -1},
        {"start_step": 1.5},
        {"momentum": 1.1},
        {"mix": -0.1},
        {"coefficient": 0.0},
        {"fixed_bound": 0.0},
        {"num_bits": 1},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        qat.AQTActivationQuantizer(**arguments)


@pytest.mark.once
def test_what_a_policy_rounds():
    quantized = qat.quantize_model(tiny_hybrid(), "aqt_w4a4_first_last_8")
    convolutions = [layer for layer in quantized._flatten_layers() if hasattr(layer, "kernel_quantizer")]
    assert len(convolutions) > 10
    for layer in convolutions:
        ends = layer.path.startswith(("stem", "predictions"))
        found = layer.kernel_quantizer.quantizer.num_bits, layer.input_quantizer.quantizer.num_bits
        assert found == ((8, 8) if ends else (4, 4))
    assert len(flat_layers(quantized, qat.FakeQuantize)) == 2 * len(convolutions)
    policy = qat.get_policy("aqt_w4a4")
    assert qat.Policy.from_json(policy.to_json()) == policy
    report = {part.path: part for part in qat.quantization_report(quantized).parts}
    assert report["block_1/expand"].inputs == "4 bits a channel, AQTActivation"
    assert report["predictions/softmax"].inputs == ""


def test_a_network_trains_and_is_saved(tmp_path):
    activations = qat.AQTActivationQuantizer(start_step=2)
    network = build_network(SMALL, classes=3, input_shape=(32, 32, 3))
    quantized = qat.quantize_model(network, qat.aqt_policy(4, 4, 8, activations))
    random = np.random.default_rng(0)
    pictures, labels = random.integers(0, 255, (16, 32, 32, 3)), random.integers(0, 3, 16)
    quantized.compile("sgd", "sparse_categorical_crossentropy")
    quantized.fit(pictures, labels, batch_size=8, epochs=2, verbose=0)
    ranges = [layer.range[1] for layer in flat_layers(quantized, qat.FakeQuantize)]
    assert all(np.all(ceiling >= 0) for ceiling in ranges)  # all bounds were computed
    quantized.save(tmp_path / "aqt.keras")
    loaded = keras.models.load_model(tmp_path / "aqt.keras")
    np.testing.assert_allclose(loaded.predict(pictures, verbose=0), quantized.predict(pictures, verbose=0), rtol=1e-6)


def test_stock_layers_round_their_inputs():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    )
    pictures = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    quantized = qat.quantize_model(model, qat.aqt_policy(8, 8), calibration_data=pictures)
    rounded = quantized.layers[1].input_quantizer(pictures)
    kernel = quantized.layers[1].quantized_kernel()
    expected = ops.mean(ops.relu(ops.conv(rounded, kernel)), (1, 2))
    np.testing.assert_allclose(quantized(pictures), expected, rtol=1e-5, atol=1e-6)
    assert cost.profile(quantized).aqt_cost("quadratic") == 64 * cost.profile(model).macs


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["to_litert", "to_onnx"])
def test_files_of_integers_are_refused_by_name(name, tmp_path):
    from keras_mnv4 import export

    quantized = qat.quantize_model(tiny_network(), "aqt_w8a8", calibration_data=np.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="`stem` rounds its inputs"):
        getattr(export, name)(quantized, tmp_path / "file", samples=np.zeros((1, 32, 32, 3), "uint8"))
    assert not list(tmp_path.iterdir())
