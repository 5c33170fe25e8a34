"""Holds an exported file against the Keras model that it came from."""

import dataclasses
import re

import numpy as np

from keras_mnv4.qat.quantizable import QuantizableLayer


class ExportError(RuntimeError):
    """An export that failed its verification; no file was left behind."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a file's outputs are from the Keras model's, over the samples.

    Args:
        samples: number of inputs compared.
        within_one_step: share of outputs that differ by at most one step of the file's output scale; for a float
            output, a step is a 255th of the range of the Keras model's outputs.
        max_steps: largest difference, in steps.
        top1: share of inputs whose largest output is the same.
    """

    samples: int
    within_one_step: float
    max_steps: float
    top1: float


def compare(expected, actual, step=0.0):
    """Measures the agreement of two arrays of outputs, `(count, classes)`.

    Args:
        expected: the Keras model's outputs.
        actual: the file's outputs, as real values.
        step: the file's output scale; 0 for a float output.
    """
    step = step or float(np.ptp(expected)) / 255 or 1.0
    # Codes against codes: half a step of rounding is no difference.
    steps = np.abs(np.round(np.asarray(actual, "float64") / step) - np.round(np.asarray(expected, "float64") / step))
    same = np.argmax(expected.reshape(len(expected), -1), -1) == np.argmax(actual.reshape(len(actual), -1), -1)
    return Agreement(len(expected), float(np.mean(steps <= 1)), float(steps.max()), float(same.mean()))


def float_layers(file, model):
    """Paths of the layers of `model` whose operators work on floats in `file`, in order, without repeats."""
    paths = []
    for operator in file.operators:
        tensors = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None]
        if any(tensor.dtype.startswith(("FLOAT", "BFLOAT")) for tensor in tensors):
            path = f"{layer_path(operator.outputs[0].name, model)} ({operator.kind})"
            if path not in paths:
                paths.append(path)
    return paths


def layer_path(tensor_name, model):
    """The layer of `model` that a TFLite tensor came from, as `block_3/expand`; the tensor's name if none is found.

    TensorFlow names tensors by the scopes of the layers, each with a number that tells calls apart.
    """
    for scope in tensor_name.split(";"):
        segments = scope.split("/")
        for start, segment in enumerate(segments):
            layer = _named(segment, model.layers)
            if layer is None:
                continue
            parts = layer.quantizable_parts if isinstance(layer, QuantizableLayer) else ()
            inner = segments[start + 1] if start + 1 < len(segments) else ""
            part = next((part for part in parts if part and re.fullmatch(rf"{part}(_quantizer)?(_\d+)?", inner)), "")
            if not part and "add" in parts and re.match(r"add(_\d+)?$", inner):
                part = "add"
            return f"{layer.name}/{part}".rstrip("/")
    return tensor_name


def _named(segment, layers):
    """The layer that a scope is of: `block_1_1` is the second call of `block_1`, unless that is a layer's own name."""
    by_name = {layer.name: layer for layer in layers}
    return by_name.get(re.sub(r"_\d+$", "", segment)) or by_name.get(segment)
