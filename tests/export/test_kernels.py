import keras
import pytest
from conftest import randomize_statistics
from keras import layers

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.layers import ConvNormAct

pytestmark = pytest.mark.tensorflow

TAILS = {
    "norm": lambda maps: ConvNormAct(8, 3, activation="relu")(maps),
    "bias": lambda maps: ConvNormAct(8, 3, use_norm=False, use_bias=True)(maps),
    "depthwise": lambda maps: ConvNormAct(kernel_size=3, depthwise=True)(maps),
    "stock": lambda maps: layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(maps))),
}
OUTPUTS = qat.MovingAverageQuantizer(8)


def quantized(tail, photos, weights, outputs=OUTPUTS):
    pictures = keras.Input((32, 32, 3))
    maps = TAILS[tail](layers.Rescaling(1 / 127.5, -1)(pictures))
    model = randomize_statistics(
        keras.Model(pictures, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(maps)))
    )
    rules = (qat.Rule("input", outputs=OUTPUTS), qat.Rule("head", weights=weights, outputs=OUTPUTS))
    policy = qat.Policy((*rules, qat.Rule(".*", weights=weights, outputs=outputs)))
    return qat.quantize_model(model, policy, calibration_data=photos)


@pytest.fixture
def photos(real_photos):
    return real_photos(8, 32).astype("float32")


@pytest.mark.no_cover
@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("narrow_range", [False, True])
@pytest.mark.parametrize("tail", TAILS)
def test_one_range_for_all_channels_becomes_one_for_each(tail, narrow_range, num_bits, photos, tmp_path):
    """The factors of a normalisation, one a channel, go into the scales of a kernel."""
    weights = qat.LastValueQuantizer(num_bits, symmetric=True, narrow_range=narrow_range)
    report = export.to_litert(quantized(tail, photos, weights), tmp_path / "model.tflite", "cpu", samples=photos)
    assert min(part.within_one_step for part in report.parts) == 1.0
    assert report.agreement.within_two_steps == 1.0


def test_kernels_of_zeros_are_exported(photos, tmp_path):
    """A range that is empty is not one that is off its centre: a pruned channel has it, and a new head of zeros."""
    pictures = keras.Input((32, 32, 3))
    convolution = layers.Conv2D(8, 3, use_bias=False)
    maps = layers.GlobalAveragePooling2D()(convolution(layers.Rescaling(1 / 127.5, -1)(pictures)))
    model = keras.Model(pictures, layers.Dense(4, kernel_initializer="zeros", bias_initializer="ones")(maps))
    kernel = convolution.kernel.numpy().copy()
    kernel[..., 2] = 0.0
    convolution.kernel.assign(kernel)
    for policy in ("w8a8", "w4a8"):
        twin = qat.quantize_model(model, policy, calibration_data=photos)
        report = export.to_litert(twin, tmp_path / f"{policy}.tflite", "cpu", samples=photos)
        assert report.agreement.within_one_step == 1.0


def test_kernels_of_a_fixed_range_are_exported(photos, tmp_path):
    model = quantized("bias", photos, qat.FixedQuantizer(8, init_min=-1.0, init_max=1.0, narrow_range=True))
    report = export.to_litert(model, tmp_path / "model.tflite", "cpu", samples=photos)
    assert report.agreement.within_two_steps == 1.0


def test_more_bits_than_files_hold_are_refused_by_name(photos, tmp_path):
    model = quantized("bias", photos, qat.LastValueQuantizer(16, per_axis=True, symmetric=True, narrow_range=True))
    with pytest.raises(ValueError, match=r"conv_norm_act.*rounds to 16 bits"):
        export.to_litert(model, tmp_path / "model.tflite", "cpu", samples=photos)


@pytest.mark.parametrize("per_axis", [False, True])
def test_kernels_that_are_not_centred_on_zero_are_refused_by_name(per_axis, photos, tmp_path):
    model = quantized("norm", photos, qat.LastValueQuantizer(8, per_axis=per_axis))
    with pytest.raises(export.ExportError, match=r"conv_norm_act.*not centred on zero.*`symmetric=True`"):
        export.to_litert(model, tmp_path / "model.tflite", "cpu", samples=photos)
    assert export.to_onnx(model, tmp_path / "model.onnx", samples=photos).float_layers == ()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (qat.LastValueQuantizer(8, per_axis=True), "rounds each channel of a feature map"),
        (qat.PowerOfTwoQuantizer(4, per_axis=False), "rounds a feature map to powers of two"),
    ],
)
def test_feature_maps_that_files_cannot_hold_are_refused_by_name(outputs, message, photos, tmp_path):
    weights = qat.LastValueQuantizer(8, per_axis=True, symmetric=True, narrow_range=True)
    model = quantized("bias", photos, weights, outputs)
    for write, name in ((export.to_litert, "model.tflite"), (export.to_onnx, "model.onnx")):
        with pytest.raises(ValueError, match=f"conv_norm_act.*{message}"):
            write(model, tmp_path / name, samples=photos)
    assert not list(tmp_path.iterdir())
