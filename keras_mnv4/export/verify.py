"""Holds an exported file against the Keras model that it came from."""

import dataclasses
import math
import re

import keras
import numpy as np

from keras_mnv4.export.prepare import output_names
from keras_mnv4.export.runtime import LiteRTModel
from keras_mnv4.export.tflite_file import read_tflite
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.fake_quantize import kernel_quantizers
from keras_mnv4.qat.power_of_two import PowerOfTwoQuantizer
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import QuantizableLayer
from keras_mnv4.qat.stock.fusion import fusions

MIN_PART_AGREEMENT = 0.999  # share of a part's outputs within one step, given the same inputs
# LiteRT's own bilinear resizing has coarse weights, by which sizes such as 3 and 6 are off by two steps here and there.
MIN_PART_AGREEMENT_OF = {"RESIZE_BILINEAR": 0.95}
MIN_CHANNEL_AGREEMENT = 0.5  # the same of one channel: a wrong weight spoils one of a thousand, but that one often
# From end to end the roundings of all layers add up, in a deep network with random weights to many steps. Outputs of
# the wrong network would be off by 1.4 times their own spread; those of 4 bits that were not trained are by up to 0.5.
MAX_ERROR = 0.6
FLOAT_TOLERANCE = 1e-3  # of the range of the outputs, of a file in which nothing is rounded
MOVING_OPS = ("PAD", "QUANTIZE", "RESHAPE", "TRANSPOSE")  # hand values on, or from one integer type to another
OUTPUT_NAME = re.compile(r"(?:Stateful)?PartitionedCall:(\d+)")  # what the converter may call the last tensors
RESHAPES = (keras.layers.Flatten, keras.layers.Reshape)
CLIPPING_OPS = ("MAXIMUM", "RELU")  # behind an operator of the same layer: its end


class ExportError(RuntimeError):
    """An export that failed its verification; no file was left behind."""


def check_precision(model):
    """Raises if a layer of `model` computes in another precision than float32."""
    mixed = next((layer for layer in model._flatten_layers() if layer.compute_dtype != "float32"), None)
    if mixed is not None:
        raise ValueError(
            f"`{mixed.name}` of model `{model.name}` computes in {mixed.compute_dtype}: build the model in float32 and "
            "give it these weights (`set_weights`), then export that."
        )


def check_kernels(model):
    """Raises if a kernel of `model` stays in float, which TFLite's converter would round by itself."""
    for layer in model._flatten_layers():
        has_kernel = getattr(getattr(layer, "layer", layer), "kernel", None) is not None
        if has_kernel and getattr(layer, "kernel_quantizer", layer) is None:
            raise ValueError(
                f"The policy leaves the kernel of `{layer.path}` in float, and files of integers hold none: give the "
                "rule `weights`."
            )


def check_roundings(model):
    """Raises if `model` rounds as no file of integers can: inputs, to many bits, maps by channel or to powers."""
    layers = model._flatten_layers()
    for layer in layers:
        if getattr(layer, "input_quantizer", None) is not None:
            raise ValueError(
                f"Layer `{layer.path}` rounds its inputs, of sums and normalisations that stay in float. Files of "
                "integers want rounding behind every layer: quantise the float model with a policy such as 'w4a8'."
            )
    quantizers = [layer for layer in layers if isinstance(layer, FakeQuantize)]
    kernels = kernel_quantizers(model)
    for layer in quantizers:
        if layer.quantizer.num_bits > 8:
            raise ValueError(
                f"`{layer.path}` rounds to {layer.quantizer.num_bits} bits, and files of integers hold 8 at most."
            )
        if layer in kernels:
            continue
        if isinstance(layer.quantizer, PowerOfTwoQuantizer):
            raise ValueError(
                f"`{layer.path}` rounds a feature map to powers of two, and files of integers have equal steps between "
                "its codes: use another quantiser for `outputs` in the policy."
            )
        if getattr(layer.quantizer, "per_axis", False):
            raise ValueError(
                f"`{layer.path}` rounds each channel of a feature map by a range of its own, and files of integers "
                "have one scale for a map: use `outputs` of `per_axis=False` in the policy."
            )


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a file's outputs are from the Keras model's, over the samples.

    Args:
        samples: number of inputs compared.
        within_one_step: share of outputs that differ by at most one step of the file's output scale; for a float
            output, a step is a 255th of the range of the Keras model's outputs.
        within_two_steps: the same for two steps.
        max_steps: largest difference, in steps.
        top1: share of inputs, of maps share of places, whose largest output is the same.
    """

    samples: int
    within_one_step: float
    within_two_steps: float
    max_steps: float
    top1: float


def compare(expected, actual, step=0.0):
    """Measures the agreement of two arrays of outputs.

    Args:
        expected: the Keras model's outputs, `(count, classes)` or `(count, height, width, classes)`.
        actual: the file's outputs, as real values.
        step: the file's output scale; 0 for a float output.
    """
    step = step or float(np.ptp(expected)) / 255 or 1.0
    # Codes against codes: half a step of rounding is no difference.
    steps = np.abs(np.round(np.asarray(actual, "float64") / step) - np.round(np.asarray(expected, "float64") / step))
    same = np.argmax(expected, -1) == np.argmax(np.reshape(actual, expected.shape), -1)
    within = (float(np.mean(steps <= count)) for count in (1, 2))
    return Agreement(len(expected), *within, float(steps.max()), float(same.mean()))


def check_outputs(model, samples, actual, steps):
    """The `Agreement` of each of a file's outputs with the Keras model's, by the output's name.

    Args:
        model: the Keras model.
        samples: its inputs.
        actual: the file's output, as real values; or a list of them, in the order of the model's.
        steps: scales of the file's outputs; 0 for a float output.

    Raises:
        ExportError: if the outputs are those of another network.
    """
    named = _named_outputs(model, samples, actual)
    return {name: _check_output(name, *pair, step) for (name, *pair), step in zip(named, steps, strict=True)}


def check_float_outputs(model, samples, actual):
    """Like `check_outputs`, of a file that computes in float throughout, as its model does.

    Raises:
        ExportError: if an output differs from the model's by more than `FLOAT_TOLERANCE`.
    """
    agreements = {}
    for name, expected, found in _named_outputs(model, samples, actual):
        difference = float(np.max(np.abs(found - expected)))
        allowed = FLOAT_TOLERANCE * max(float(np.ptp(expected)), 1e-6)
        if not difference <= allowed:  # nor is it where the difference is no number
            raise ExportError(
                f"The file's outputs are not the Keras model's: those of `{name}` differ by up to {difference:g}, "
                f"where {allowed:g} is allowed."
            )
        agreements[name] = compare(expected, found)
    return agreements


def _named_outputs(model, samples, actual):
    """For each output its name, what the Keras model gives, and what the file gives."""
    expected = map(np.asarray, keras.tree.flatten(model.predict(samples, verbose=0)))
    return zip(output_names(model), expected, keras.tree.flatten(actual), strict=True)


def _check_output(name, expected, actual, step):
    agreement = compare(expected, actual, step)
    error = float(np.sqrt(np.mean((actual - expected) ** 2)))
    allowed = max(MAX_ERROR * float(np.std(expected)), 2 * step, 1e-6)
    if not error <= allowed:  # nor is it where the error is no number
        raise ExportError(
            f"The file's outputs are not the Keras model's: those of `{name}` differ by {error:g} on average, where "
            f"{allowed:g} is allowed. {agreement}"
        )
    return agreement


@dataclasses.dataclass(frozen=True)
class PartAgreement:
    """How far one operator of a file is from the part of the Keras model that it came from, given the same inputs.

    Args:
        path: the part, as `block_3/expand`.
        op: kind of the operator.
        exact: share of its outputs that are the same code.
        within_one_step: share that differs by one code at most.
        worst_channel: the same of the channel where it is least, where that was looked at.
    """

    path: str
    op: str
    exact: float
    within_one_step: float
    worst_channel: float = 1.0


def check_parts(parts):
    """The `PartAgreement`s in `parts`, as a tuple.

    Raises:
        ExportError: if a part disagrees; the message names its layer.
    """
    parts = tuple(parts)
    wrong = [
        part
        for part in parts
        if part.within_one_step < MIN_PART_AGREEMENT_OF.get(part.op, MIN_PART_AGREEMENT)
        or part.worst_channel < MIN_CHANNEL_AGREEMENT
    ]
    if wrong:
        raise ExportError(
            "Operators of the file do not give what the Keras model gives for the same inputs: "
            + ", ".join(f"{part.path} ({part.op}, {part.within_one_step:.2%} within one step)" for part in wrong)
        )
    return parts


def compare_parts(content, model, inputs):
    """Runs an integer file and holds every operator against its part of the Keras model, on the operator's own inputs.

    Differences between the two arithmetics add up over a deep network, and in the end hide what is wrong or look as
    if something was. Part by part they cannot: fixed-point arithmetic rounds a value differently only next to a tie.

    Args:
        content: bytes of the file.
        model: the fake-quantised Keras model.
        inputs: float values of the file's input, `(count, height, width, channels)`.

    Returns:
        A list of `PartAgreement`, in the file's order. Operators that only move values have none.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    file = read_tflite(content)
    runner = LiteRTModel(content)
    values = {tensor.index: [] for tensor in file.activations}
    for codes in runner.quantize(np.asarray(inputs)):
        interpreter.set_tensor(runner.input["index"], codes[None])
        interpreter.invoke()
        for index, seen in values.items():
            seen.append(_without_batch(interpreter.get_tensor(index)))

    producers = {operator.outputs[0].index: operator for operator in file.operators}
    paths = {operator.index: layer_path(operator.outputs[0].name, model) for operator in file.operators}
    clipped = {}  # by the index of a tensor, the operator that clips it
    for operator in file.operators:
        before = producers.get(operator.inputs[0].index)
        while before is not None and before.kind in MOVING_OPS and before.inputs[0].index in producers:
            before = producers[before.inputs[0].index]
        if operator.kind in CLIPPING_OPS and before is not None and paths[before.index] == paths[operator.index]:
            clipped[before.outputs[0].index] = operator

    def real(tensor):
        while tensor.index in producers and producers[tensor.index].kind == "PAD":  # the Keras layer pads, too
            tensor = producers[tensor.index].inputs[0]
        return np.float32(tensor.scales[0]) * (np.stack(values[tensor.index]) - np.float32(tensor.zero_points[0]))

    agreements = []
    for operator in file.operators:
        if operator.kind in MOVING_OPS or operator in clipped.values():
            continue
        output = operator.outputs[0]
        if output.index in clipped:
            output = clipped[output.index].outputs[0]
        path = paths[operator.index]
        activations = [tensor for tensor in operator.inputs if tensor is not None and tensor.index in values]
        try:
            expected = np.asarray(_compute(model, path, [real(tensor) for tensor in activations]))
            expected = expected.reshape(np.shape(values[output.index]))
        except Exception as error:
            raise ExportError(
                f"No part of the model is what {operator.kind} of the file computes, which was taken for `{path}`: "
                f"{error}"
            ) from error
        steps = np.round(expected / output.scales[0]) + output.zero_points[0] - np.stack(values[output.index])
        agreements.append(
            PartAgreement(path, operator.kind, float(np.mean(steps == 0)), float(np.mean(np.abs(steps) <= 1)))
        )
    return agreements


def _without_batch(value):
    """A tensor without its axis of pictures. Matrices have none, and a sum of one pixel loses all but the channels."""
    if value.ndim < 2:
        return value.reshape(1, 1, -1)
    return value[0] if value.shape[0] == 1 else value


def _compute(model, path, inputs):
    name, _, part = path.partition("/")
    operation = next(operation for operation in model.operations if operation.name == name)
    if isinstance(operation, QuantizableLayer):
        if part == ITSELF and ITSELF in operation.quantizable_parts:
            inputs = [_as_read(operation.input, *inputs)]
        outputs = operation.compute_part(part, *inputs)
    else:
        sources = keras.tree.flatten(operation.input)
        inputs = [_as_read(source, value) for source, value in zip(sources, inputs, strict=True)]
        outputs = keras.Function(sources, operation.output)(inputs)
    fused = fusions(model)
    while operation in fused:
        operation = fused[operation]
        outputs = operation(outputs)
    followers = [node.operation for node in operation._outbound_nodes]
    return next((follower(outputs) for follower in followers if isinstance(follower, FakeQuantize)), outputs)


def _as_read(tensor, value):
    """`value`, an input of an operator, as the Keras model has it in `tensor`.

    Files have vectors as maps of one pixel, and convolutions that pad by themselves.
    """
    shape, producer = (len(value), *tensor.shape[1:]), tensor._keras_history.operation
    if np.size(value) != math.prod(shape) and isinstance(producer, keras.layers.ZeroPadding2D):
        value = producer(_as_read(producer.input, value))
    return np.reshape(value, shape)


def float_layers(file, model):
    """Paths of the layers of `model` whose operators work on floats in `file`, in order, without repeats."""
    paths = []
    for operator in file.operators:
        tensors = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None]
        if any(tensor.dtype.startswith(("FLOAT", "BFLOAT")) for tensor in tensors):
            name = operator.outputs[0].name
            output = OUTPUT_NAME.fullmatch(name)
            if output:
                name = model.outputs[int(output[1])]._keras_history.operation.name
            path = f"{layer_path(name, model)} ({operator.kind})"
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
            parts = layer.operator_parts if isinstance(layer, QuantizableLayer) else ()
            parts = sorted(parts, key=len, reverse=True)  # `expand/downsample` before `expand`
            inner = "/".join(segments[start + 1 :])
            part = next((part for part in parts if part and _scope(part).match(inner)), "")
            return f"{_first_fused(layer, model).name}/{part}".rstrip("/")
    return tensor_name


def _scope(part):
    """What the scopes of `part` look like: those of its layers and of its quantiser, with the numbers of calls."""
    return re.compile(r"(_\d+)?/".join(part.split("/")) + r"(_quantizer)?(_\d+)?(/|$)")


def _first_fused(layer, model):
    """The first of the operations that are computed together with `layer`, or whose results it rounds or reshapes."""
    before = {reader: operation for operation, reader in fusions(model).items()}
    while True:
        if isinstance(layer, (FakeQuantize, *RESHAPES)):  # the converter has a mean, reshaped, as one that keeps axes
            layer = layer.input._keras_history.operation
        elif layer in before:
            layer = before[layer]
        else:
            return layer


def _named(segment, layers):
    """The layer that a scope is of: `block_1_1` is the second call of `block_1`, unless that is a layer's own name."""
    by_name = {layer.name: layer for layer in layers}
    return by_name.get(re.sub(r"_\d+$", "", segment)) or by_name.get(segment)
