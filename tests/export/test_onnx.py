import numpy as np
import pytest
from conftest import randomize_statistics

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import MQA
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import build_network
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES
from keras_mnv4.export import onnx

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def model():
    return randomize_statistics(MobileNetV4ConvSmall(weights=None, input_shape=(64, 64, 3), classes=5, alpha=0.35))


def test_onnx_runtime_gives_the_keras_models_outputs(model, real_photos, tmp_path):
    photos = real_photos(5, 64)
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


def test_quantised_models_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="float model"):
        export.to_onnx(qat.quantize_model(model), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_outputs_leave_no_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "run_onnx", lambda path, inputs: np.ones((len(inputs), 5)))
    with pytest.raises(export.ExportError, match="off by up to"):
        export.to_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
