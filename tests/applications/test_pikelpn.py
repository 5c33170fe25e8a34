import keras
import numpy as np
import pytest
from conftest import randomize_statistics
from keras import ops

from keras_mnv4 import cost
from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import PikeLPN
from keras_mnv4.applications import PikeLPN1x
from keras_mnv4.applications import PikeLPN2x
from keras_mnv4.applications import PikeLPN3x
from keras_mnv4.applications import PikeLPN6x
from keras_mnv4.applications import Separable
from keras_mnv4.applications.pikelpn import ARCHITECTURES

PICTURES = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype("float32")


@pytest.mark.once
def test_the_geometry_is_mobilenets():
    costs = cost.profile(PikeLPN1x())
    mobilenet = cost.profile(keras.applications.MobileNet(weights=None))
    assert costs.macs == mobilenet.macs == 568_740_352
    assert costs.parameters == mobilenet.parameters == 4_231_976
    assert costs.layers == cost.TableProfiler(policy="pikelpn").profile(ARCHITECTURES["PikeLPN"]).layers


@pytest.mark.once
def test_outputs_of_the_float_network_are_mobilenets():
    """The same weights and statistics in `keras.applications`' network, which pads its strides by hand."""
    ours = randomize_statistics(PikeLPN(policy="float", input_shape=(64, 64, 3), include_preprocessing=False))
    theirs = keras.applications.MobileNet(weights=None, input_shape=(64, 64, 3), include_top=False, pooling="avg")
    body = keras.Model(ours.input, keras.layers.Flatten()(ours.get_layer("avg_pool").output))
    for mine, other in zip(body.weights, theirs.weights, strict=True):
        other.assign(mine.numpy())
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.ReLU):
            layer.max_value = None  # this package's default is relu
    pictures = (PICTURES[:4].repeat(2, 1).repeat(2, 2) / 127.5 - 1).astype("float32")
    expected = theirs.predict(pictures, verbose=0)
    np.testing.assert_allclose(body.predict(pictures, verbose=0), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.once
def test_files_of_weights_of_both_networks(tmp_path):
    arguments = {"classes": 4, "input_shape": (32, 32, 3)}
    quantized = PikeLPN(0.25, **arguments)
    qat.calibrate(quantized, PICTURES)
    quantized.save_weights(tmp_path / "quantized.weights.h5")
    again = PikeLPN(0.25, weights=tmp_path / "quantized.weights.h5", **arguments)
    np.testing.assert_array_equal(again(PICTURES[:4]), quantized(PICTURES[:4]))  # ranges, too
    unquantized = PikeLPN(0.25, policy="float", **arguments)
    unquantized.save_weights(tmp_path / "float.weights.h5")
    twin = PikeLPN(0.25, weights=tmp_path / "float.weights.h5", **arguments)
    np.testing.assert_array_equal(twin.get_layer("stem").kernel, unquantized.get_layer("stem").kernel)
    with pytest.raises(ValueError, match="tensors more than the model"):
        PikeLPN(0.25, policy="float", weights=tmp_path / "quantized.weights.h5", **arguments)


@pytest.mark.once
def test_input_tensors_are_for_float_networks():
    inputs = keras.Input((32, 32, 3))
    assert PikeLPN(0.25, policy="float", classes=4, input_tensor=inputs).inputs[0] is inputs
    with pytest.raises(ValueError, match=r"`PikeLPN\(\.\.\.\)\(tensor\)`"):
        PikeLPN(0.25, classes=4, input_tensor=inputs)


@pytest.mark.once
@pytest.mark.parametrize(
    ("constructor", "macs", "bits"),
    [
        pytest.param(PikeLPN2x, 568.7e6, 16, marks=pytest.mark.slow),
        (PikeLPN3x, 1257.7e6, 16),
        pytest.param(PikeLPN6x, 2216.5e6, 16, marks=pytest.mark.slow),
    ],
)
def test_the_family(constructor, macs, bits):
    model = constructor()
    costs = cost.profile(model)
    assert costs.macs == pytest.approx(macs, rel=1e-3)
    kinds = {tuple(map(str, each.formats[:2])) for each in costs.operations if each.kind == "mac"}
    assert kinds == {("int8", "int8"), ("int8", f"int{bits}"), ("po2_4", f"int{bits}")}
    assert model.name == constructor.__name__.lower()


@pytest.fixture
def first_blocks(monkeypatch):
    """Makes `PikeLPN` a network of three blocks, which compiles in seconds."""
    first = Architecture(
        "first", (Conv(8, kernel=3, stride=2), Separable(16), Separable(32, stride=2)), head_filters=None
    )
    monkeypatch.setitem(ARCHITECTURES, "PikeLPN", first)


@pytest.mark.usefixtures("first_blocks")
@pytest.mark.parametrize("dtype", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_it_trains_from_scratch(dtype):
    labels = np.random.default_rng(1).integers(0, 3, 32)
    keras.config.set_dtype_policy(dtype)
    try:
        model = PikeLPN(classes=3, input_shape=(32, 32, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    losses = model.fit(PICTURES, labels, epochs=20, batch_size=32, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.tensorflow
@pytest.mark.usefixtures("first_blocks")
@pytest.mark.parametrize("target", ["edgetpu", pytest.param("cpu", marks=pytest.mark.slow)])
def test_it_becomes_an_integer_file(target, tmp_path, real_photos):
    photos = real_photos(16, 32).astype("float32")
    model = randomize_statistics(PikeLPN(classes=10, input_shape=(32, 32, 3)))
    qat.calibrate(model, photos)
    report = export.to_litert(model, tmp_path / "model.tflite", target, samples=photos)
    assert all(part.within_one_step > 0.999 for part in report.parts)
    exact = [ops.convert_to_numpy(layer.quantized_kernel()) for layer in _pointwise(model)]
    for kernel, tensor in zip(exact, _kernels(tmp_path / "model.tflite", kernels_of=len(exact)), strict=True):
        codes, _ = tensor
        powers = np.unique(np.abs(codes[codes != 0]))
        assert set(powers) <= {1, 2, 4, 8, 16, 32, 64}
        assert len(powers) > 1
        assert (kernel.reshape(-1, kernel.shape[-1]).T == 0).sum() == (codes == 0).sum()


def _pointwise(model):
    return [layer for layer in model._flatten_layers() if layer.name == "pointwise"]


def _kernels(path, kernels_of):
    """Codes and scales of the 1x1 kernels of a file, in order, without the classifier's."""
    from ai_edge_litert.interpreter import Interpreter

    from keras_mnv4.export.tflite_file import read_tflite

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    found = []
    for operator in read_tflite(path).operators:
        if operator.kind == "CONV_2D" and operator.inputs[1].shape[1:3] == (1, 1):
            kernel = operator.inputs[1]
            found.append((interpreter.get_tensor(kernel.index).reshape(kernel.shape[0], -1).astype(int), kernel.scales))
    return found[:kernels_of]


@pytest.mark.tensorflow
@pytest.mark.usefixtures("first_blocks")
def test_more_powers_than_8_bits_hold_are_named(tmp_path):
    policy = qat.pikelpn_policy(pointwise=qat.PowerOfTwoQuantizer(4, has_zero=False))
    model = PikeLPN(classes=3, input_shape=(32, 32, 3), policy=policy)
    qat.calibrate(model, PICTURES)
    with pytest.raises(export.ExportError, match=r"block_1.*has_zero"):
        export.to_litert(model, tmp_path / "model.tflite", "edgetpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_whole_network_becomes_an_edge_tpu_file(tmp_path, real_photos):
    photos = real_photos(16, 64).astype("float32")
    model = randomize_statistics(PikeLPN1x(classes=10, input_shape=(64, 64, 3)))
    qat.calibrate(model, photos)
    report = export.to_litert(model, tmp_path / "model.tflite", "edgetpu", samples=photos)
    assert all(part.within_one_step > 0.999 for part in report.parts)
