"""Models of Keras's own layers: quantised, trained, saved, exported."""

import keras
import numpy as np
import pytest
from conftest import fit_statistics
from conftest import randomize_statistics
from keras import layers
from keras import ops

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.export import tflite_file
from keras_mnv4.qat.stock.up_sampling import QuantizedUpSampling2D

EIGHT_BITS = qat.LastValueQuantizer(8, per_axis=True, symmetric=True, narrow_range=True)


def norm(x):
    return layers.BatchNormalization()(x)


def convolutions(x):
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(x)
    x = norm(layers.Conv2D(4, 3, padding="same", dilation_rate=2)(x))
    x = layers.Activation("relu")(norm(layers.DepthwiseConv2D(3, depth_multiplier=2)(x)))
    x = layers.ReLU(6.0)(norm(layers.SeparableConv2D(4, 3, padding="same", use_bias=False)(x)))
    x = layers.DepthwiseConv2D(3, activation="relu6")(layers.ZeroPadding2D(2)(x))
    x = layers.GaussianNoise(0.1)(layers.Identity()(layers.SpatialDropout2D(0.1)(x)))
    return layers.ReLU()(norm(layers.GaussianDropout(0.1)(x)))  # no convolution right before it


def dense(x):
    x = layers.Dense(8, activation="relu")(layers.Flatten()(layers.MaxPooling2D(2)(x)))
    x = layers.ReLU()(norm(layers.Dense(16)(x)))
    x = norm(layers.Dropout(0.5)(x))
    return layers.Dense(3)(layers.Reshape((4, 4))(x))


def activations(x):
    x = layers.Conv2D(4, 3, activation="hard_silu")(x)
    x = layers.Activation("silu")(norm(layers.Conv2D(4, 3)(x)))
    x = layers.LeakyReLU()(layers.Conv2D(4, 3, activation="linear")(x))
    x = layers.Multiply()([x, layers.Conv2D(4, 1, activation="hard_sigmoid")(x)])
    return layers.Activation("sigmoid")(layers.Activation("linear")(x))


def sums(x):
    relu = layers.ReLU(name="relu")
    x = relu(norm(layers.Conv2D(4, 3, padding="same")(x)))
    x = relu(layers.Add()([x, norm(layers.Conv2D(4, 3, padding="same")(x))]))
    x = layers.Concatenate()([x, layers.AveragePooling2D(3, 1, padding="same")(x)])
    x = (1.5 + x) * 0.5 - ops.relu6(x * x + 1) / 3.0
    return layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)])


def branches(x):
    x = layers.ReLU()(norm(layers.Conv2D(4, 3, padding="same")(x)))
    x = norm(layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x)))
    twice = layers.Conv2D(4, 3)(layers.ReLU()(x)), layers.Conv2D(4, 3)(layers.Activation("relu")(x))
    x = layers.ReLU()(layers.Add(name="sum")([*twice, layers.Conv2D(4, 3)(x)]))
    return layers.Multiply()([x, layers.Conv2D(4, 1, activation="sigmoid")(x), layers.Conv2D(4, 1)(x)])


def up_sampling(x):
    x = layers.ReLU()(norm(layers.Conv2D(4, 3, 2, padding="same")(x)))
    y = layers.UpSampling2D((2, 1))(layers.Conv2D(4, 3, 2, padding="same")(x))
    y = layers.UpSampling2D((1, 2), interpolation="bilinear")(y)
    return layers.UpSampling2D(2, interpolation="bilinear")(layers.Add()([x, y]))


# The operators of their files; each is held against its part of the Keras model when it is made.
OPERATORS = {
    convolutions: (
        "CONV_2D CONV_2D DEPTHWISE_CONV_2D DEPTHWISE_CONV_2D CONV_2D PAD DEPTHWISE_CONV_2D DEPTHWISE_CONV_2D "
        "MEAN RESHAPE CONV_2D RESHAPE SOFTMAX"
    ),
    dense: ("MAX_POOL_2D RESHAPE CONV_2D CONV_2D DEPTHWISE_CONV_2D RESHAPE CONV_2D RESHAPE CONV_2D RESHAPE SOFTMAX"),
    activations: (
        "CONV_2D HARD_SWISH CONV_2D LOGISTIC MUL CONV_2D LEAKY_RELU CONV_2D ADD MUL MUL LOGISTIC "
        "MEAN RESHAPE CONV_2D RESHAPE SOFTMAX"
    ),
    branches: (
        "CONV_2D PAD MAX_POOL_2D DEPTHWISE_CONV_2D RELU CONV_2D CONV_2D ADD CONV_2D ADD CONV_2D LOGISTIC MUL CONV_2D "
        "MUL MEAN RESHAPE CONV_2D RESHAPE SOFTMAX"
    ),
    up_sampling: (
        "CONV_2D CONV_2D RESIZE_NEAREST_NEIGHBOR RESIZE_BILINEAR ADD RESIZE_BILINEAR "
        "MEAN RESHAPE CONV_2D RESHAPE SOFTMAX"
    ),
    sums: (
        "CONV_2D CONV_2D ADD AVERAGE_POOL_2D CONCATENATION ADD MUL MUL ADD MUL SUB MEAN MUL "
        "MEAN RESHAPE CONV_2D RESHAPE SOFTMAX"
    ),
}


def network(middle, size=8):
    inputs = keras.Input((size, size, 3))
    x = middle(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else layers.Flatten()(x)
    narrow = keras.initializers.RandomNormal(stddev=0.05)  # no score is so near 0 or 1 that no gradient is left
    outputs = layers.Dense(3, activation="softmax", kernel_initializer=narrow, name="predictions")(x)
    return keras.Model(inputs, outputs)


def pictures(count=8, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("float32")


def trained(model, photos):
    """`model` with no zeros, statistics of `photos`, and most relus open: random networks are chaotic otherwise."""
    for layer in randomize_statistics(model).layers:
        if getattr(layer, "use_bias", False):
            layer.bias.assign(np.random.default_rng(1).normal(0, 0.1, layer.bias.shape))
        elif isinstance(layer, layers.BatchNormalization):
            layer.beta.assign(1.0 + layer.beta)
    return fit_statistics(model, photos)


def kinds(path):
    return [operator.kind for operator in tflite_file.read_tflite(path).operators]


def quantizers(model):
    return [layer.name for layer in model.layers if isinstance(layer, qat.FakeQuantize)]


@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(middle, marks=pytest.mark.slow if middle in (dense, activations) else pytest.mark.once)
        for middle in OPERATORS
    ],
    ids=[middle.__name__ for middle in OPERATORS],
)
def test_networks_of_stock_layers(middle, tmp_path):
    model = trained(network(middle), pictures())
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, pictures())
    np.testing.assert_allclose(quantized(pictures()), model(pictures()), atol=0.05)
    qat.correct_biases(quantized, pictures())
    np.testing.assert_allclose(quantized(pictures()), model(pictures()), atol=0.05)

    kernels = [variable for variable in quantized.trainable_variables if "kernel" in variable.path]
    before = [np.array(kernel.numpy()) for kernel in kernels]
    quantized.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    quantized.fit(pictures(), np.arange(8) % 3, verbose=0)
    for kernel, old in zip(kernels, before, strict=True):
        assert np.any(kernel.numpy() != old), kernel.path

    quantized.save(tmp_path / "quantized.keras")
    loaded = keras.models.load_model(tmp_path / "quantized.keras")
    np.testing.assert_array_equal(loaded(pictures()), quantized(pictures()))
    if keras.backend.backend() != "tensorflow":
        return
    qat.calibrate(loaded, pictures())
    target, labels = ("app", ["a", "b", "c"]) if middle is activations else ("edgetpu", None)
    report = export.to_litert(loaded, tmp_path / "m.tflite", target, samples=pictures(), class_names=labels)
    assert min(part.within_one_step for part in report.parts) == 1.0
    assert " ".join(kind for kind in kinds(tmp_path / "m.tflite") if kind != "QUANTIZE") == OPERATORS[middle]


@pytest.mark.once
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_up_sampling_repeats_in_training_and_resizes_at_inference(data_format):
    """XLA has no gradient of resizing; TFLite makes a dozen operators of repeating."""
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    for interpolation in ("nearest", "bilinear"):
        how = {"size": (2, 3), "interpolation": interpolation, "data_format": data_format}
        expected = layers.UpSampling2D(**how)(maps)
        for training in (False, True):
            found = QuantizedUpSampling2D(**how)(maps, training=training)
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.once
def test_a_model_that_samples_up_trains_under_xla():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="mask")(up_sampling(inputs)))
    quantized = qat.quantize_model(model, calibration_data=pictures())
    quantized.compile("sgd", "mse", jit_compile=True)
    losses = quantized.fit(pictures() / 255, np.zeros((8, 8, 8, 2)), epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]


@pytest.mark.once
def test_a_model_that_samples_up_takes_pictures_of_any_size():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.UpSampling2D((2, 3))(layers.Conv2D(4, 3, padding="same")(inputs)))
    quantized = qat.quantize_model(model, calibration_data=pictures())
    for size in (8, 12, 16):  # from the second on Keras traces for sizes that it does not know
        assert quantized.predict(pictures(2, size), verbose=0).shape == (2, 2 * size, 3 * size, 4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("size", [3, 6, (2, 6)])
def test_bilinear_sizes_that_lite_rt_weighs_coarsely(size, tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.Rescaling(1 / 127.5, -1)(inputs))
    model = keras.Model(inputs, layers.UpSampling2D(size, interpolation="bilinear")(x))
    quantized = qat.quantize_model(model, calibration_data=pictures())
    report = export.to_litert(quantized, tmp_path / "m.tflite", samples=pictures())
    assert report.agreement.within_one_step == 1.0


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [layers.UpSampling2D(2), layers.Cropping2D(1)], ids=["up", "crop"])
def test_onnx_runtime_computes_on_integers_behind(layer, tmp_path):
    import onnx
    import onnxruntime

    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 127.5, -1)(inputs))
    model = keras.Model(inputs, layers.Conv2D(4, 3, activation="relu")(layer(x)))
    quantized = qat.quantize_model(model, calibration_data=pictures())
    report = export.to_onnx(quantized, tmp_path / "m.onnx", samples=pictures())
    assert report.float_layers == ()
    assert report.agreement.within_one_step == 1.0
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"])
    used = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert used.count("QLinearConv") == 2
    assert used.count("DequantizeLinear") == 1


@pytest.mark.tensorflow
def test_what_the_converter_has_no_operator_for_is_an_error_of_the_export(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 127.5, -1)(inputs))
    model = keras.Model(inputs, layers.UpSampling2D(interpolation="bicubic", name="up")(x), name="cubist")
    policy = qat.Policy((qat.Rule("up"), *qat.get_policy("w8a8").rules))
    quantized = qat.quantize_model(model, policy, pictures())
    with pytest.raises(export.ExportError, match=r"no file of model `cubist`: .*ResizeBicubic"):
        export.to_litert(quantized, tmp_path / "m.tflite", samples=pictures())
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorflow
@pytest.mark.parametrize(("activation", "operator"), [("tanh", "TANH"), ("gelu", "GELU")])
def test_activations_that_are_tables(activation, operator, tmp_path):
    """In files of both formats; ONNX has no `Erfc`, which TensorFlow's GELU is made of."""

    def middle(x):
        return layers.Activation(activation)(norm(layers.Conv2D(4, 1)(layers.Conv2D(4, 3, activation=activation)(x))))

    model = trained(network(middle), pictures())
    assert export.to_onnx(model, tmp_path / "float.onnx", samples=pictures()).agreement.within_one_step == 1.0
    quantized = qat.quantize_model(model, "w8a8", pictures())
    np.testing.assert_allclose(quantized(pictures()), model(pictures()), atol=0.05)
    report = export.to_litert(quantized, tmp_path / "m.tflite", "cpu", samples=pictures())
    assert min(part.within_one_step for part in report.parts) == 1.0
    assert kinds(tmp_path / "m.tflite")[:4] == ["CONV_2D", operator, "CONV_2D", operator]
    report = export.to_onnx(quantized, tmp_path / "m.onnx", samples=pictures())
    assert report.agreement.within_two_steps == 1.0


@pytest.mark.tensorflow
@pytest.mark.parametrize("policy", ["w8a8", "w4a4"])
def test_gates_and_a_relu_behind_a_pooling(policy, tmp_path):
    def middle(x):
        x = layers.ReLU()(layers.MaxPooling2D(2)(layers.Conv2D(4, 3)(x)))
        gate = norm(layers.Conv2D(2, 1)(layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(x))))
        return layers.Multiply()([x, layers.Conv2D(4, 1, activation="sigmoid")(layers.ReLU()(gate))])

    model = trained(network(middle), pictures())
    quantized = qat.quantize_model(model, policy, pictures())
    report = export.to_litert(quantized, tmp_path / "m.tflite", "cpu", samples=pictures())
    assert min(part.within_one_step for part in report.parts) == 1.0
    ours = [kind for kind in kinds(tmp_path / "m.tflite") if kind not in ("MAXIMUM", "QUANTIZE", "RESHAPE")]
    assert " ".join(ours) == "CONV_2D MAX_POOL_2D MEAN CONV_2D CONV_2D LOGISTIC MUL MEAN CONV_2D SOFTMAX"


def adapted(x):
    layer = layers.Normalization()
    layer.adapt(pictures() / 255)
    return layer(layers.Rescaling(1 / 255)(x))


@pytest.mark.parametrize(
    ("preprocess", "operators"),
    [
        (lambda x: layers.Add()([layers.Rescaling(1 / 255)(x), layers.Rescaling(0.1, -1)(x)]), 3),
        (lambda x: layers.Rescaling(1 / 120, -1)(layers.Cropping2D(1)(x)), 1),
        (lambda x: layers.Rescaling(1.9, -0.9)(layers.Rescaling(1 / 255)(x)), 1),
        (layers.Normalization(mean=[100, 110, 120], variance=[900, 1600, 2500]), 1),
        (adapted, 1),
    ],
    ids=["twice", "behind another layer", "in a row", "by colour", "by colour, adapted"],
)
def test_preprocessing_that_is_no_scale_of_the_input_is_operators(preprocess, operators, tmp_path):
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Dense(3, name="predictions")(layers.Flatten()(layers.Conv2D(4, 3)(preprocess(inputs))))
    model = keras.Model(inputs, outputs)
    quantized = qat.quantize_model(model, calibration_data=pictures())
    expected = model.predict(pictures(), verbose=0)
    np.testing.assert_allclose(quantized.predict(pictures(), verbose=0), expected, atol=0.05 * expected.std())
    quantized.save(tmp_path / "quantized.keras")
    loaded = keras.models.load_model(tmp_path / "quantized.keras")
    np.testing.assert_array_equal(loaded(pictures()), quantized(pictures()))
    if keras.backend.backend() != "tensorflow":
        return
    report = export.to_litert(loaded, tmp_path / "m.tflite", "app", samples=pictures(), class_names=["a", "b", "c"])
    assert min(part.within_one_step for part in report.parts) == 1.0
    assert report.agreement.max_steps <= 2
    found = [kind for kind in kinds(tmp_path / "m.tflite") if kind not in ("QUANTIZE", "RESHAPE", "STRIDED_SLICE")]
    assert len(found) == operators + 2
    file = export.LiteRTModel(tmp_path / "m.tflite")
    np.testing.assert_allclose(file.predict(pictures().astype("uint8")), expected, atol=0.05 * expected.std())


def by_operations(x):
    """`x / 127.5 - 1`."""
    return keras.applications.mobilenet_v2.preprocess_input(x)


@pytest.mark.parametrize(
    ("preprocess", "input_range"),
    [
        (by_operations, (-128 / 127.5, 127 / 127.5)),
        (lambda x: by_operations(layers.RandomFlip()(x)), (-128 / 127.5, 127 / 127.5)),
        (lambda x: (x - 128) * 0.01, (-1.28, 1.27)),
        (lambda x: (x / -85 + 3) * 2, (0, 255)),
        (lambda x: layers.Add()([x / 255, x / 128 - 1]), (0, 255)),
        (lambda x: layers.Rescaling(1 / 127.5, -1)(layers.Identity()(x)), (0, 255)),
        (lambda x: layers.Rescaling(1 / 127.5, -1)(layers.ZeroPadding2D(1)(x)), (0, 255)),
        (lambda x: by_operations(layers.Activation("linear")(layers.AveragePooling2D(2)(x))), (0, 255)),
        (lambda x: layers.Normalization(mean=120, variance=3000)(layers.GaussianNoise(1.0)(x)), (0, 255)),
    ],
    ids=[
        "operations",
        "augmented",
        "a mean first",
        "a negative",
        "twice",
        "behind nothing",
        "behind zeros",
        "operations behind means",
        "a normalisation behind noise",
    ],
)
def test_pictures_that_are_scaled_are_bytes_however_dark_those_of_calibration_are(preprocess, input_range, tmp_path):
    dark = np.floor(pictures() / 4)
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Dense(3, name="predictions")(layers.Flatten()(layers.Conv2D(4, 3)(preprocess(inputs))))
    model = keras.Model(inputs, outputs)
    quantized = qat.quantize_model(model, calibration_data=dark)
    first = next(layer for layer in quantized.layers if isinstance(layer, qat.FakeQuantize))
    np.testing.assert_allclose(first.range, input_range, rtol=1e-6)
    expected = model.predict(dark, verbose=0)
    np.testing.assert_allclose(quantized.predict(dark, verbose=0), expected, atol=0.1 * expected.std())
    if keras.backend.backend() != "tensorflow":
        return
    export.to_litert(quantized, tmp_path / "m.tflite", "cpu", samples=dark)
    file = export.LiteRTModel(tmp_path / "m.tflite")
    found = file.predict(dark.astype("uint8"))
    np.testing.assert_allclose(found, expected, atol=4 * file.outputs[0]["quantization"][0])


@pytest.mark.once
@pytest.mark.parametrize(
    "scale",
    [
        lambda x: x * 2 - 1,
        lambda x: (x - 0.5) / 0.5,
        lambda x: layers.Rescaling(1 / 6, 0.5)(layers.MaxPooling2D(1)(x)),
        lambda x: layers.Rescaling(1 / 255)(layers.ReLU()(x)),
    ],
)
def test_scalings_that_are_not_of_bytes_leave_the_range_of_inputs_to_calibration(scale):
    inputs = keras.Input((8, 8, 3), name="scaled")
    model = keras.Model(inputs, layers.Conv2D(4, 3)(scale(inputs)))
    quantized = qat.quantize_model(model, calibration_data=pictures() / 255)
    np.testing.assert_allclose(quantized.get_layer("scaled_quantizer").range, (0, 1), atol=1e-6)


@pytest.mark.once
def test_operations_that_scale_a_picture_are_one_only_where_nothing_else_reads_between():
    inputs = keras.Input((8, 8, 3), name="picture")
    whole = inputs / 255
    shifted = layers.Conv2D(4, 3)(whole - 0.5)
    model = keras.Model(inputs, layers.Concatenate()([layers.Conv2D(4, 3)(whole), shifted]))
    quantized = qat.quantize_model(model, calibration_data=pictures())
    (absorbed, *_) = (layer for layer in quantized.layers if isinstance(layer, layers.Rescaling))
    assert (absorbed.scale, absorbed.offset) == (1 / 255, 0.0)
    np.testing.assert_allclose(quantized(pictures()), model(pictures()), atol=0.1)


@pytest.mark.once
def test_a_scaling_that_another_model_calls_too_is_still_the_scale_of_the_input():
    scaling, convolution = layers.Rescaling(1 / 255, name="scaling"), layers.Conv2D(4, 3)
    models = []
    for _ in range(2):
        inputs = keras.Input((8, 8, 3))
        models.append(keras.Model(inputs, convolution(scaling(inputs))))
    for model in models:
        quantized = qat.quantize_model(model, calibration_data=pictures())
        assert type(quantized.get_layer("scaling")) is layers.Rescaling
        np.testing.assert_allclose(quantized(pictures()), model(pictures()), atol=0.02)


@pytest.mark.once
def test_a_picture_and_a_vector_are_rounded_each_as_it_is():
    picture, vector = keras.Input((8, 8, 3), name="picture"), keras.Input((5,), name="vector")
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(picture)))
    model = keras.Model([picture, vector], layers.Dense(2)(layers.Concatenate()([seen, vector])))
    facts = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, Batch((pictures(), facts)))
    np.testing.assert_allclose(quantized.get_layer("vector_quantizer").range, (facts.min(), facts.max()), rtol=1e-5)
    np.testing.assert_allclose(quantized([pictures(), facts]), model([pictures(), facts]), atol=0.1)


class Batch(keras.utils.PyDataset):
    """One batch, of several inputs."""

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.inputs, np.zeros(8)


def test_a_normalisation_left_in_float_keeps_what_it_was_adapted_to():
    inputs = keras.Input((8, 8, 3))
    layer = layers.Normalization(name="plain")
    layer.adapt(pictures())
    model = keras.Model(inputs, layer(inputs))
    quantized = qat.quantize_model(model, qat.Policy((qat.Rule("plain"), *qat.get_policy("w8a8").rules)))
    np.testing.assert_allclose(quantized(pictures()), model(pictures()), atol=1e-5)


@pytest.mark.tensorflow
def test_augmentations_inside_a_model_are_in_training_and_not_in_files(tmp_path):
    def classifier(*augmentations):
        keras.utils.set_random_seed(0)
        stack = [*augmentations, layers.Rescaling(1 / 127.5, -1), layers.Conv2D(4, 3), layers.Flatten()]
        return keras.Sequential([keras.Input((8, 8, 3)), *stack, layers.Dense(3, "softmax", name="predictions")])

    plain, mirrored = (
        qat.quantize_model(classifier(*augmentations), calibration_data=pictures())
        for augmentations in ((), (layers.RandomFlip(), layers.RandomZoom(0.3)))
    )
    expected = plain.predict(pictures(), verbose=0)
    np.testing.assert_array_equal(mirrored.predict(pictures(), verbose=0), expected)
    assert np.any(np.array(mirrored(pictures(), training=True)) != expected)
    files = [tmp_path / name for name in ("plain.tflite", "mirrored.tflite")]
    for model, path in zip((plain, mirrored), files, strict=True):
        assert export.to_litert(model, path, samples=pictures()).agreement.within_one_step == 1.0
    assert kinds(files[0]) == kinds(files[1])


@pytest.mark.once
def test_every_output_is_rounded_once_and_never_before_a_normalisation_or_relu():
    x = inputs = keras.Input((8, 8, 3), name="picture")
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(x)))
    x = layers.Dropout(0.1)(layers.Add(name="add")([x, layers.Conv2D(4, 1, name="branch")(x)]))
    outputs = layers.LeakyReLU(name="bend")(x)
    quantized = qat.quantize_model(keras.Model(inputs, [outputs, layers.ReLU(name="relu_of_output")(outputs)]))
    assert quantizers(quantized)[1:] == [
        "relu_quantizer",
        "add_quantizer",
        "bend_quantizer",
        "relu_of_output_quantizer",
    ]
    assert quantized.get_layer("conv").output_quantizer is None
    assert quantized.get_layer("branch").output_quantizer is not None


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (layers.Conv2D(5, 3), (1, 8, 8, 3), (0, 1, 2)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (1, 8, 8, 3), (0, 1)),
        (layers.Dense(5), (1, 8), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kernels_are_those_of_tensorflows_op_for_each_channel(layer, shape, axes):
    tf = pytest.importorskip("tensorflow")
    wrapper = qat.QuantizeWrapper(layer, quantization=qat.LayerQuantization(weights=EIGHT_BITS))
    wrapper.build(shape)
    wrapper.update_weight_ranges()
    kernel = layer.kernel.numpy()
    largest = np.abs(kernel).max(axes)
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        kernel.reshape(-1, largest.size), -largest.ravel(), largest.ravel(), narrow_range=True
    )
    ours = ops.convert_to_numpy(wrapper.quantized_kernel()).reshape(-1, largest.size)
    np.testing.assert_array_equal(ours, rounded)
    layer.kernel.assign(np.reshape(rounded, kernel.shape))
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    np.testing.assert_allclose(wrapper(inputs), layer(inputs), atol=1e-6)


@pytest.mark.once
def test_kernels_are_rounded_before_they_are_halved_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network(convolutions)
        quantized = qat.quantize_model(model)
        quantized.compile("sgd", "sparse_categorical_crossentropy")
        loss = quantized.fit(pictures(), np.arange(8) % 3, verbose=0).history["loss"][0]
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(loss)
    for wrapper in (layer for layer in quantized.layers if isinstance(layer, qat.QuantizeWrapper)):
        assert wrapper.output.dtype == "bfloat16"
        if wrapper.kernel_quantizer is not None:  # ranges of the last step, of a float32 kernel
            assert np.any(wrapper.kernel_quantizer._state["max_var"].numpy() % 2**-10)


@pytest.mark.once
def test_policies_know_stock_layers_and_their_activations_by_name():
    four_bits = qat.LastValueQuantizer(4, per_axis=True, symmetric=True, narrow_range=True)
    rules = (
        qat.Rule("conv", weights=four_bits),
        qat.Rule("separable.*"),
        qat.Rule("hidden", outputs=qat.MovingAverageQuantizer(8)),
        *qat.get_policy("w8a8").rules,
    )
    x = inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3, name="separable")(layers.Conv2D(4, 3, name="conv")(x))
    x = layers.Dense(4, name="hidden", activation="relu")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(3, name="predictions", activation="softmax")(x))
    quantized = qat.quantize_model(model, qat.Policy(rules))
    conv, hidden, predictions = (quantized.get_layer(name) for name in ("conv", "hidden", "predictions"))
    assert conv.quantization == qat.LayerQuantization(weights=four_bits)
    assert type(quantized.get_layer("separable")) is layers.SeparableConv2D
    assert hidden.kernel_quantizer is None
    assert hidden.output_quantizer is not None
    assert predictions.quantizable_parts == ("", "softmax")
    assert predictions.activation_quantizers["softmax"].quantizer == qat.FixedQuantizer(8, 0.0, 255 / 256)


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: layers.Conv2DTranspose(4, 3, name="alien")(x), r"Conv2DTranspose"),
        (lambda x: layers.Conv1D(4, 3, name="alien")(layers.Reshape((64, 3))(x)), "Conv1D"),
        (lambda x: layers.LSTM(4, name="alien")(layers.Reshape((64, 3))(x)), "LSTM"),
        (lambda x: layers.MultiHeadAttention(1, 4, name="alien")(x, x), "MultiHeadAttention"),
        (lambda x: layers.Normalization(mean=1.0, variance=4.0, invert=True, name="alien")(x), "Normalization"),
        (lambda x: layers.Normalization(axis=1, mean=range(8), variance=range(1, 9), name="alien")(x), "Normalization"),
        (lambda x: layers.UnitNormalization(name="alien")(x), "UnitNormalization"),
        (lambda x: layers.Average(name="alien")([x, x]), "Average"),
        (lambda x: layers.UpSampling2D(interpolation="bicubic", name="alien")(x), "UpSampling2D by bicubic"),
        (lambda x: layers.Maximum(name="alien")([x, x]), "Maximum"),
        (lambda x: layers.ReLU(1.0, name="alien")(x), r"ReLU up to 1\.0"),
        (lambda x: layers.ReLU(threshold=0.5, name="alien")(x), r"ReLU from 0\.5"),
        (lambda x: layers.Softmax(axis=1, name="alien")(x), "Softmax"),
        (lambda x: layers.Conv2D(6, 3, groups=3, name="alien")(x), "Conv2D of 3 groups"),
        (lambda x: layers.Conv2D(4, 3, activation="mish", name="alien")(x), "Conv2D with activation mish"),
        (
            lambda x: layers.SeparableConv2D(4, 3, activation="elu", name="alien")(x),
            "SeparableConv2D with activation elu",
        ),
        (lambda x: keras.Sequential([layers.Conv2D(4, 3)], name="alien")(x), r"Sequential\).*`input_tensor`"),
    ],
)
def test_layers_that_cannot_be_quantised_are_refused_by_name(layer, message):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match=rf"`alien` \({message}.*Rule\('alien'\)"):
        qat.quantize_model(model)
    float_alien = qat.Policy((qat.Rule("alien"), *qat.get_policy("w8a8").rules))
    assert type(qat.quantize_model(model, float_alien).get_layer("alien")) is type(model.get_layer("alien"))


@pytest.mark.once
def test_wrappers_refuse_what_they_do_not_know():
    for layer in (layers.LSTM(4), layers.Dense(2, activation="elu"), None):
        with pytest.raises(TypeError, match="`layer` must be one of Conv2D"):
            qat.QuantizeWrapper(layer)


@pytest.mark.once
def test_sequential_models_become_functional():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, pictures())
    np.testing.assert_allclose(quantized(pictures()), model(pictures()), rtol=0.05, atol=2)


def test_frozen_layers_stay_frozen():
    model = network(convolutions)
    model.get_layer("predictions").trainable = False
    quantized = qat.quantize_model(model)
    assert not quantized.get_layer("predictions").trainable_variables
    assert len(quantized.trainable_variables) == len(model.trainable_variables)


def mobilenet_v2(size):
    inputs = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    network = keras.applications.MobileNetV2(input_tensor=x, alpha=0.35, weights=None, classes=5)
    return keras.Model(inputs, network.output)


def mobilenet_v3(size, minimalistic=False):
    return keras.applications.MobileNetV3Small((size, size, 3), weights=None, classes=5, minimalistic=minimalistic)


@pytest.mark.no_cover
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("build", "target", "operators"),
    [
        pytest.param(mobilenet_v2, "edgetpu", 67, marks=pytest.mark.slow),
        pytest.param(mobilenet_v3, "app", 120, marks=pytest.mark.slow),
        # 36 convolutions, 6 sums, mean, reshape, softmax
        pytest.param(lambda size: mobilenet_v3(size, minimalistic=True), "edgetpu", 45, marks=pytest.mark.slow),
    ],
    ids=["MobileNetV2", "MobileNetV3Small", "MobileNetV3Small-minimalistic"],
)
def test_keras_applications_become_integer_files(build, target, operators, real_photos, tmp_path):
    photos = real_photos(8, 64).astype("float32")
    model = trained(build(64), photos)
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, photos)
    labels = list("abcde") if target == "app" else None
    report = export.to_litert(quantized, tmp_path / "m.tflite", target, samples=photos, class_names=labels)
    assert min(part.within_one_step for part in report.parts) == 1.0
    assert len(kinds(tmp_path / "m.tflite")) == operators
    file = export.LiteRTModel(tmp_path / "m.tflite")
    assert file.input["quantization"][0] == pytest.approx(1 / 127.5)
    assert np.abs(file.predict(photos.astype("uint8")) - model.predict(photos, verbose=0)).mean() < 0.05
