"""`to_onnx`: a float Keras model as an ONNX file, through tf2onnx."""

import pathlib
import warnings

import keras
import numpy as np

from keras_mnv4.export.litert import ExportReport
from keras_mnv4.export.litert import example_pictures
from keras_mnv4.export.verify import ExportError
from keras_mnv4.export.verify import compare
from keras_mnv4.files import atomic_file
from keras_mnv4.qat.fake_quantize import FakeQuantize

OPSET = 18
TOLERANCE = 1e-3  # of the range of the outputs


def to_onnx(model, path, *, samples=None, overwrite=False):
    """Writes a float model as an ONNX file with a free batch size, and verifies it with ONNX Runtime.

    Args:
        model: a float Keras model, on the TensorFlow backend.
        path: the `.onnx` file to write.
        samples: inputs of `model` to compare outputs on; by default a few made-up pictures.
        overwrite: whether an existing file may be replaced.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: if the model is fake-quantised: tf2onnx would turn per-channel quantisers into inputs of the graph.
        FileExistsError: if `path` exists and `overwrite` is False.
        ExportError: if ONNX Runtime's outputs are not the Keras model's. Nothing is left at `path`.

    Example:

    >>> to_onnx(MobileNetV4ConvSmall(weights=None), "vision.onnx").agreement.top1
    1.0
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"ONNX files are made on the TensorFlow backend: set KERAS_BACKEND=tensorflow. The backend is "
            f"{keras.backend.backend()!r}."
        )
    if any(isinstance(layer, FakeQuantize) for layer in model._flatten_layers()):
        raise ValueError(f"`model` must be a float model; `{model.name}` is fake-quantised.")
    if samples is None:
        height, width, channels = (side or 64 for side in model.input_shape[1:])
        samples = example_pictures((height, width, channels))
    samples = np.asarray(samples, "float32")
    expected = np.asarray(model.predict(samples, verbose=0))  # and Keras exports only models that were called once

    with atomic_file(path, overwrite) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Keras probes NumPy for aliases that tf2onnx wants
            model.export(str(temporary), format="onnx", verbose=False, opset_version=OPSET)
        actual = run_onnx(temporary, samples)
        difference = float(np.max(np.abs(actual - expected)))
        if difference > TOLERANCE * max(float(np.ptp(expected)), 1e-6):
            raise ExportError(f"ONNX Runtime's outputs are off by up to {difference:g} from the Keras model's.")
        size = temporary.stat().st_size
    return ExportReport(pathlib.Path(path), size, compare(expected, actual))


def run_onnx(path, inputs, batch_size=32):
    """Runs an ONNX file of one input and one output on `inputs`, on the CPU.

    Args:
        path: the file.
        inputs: array `(count, ...)`.
        batch_size: inputs a run.

    Returns:
        Array `(count, ...)` of its outputs.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    inputs = np.asarray(inputs, "float32")
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
