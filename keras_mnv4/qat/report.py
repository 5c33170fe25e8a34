"""`quantization_report`: what of a model is quantised, how, and why the rest is not."""

import dataclasses
import io

import keras
from rich.console import Console
from rich.table import Table

from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.policies import LayerQuantization
from keras_mnv4.qat.quantizable import QuantizableLayer
from keras_mnv4.qat.quantize import INPUT
from keras_mnv4.qat.quantize import as_functional
from keras_mnv4.qat.stock.fusion import fusions
from keras_mnv4.qat.stock.pictures import GRID_KEEPING

FLOAT = "float"
BY_POLICY = "left in float by the policy"


@dataclasses.dataclass(frozen=True)
class PartReport:
    """How one part of a model is quantised.

    Args:
        path: what policies know it by.
        layer: class of the layer that it is in.
        weights: how its kernel is rounded; `"float"`; or `""` where there is none.
        outputs: how its results are rounded, or `"float"`.
        inputs: how what it convolves is rounded; `""` where that is not done, for it was behind the layer before.
        why: why something stays in float, or where it is rounded instead; else `""`.
    """

    path: str
    layer: str
    weights: str
    outputs: str
    inputs: str = ""
    why: str = ""


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """How all parts of a model are quantised; as a string, a table.

    Args:
        name: name of the model.
        parts: a `PartReport` for each, in the model's order.
    """

    name: str
    parts: tuple[PartReport, ...]

    @property
    def paths(self):
        """All paths of the model, for `Policy.unused_rules`."""
        return tuple(part.path for part in self.parts)

    def __str__(self):
        table = Table("path", "layer", "weights", "outputs", "inputs", "why", title=self.name)
        for part in self.parts:
            table.add_row(*dataclasses.astuple(part))
        console = Console(file=io.StringIO(), width=160)
        console.print(table)
        return console.file.getvalue()


def quantization_report(model):
    """Lists what of a model is quantised, how, and why the rest is not.

    Args:
        model: a Functional model, from `quantize_model` or in float, or a built `keras.Sequential`.

    Returns:
        A `QuantizationReport`.

    Raises:
        ValueError: if `model` is neither.

    Example:

    >>> print(quantization_report(quantized))
    >>> [part.path for part in quantization_report(quantized).parts if part.outputs == "float" and not part.why]
    []
    """
    model = as_functional(model)
    behind = {
        layer.input._keras_history.operation: layer.quantizer
        for layer in model.layers
        if isinstance(layer, FakeQuantize)
    }
    fused = fusions(model)
    parts = []
    for operation in model.operations:
        if isinstance(operation, FakeQuantize):
            continue
        if isinstance(operation, QuantizableLayer):
            parts += _parts(operation, fused)
        elif isinstance(operation, keras.layers.InputLayer):
            outputs = _describe(behind.get(operation))
            parts.append(PartReport(INPUT, "InputLayer", "", outputs, why="" if operation in behind else "bytes"))
        else:
            parts.append(_stock_part(operation, behind, fused))
    return QuantizationReport(model.name, tuple(parts))


def _parts(layer, fused):
    """A `PartReport` for each part of a layer that a policy can look into."""
    kernels = {inner.path for inner in layer._flatten_layers() if hasattr(inner, "kernel_quantizer")}
    for part in layer.quantizable_parts:
        how = layer.part_quantization(part) or LayerQuantization()
        path = f"{layer.name}/{part}".rstrip("/")
        has_kernel = f"{layer.path}/{part}".rstrip("/") in kernels
        why = "" if how.outputs is not None else _why_float(layer, fused)
        weights = _describe(how.weights) if has_kernel else ""
        inputs = _describe(how.inputs) if has_kernel and how.inputs is not None else ""
        kind = type(getattr(layer, "layer", layer)).__name__
        yield PartReport(path, kind, weights, _describe(how.outputs), inputs, why)


def _stock_part(operation, behind, fused):
    """The `PartReport` of an operation that nothing is quantised inside of."""
    kind, weights = type(operation).__name__, FLOAT if getattr(operation, "weights", ()) else ""
    if operation in behind:
        return PartReport(operation.name, kind, weights, _describe(behind[operation]))
    if isinstance(operation, GRID_KEEPING):
        return PartReport(operation.name, kind, weights, FLOAT, why="hands on what is rounded already")
    return PartReport(operation.name, kind, weights, FLOAT, why=_why_float(operation, fused))


def _why_float(operation, fused):
    return f"rounded behind {fused[operation].name}" if operation in fused else BY_POLICY


def _describe(quantizer):
    """A quantiser in a few words, as `4 bits a channel, LastValue`."""
    if quantizer is None:
        return FLOAT
    each = " a channel" if getattr(quantizer, "per_axis", False) else ""
    kind = type(getattr(quantizer, "quantizer", quantizer)).__name__.removesuffix("Quantizer")
    return f"{quantizer.num_bits} bits{each}, {kind}"
