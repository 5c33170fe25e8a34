import dataclasses

import keras
import numpy as np
import pytest
from conftest import flat_layers
from conftest import randomize_statistics
from conftest import tiny_hybrid
from conftest import tiny_network
from keras import layers

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import MQA
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Bottleneck
from keras_mnv4.applications import Conv
from keras_mnv4.applications import MaxPool
from keras_mnv4.applications import build_network
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES
from keras_mnv4.export import onnx
from keras_mnv4.export.prepare import freeze
from keras_mnv4.export.qdq import Graph
from keras_mnv4.export.tflite_file import read_tflite
from keras_mnv4.export.verify import layer_path
from keras_mnv4.layers import ConvNormAct

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def model():
    return randomize_statistics(tiny_network())


def test_onnx_runtime_gives_the_keras_models_outputs(model, real_photos, tmp_path):
    photos = real_photos(5, 32)
    report = export.to_onnx(model, tmp_path / "m.onnx", samples=photos)
    assert report.agreement.top1 == 1.0
    assert report.size == (tmp_path / "m.onnx").stat().st_size
    outputs = export.run_onnx(tmp_path / "m.onnx", photos, batch_size=2)
    np.testing.assert_allclose(outputs, model.predict(photos.astype("float32"), verbose=0), atol=1e-5)


HYBRID = Architecture("hybrid", (Conv(16, kernel=3, stride=2), MQA(16, heads=2, key_dim=8, kv_stride=2)))


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (HYBRID, (32, 48)),
        pytest.param(ARCHITECTURES["MobileNetV4HybridMedium"], (224, 224), marks=pytest.mark.slow),
        pytest.param(ARCHITECTURES["MobileNetV4HybridMedium"], (160, 224), marks=pytest.mark.slow),
    ],
)
def test_hybrids_in_float_files(architecture, size, real_photos, tmp_path):
    """ONNX and TFLite; also where height and width differ."""
    model = build_network(architecture, input_shape=(*size, 3), classifier_activation=None)
    photos = real_photos(4, size[1])[:, : size[0]].astype("float32")
    randomize_statistics(model)
    expected = model.predict(photos, verbose=0)
    export.to_onnx(model, tmp_path / "m.onnx", samples=photos)
    export.to_litert(model, tmp_path / "m.tflite", target="float", samples=photos)
    for outputs in (
        export.run_onnx(tmp_path / "m.onnx", photos),
        export.LiteRTModel(tmp_path / "m.tflite").predict(photos),
    ):
        assert np.abs(outputs - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16"])
def test_inputs_of_other_types(dtype, real_photos, tmp_path):
    photos = real_photos(4, 8)
    image = keras.Input((8, 8, 3), dtype=dtype)
    scaled = keras.layers.Rescaling(1 / 255)(image)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(scaled)))
    assert export.to_onnx(model, tmp_path / "m.onnx", samples=photos).agreement.within_one_step == 1.0
    outputs = export.run_onnx(tmp_path / "m.onnx", photos.astype("float32"))
    np.testing.assert_allclose(outputs, model.predict(photos, verbose=0), rtol=1e-4, atol=1e-5)


def test_wrong_outputs_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "run_onnx", lambda path, inputs: np.ones((len(inputs), 3)))
    with pytest.raises(export.ExportError, match="differ by up to"):
        export.to_onnx(tiny_network(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_layer_that_keras_cannot_export_at_a_free_size(real_photos, tmp_path):
    def model(side):
        image = keras.Input((side, side, 3))
        return keras.Model(image, keras.layers.UpSampling2D(interpolation="bilinear")(image), name="larger")

    with pytest.raises(export.ExportError, match=r"of model `larger`\. Sides of its input are free: try it with fixed"):
        export.to_onnx(model(None), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    export.to_onnx(model(32), tmp_path / "m.onnx", samples=real_photos(2, 32))


@pytest.mark.parametrize("policy", [None, "w8a8"])
def test_half_precision_is_refused(policy, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny_network()
    finally:
        keras.config.set_dtype_policy("float32")
    model = model if policy is None else qat.quantize_model(model, policy)
    with pytest.raises(ValueError, match="computes in bfloat16: build the model in float32"):
        export.to_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def quantized_network(photos, policy="w8a8", **arguments):
    """A tiny network, calibrated; its normalisations turn the sign of some channels."""
    model = randomize_statistics(tiny_network(**arguments))
    random = np.random.default_rng(1)
    for norm in flat_layers(model, keras.layers.BatchNormalization):
        norm.gamma.assign(norm.gamma * random.choice([-1.0, 1.0], norm.gamma.shape))
    quantized = qat.quantize_model(model, policy)
    qat.calibrate(quantized, photos)
    return quantized


@dataclasses.dataclass
class Exported:
    policy: str
    model: keras.Model
    path: str
    report: export.ExportReport

    @property
    def graph(self):
        import onnx

        return Graph(onnx.load(self.path))


@pytest.fixture(scope="module", params=[("w8a8", "same"), ("w4a8", "symmetric")], ids=["w8a8", "w4a8"])
def exported(request, real_photos, tmp_path_factory):
    policy, padding = request.param
    photos = real_photos(8, 32).astype("float32")
    model = quantized_network(photos, policy, padding=padding)
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    return Exported(policy, model, path, export.to_onnx(model, path, samples=photos))


def test_integer_files_agree_with_the_fake_quantised_model(exported, real_photos):
    report = exported.report
    assert report.agreement.within_one_step >= 0.999
    assert all(part.within_one_step >= 0.999 for part in report.parts)
    rounding = [layer for layer in flat_layers(exported.model, qat.FakeQuantize) if layer.name != "kernel_quantizer"]
    assert len(report.parts) == len(rounding)
    assert report.float_layers == ()

    photos = real_photos(5, 32).astype("float32")
    expected = exported.model.predict(photos, verbose=0)
    for batch_size in (1, 5):
        outputs = export.run_onnx(exported.path, photos, batch_size=batch_size)
        assert np.abs(outputs - expected).max() <= 1.001 / 256


def test_kernels_are_stored_as_integers(exported):
    import onnx as onnx_format

    graph = exported.graph
    kernels = [values for values in graph.constants.values() if values.ndim > 1]
    (dtype,) = {values.dtype.name for values in kernels}
    assert dtype == {"w8a8": "int8", "w4a8": "int4"}[exported.policy]
    assert len(kernels) == len(flat_layers(exported.model, ConvNormAct))
    opset = {"w8a8": 17, "w4a8": 21}[exported.policy]
    assert [each.version for each in graph.proto.opset_import if not each.domain] == [opset]
    onnx_format.checker.check_model(graph.proto, full_check=True)

    bits = sum(values.size for values in kernels) * {"w8a8": 8, "w4a8": 4}[exported.policy]
    floats = sum(layer.kernel.shape[-1] for layer in flat_layers(exported.model, ConvNormAct))
    assert exported.report.size < bits / 8 + 3 * 4 * 2 * floats + 40_000  # scales, biases and their scales; names


def test_kernels_are_those_that_the_model_rounds(exported):
    """With the factors of the normalisations in their scales and signs."""
    graph = exported.graph
    layers = {layer.path.removeprefix("tiny/"): layer for layer in flat_layers(exported.model, ConvNormAct)}
    for conv in graph.of_kind("Conv"):
        layer = layers.pop(layer_path(conv.input[1], exported.model))
        kernel = np.asarray(layer.quantized_kernel())
        if layer.norm is not None:
            gamma, _, _, variance = (np.asarray(weight) for weight in layer.norm.weights)
            factor = gamma / np.sqrt(variance + layer.norm.epsilon)
            kernel = kernel * (factor[:, None] if layer.depthwise else factor)
        kernel = kernel.transpose((2, 3, 0, 1) if layer.depthwise else (3, 2, 0, 1))
        codes, scales = kernel_of(graph, conv)
        np.testing.assert_allclose(codes * scales[:, None, None, None], kernel, rtol=1e-5, atol=1e-7)
    assert not layers


def kernel_of(graph, conv):
    """Codes and scales of the kernel of an ONNX convolution, as floats."""
    return (graph.constants[f"{conv.input[1]}/{part}"].astype("float32") for part in ("codes", "scale"))


def test_kernels_and_biases_are_those_of_the_tflite_file(exported, real_photos, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "m.tflite"
    samples = real_photos(2, 32)
    export.to_litert(exported.model, path, target="cpu", samples=samples)
    interpreter = Interpreter(str(path))
    operators = [operator for operator in read_tflite(path).operators if "CONV" in operator.kind]
    convs = exported.graph.of_kind("Conv")
    assert len(operators) == len(convs)
    for operator, conv in zip(operators, convs, strict=True):
        codes, scales = kernel_of(exported.graph, conv)
        bias = exported.graph.constants[exported.graph.producer(conv.input[2]).input[0]]
        _, kernel, tflite_bias = operator.inputs
        axes = (3, 0, 1, 2) if "DEPTHWISE" in operator.kind else (0, 3, 1, 2)
        np.testing.assert_array_equal(interpreter.get_tensor(kernel.index).transpose(axes), codes)
        apart = np.abs(interpreter.get_tensor(tflite_bias.index) - bias)
        assert apart.max() <= 1  # where a bias is half-way between two units, as far as float32 can tell
        assert np.mean(apart > 0) < 0.01
        np.testing.assert_allclose(kernel.scales, scales, rtol=1e-6)


def test_onnx_runtime_computes_on_integers(exported, tmp_path):
    import onnx as onnx_format
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported.path), options)
    graph = Graph(onnx_format.load(tmp_path / "optimized.onnx"))
    assert len(graph.of_kind("QLinearConv")) == len(flat_layers(exported.model, ConvNormAct))
    assert len(graph.of_kind("QLinearAdd")) == 2
    assert not graph.of_kind("Conv")
    assert len(graph.of_kind("QuantizeLinear")) == len(graph.of_kind("DequantizeLinear")) == 1  # input and output


def test_residual_units_compute_on_integers(real_photos, tmp_path):
    """Behind max pooling, too, which does the padding itself."""
    photos = real_photos(8, 32).astype("float32")
    blocks = (Conv(8, kernel=7, stride=2), MaxPool(), Bottleneck(16))
    model = build_network(Architecture("unit", blocks, definition="timm"), classes=3, input_shape=(32, 32, 3))
    quantized = qat.quantize_model(randomize_statistics(model), calibration_data=photos)
    report = export.to_onnx(quantized, tmp_path / "m.onnx", samples=photos)
    assert report.float_layers == ()
    assert min(part.within_one_step for part in report.parts) >= 0.999


def test_a_layer_that_is_called_twice_and_biases_that_are_the_same(real_photos, tmp_path):
    """All biases are zeros, which the converter keeps once."""
    photos = real_photos(8, 32).astype("float32")
    inputs = layers.Input((32, 32, 3))
    shared = layers.Conv2D(8, 3, padding="same")
    maps = layers.ReLU()(shared(layers.Conv2D(8, 3, padding="same")(inputs)))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(shared(maps)))
    quantized = qat.quantize_model(keras.Model(inputs, outputs), calibration_data=photos)
    report = export.to_onnx(quantized, tmp_path / "m.onnx", samples=photos)
    assert min(part.within_one_step for part in report.parts) >= 0.999


def test_one_wrong_weight_is_noticed(real_photos, tmp_path, monkeypatch):
    """Even in a layer of 1280 channels."""
    import onnx as onnx_format

    photos = real_photos(4, 32).astype("float32")
    model = quantized_network(photos)
    convert = onnx.convert

    def convert_wrongly(frozen, quantizers, output_names):
        proto = convert(frozen, quantizers, output_names)
        kernels = [tensor for tensor in proto.graph.initializer if len(tensor.dims) > 1]
        (kernel,) = (tensor for tensor in kernels if "head" in tensor.name)
        codes = onnx_format.numpy_helper.to_array(kernel).copy()
        largest = np.unravel_index(np.abs(codes.astype(int)).argmax(), codes.shape)
        codes[largest] = -codes[largest]
        kernel.CopyFrom(onnx_format.numpy_helper.from_array(codes, kernel.name))
        return proto

    monkeypatch.setattr(onnx, "convert", convert_wrongly)
    with pytest.raises(export.ExportError, match="head "):
        export.to_onnx(model, tmp_path / "m.onnx", samples=photos)
    assert not list(tmp_path.iterdir())


def test_layers_that_the_policy_leaves_in_float_are_reported(real_photos, tmp_path):
    photos = real_photos(4, 32).astype("float32")
    policy = qat.Policy((qat.Rule("predictions/conv"), *qat.get_policy("w8a8").rules))
    report = export.to_onnx(quantized_network(photos, policy), tmp_path / "m.onnx", samples=photos)
    assert report.float_layers == ("predictions/conv",)
    assert report.agreement.within_one_step == 1.0


def run_integers(function, inputs, path):
    """What ONNX Runtime gives for a TensorFlow function with fake-quantisers, and the graph of its file."""
    import onnx as onnx_format

    frozen = freeze(function, (None, *inputs.shape[1:]))
    proto = onnx.convert(frozen, onnx.read_quantizers(frozen))
    onnx_format.save(proto, path)
    return export.run_onnx(path, inputs), Graph(proto)


def test_rounding_by_hand(tmp_path):
    """Two bits over [-1, 2.2]: the scale is 3.2 / 3, and zero, at code 0.94, moves to code 1."""
    import tensorflow as tf

    inputs = np.array([[-9.0, -0.6, -0.5, 0.5, 0.6, 1.5, 1.7, 9.0]], "float32")
    outputs, graph = run_integers(
        lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1.0, 2.2, num_bits=2), inputs, tmp_path / "m.onnx"
    )
    codes = np.array([[-1, -1, 0, 0, 1, 1, 2, 2]])
    np.testing.assert_allclose(outputs, codes * 3.2 / 3, rtol=1e-6)
    (quantize,) = graph.of_kind("QuantizeLinear")
    assert graph.constants[quantize.input[2]] == 1


@pytest.mark.parametrize("narrow_range", [False, True])
@pytest.mark.parametrize(("num_bits", "low", "high"), [(8, -6.0, 6.0), (8, 0.0, 2.3), (8, -1.7, 0.9), (4, -1.3, 2.7)])
def test_rounding_is_that_of_tensorflow(num_bits, low, high, narrow_range, tmp_path):
    import tensorflow as tf

    inputs = np.random.default_rng(0).uniform(-8, 8, (3, 50, 4)).astype("float32")
    inputs[0, :4, 0] = (2 * low, high, 0.0, -0.0)

    def function(x):
        one = tf.quantization.fake_quant_with_min_max_args(x, low, high, num_bits, narrow_range)
        return one + 100 * tf.quantization.fake_quant_with_min_max_vars(x, low / 2, high, num_bits, narrow_range)

    outputs, _ = run_integers(function, inputs, tmp_path / "m.onnx")
    np.testing.assert_allclose(outputs, function(inputs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("per_channel", "num_bits", "narrow_range", "depthwise"),
    [(True, 8, True, False), (True, 8, False, True), (False, 8, False, False), (True, 4, False, False)],
)
def test_kernels_of_all_ranges(per_channel, num_bits, narrow_range, depthwise, tmp_path):
    """One channel is dead, in one the kernel is zero. Where a code has no negative, the factors stay outside."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    kernel = random.normal(0, 0.2, (3, 3, 4, 1 if depthwise else 6)).astype("float32")
    factor, bias = random.normal(0, 1, (2, 4 if depthwise else 6)).astype("float32")
    factor[1] = 0.0
    kernel[:, :, 2 if depthwise else slice(None), 0 if depthwise else 2] = 0.0
    turned = kernel.transpose(0, 1, 3, 2) if depthwise else kernel
    high = np.abs(turned).max((0, 1, 2)) if per_channel else np.float32(0.5)
    low = -high if narrow_range else -high * 2**num_bits / (2**num_bits - 2)
    if not per_channel:
        low = np.float32(-0.2)  # and so zero is not in the middle
    fake_quant = (
        tf.quantization.fake_quant_with_min_max_vars_per_channel
        if per_channel
        else tf.quantization.fake_quant_with_min_max_vars
    )

    def function(x):
        x = tf.quantization.fake_quant_with_min_max_args(x, -4.0, 4.0)
        rounded = fake_quant(turned, low, high, num_bits, narrow_range)
        if depthwise:
            x = tf.nn.depthwise_conv2d(x, tf.transpose(rounded, (0, 1, 3, 2)), (1, 1, 1, 1), "SAME")
        else:
            x = tf.nn.conv2d(x, rounded, 1, "SAME")
        return tf.quantization.fake_quant_with_min_max_args(tf.nn.relu(x * factor + bias), 0.0, 6.0)

    inputs = random.uniform(-4, 4, (2, 8, 10, 4)).astype("float32")
    outputs, graph = run_integers(function, inputs, tmp_path / "m.onnx")
    steps = np.abs(outputs - function(inputs)) / (6 / 255)
    assert steps.max() < 1.01
    assert (steps < 0.01).mean() > 0.97
    assert len(graph.of_kind("Mul")) == (0 if per_channel else 1)
    (conv,) = graph.of_kind("Conv")
    assert graph.constants[f"{conv.input[1]}/codes"].dtype.name == f"int{num_bits}"


def test_attention_becomes_integers(tmp_path):
    """Products of activations, softmax and transposes: every fake-quantiser between them is in the file."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    kernel = random.normal(0, 0.3, (8, 8)).astype("float32")
    largest = np.abs(kernel).max(0)

    def quantize(x, low=-4.0, high=4.0):
        return tf.quantization.fake_quant_with_min_max_args(x, low, high)

    def function(x):
        x = quantize(x)
        rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel, -largest, largest, narrow_range=True)
        queries = quantize(tf.transpose(tf.reshape(quantize(x @ rounded), (-1, 5, 2, 4)), (0, 2, 1, 3)))
        scores = quantize(tf.matmul(queries, queries, transpose_b=True))
        weights = quantize(tf.nn.softmax(scores), 0.0, 255 / 256)
        values = quantize(tf.matmul(weights, queries))
        return tf.reshape(tf.transpose(values, (0, 2, 1, 3)), (-1, 5, 8))

    inputs = random.normal(0, 1, (3, 5, 8)).astype("float32")
    outputs, graph = run_integers(function, inputs, tmp_path / "m.onnx")
    assert (np.abs(outputs - function(inputs)) < 1.01 * 8 / 255).mean() >= 0.99
    assert len(graph.of_kind("QuantizeLinear")) >= 5
    assert all(graph.computes_on_integers(product) for product in graph.of_kind("MatMul"))


@pytest.mark.parametrize("policy", ["w8a8", "w4a8"])
def test_networks_with_gelu_as_integers(policy, real_photos, tmp_path):
    photos = real_photos(8, 32).astype("float32")
    model = randomize_statistics(tiny_network(activation="gelu"))
    quantized = qat.quantize_model(model, policy, photos)
    report = export.to_onnx(quantized, tmp_path / "m.onnx", samples=photos)
    assert report.float_layers == ()
    assert report.agreement.within_two_steps >= 0.99


def test_hybrids_compute_on_integers(real_photos, tmp_path):
    photos = real_photos(8, 32).astype("float32")
    quantized = qat.quantize_model(randomize_statistics(tiny_hybrid()))
    qat.calibrate(quantized, photos)
    report = export.to_onnx(quantized, tmp_path / "m.onnx", samples=photos)
    assert report.float_layers == ()
    assert report.agreement.within_two_steps >= 0.99
    paths = {part.path for part in report.parts}
    assert {"block_3/attention/logits", "block_3/attention/softmax", "block_3/attention/context"} <= paths
