"""`stock_names`: what policies know the layers of a stock network by, besides their names."""

import collections

from keras import layers

from keras_mnv4.qat.quantizable import QuantizableLayer
from keras_mnv4.qat.stock.fusion import SUMS
from keras_mnv4.qat.stock.fusion import fusions
from keras_mnv4.qat.stock.fusion import readers_of

STEM, PREDICTIONS = "stem", "predictions"


def stock_names(model):
    """What the layers of a Functional model that play the part of one of this package's are called there.

    The kernels next to the pictures are the stem, those next to the outputs the predictions, each with the
    normalisation and the relu that are computed with it; unless the model has layers of those names. A depthwise
    convolution is `<name>/depthwise`, and a normalisation by itself `<name>/norm`.

    Args:
        model: a Functional model.

    Returns:
        A dictionary from the name of a layer to the path.
    """
    fused = fusions(model)
    behind = set(fused.values())
    names = {}
    for operation in model.operations:
        if isinstance(operation, layers.DepthwiseConv2D):
            names[operation.name] = f"{operation.name}/depthwise"
        elif isinstance(operation, layers.BatchNormalization) and operation not in behind:
            names[operation.name] = f"{operation.name}/norm"
    taken = {operation.name for operation in model.operations}
    for path, ends in ((STEM, _first_kernels(model)), (PREDICTIONS, _last_kernels(model))):
        for operation in ends if path not in taken else ():
            if isinstance(operation, layers.SeparableConv2D):
                names[f"{operation.name}_depthwise"] = path
            while operation is not None:
                names[operation.name] = path
                operation = fused.get(operation)
    return names


def _first_kernels(model):
    """Kernels with nothing but layers of one input and no kernel between them and the pictures."""
    readers = readers_of(model)
    waiting = collections.deque(tensor._keras_history.operation for tensor in model.inputs)
    while waiting:
        for reader in readers[waiting.popleft()]:
            if isinstance(reader, SUMS):
                yield reader
            elif reader is not None and _is_passed(reader):
                waiting.append(reader)


def _last_kernels(model):
    """Likewise, between them and the outputs."""
    for tensor in model.outputs:
        operation = tensor._keras_history.operation
        while _is_passed(operation) and not isinstance(operation, SUMS):
            operation = operation.input._keras_history.operation
        if isinstance(operation, SUMS):
            yield operation


def _is_passed(operation):
    if isinstance(operation, (QuantizableLayer, layers.InputLayer)) or len(operation._inbound_nodes) != 1:
        return False
    return len(operation._inbound_nodes[0].input_tensors) == 1
