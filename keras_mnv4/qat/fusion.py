"""What an integer converter computes as one operator: no quantiser may stand inside."""

import collections

from keras import activations
from keras import layers

from keras_mnv4.qat import operations
from keras_mnv4.qat.wrapper import KERNEL_LAYERS
from keras_mnv4.qat.wrapper import QuantizeWrapper

SUMS = (*KERNEL_LAYERS, layers.SeparableConv2D)  # what takes in a normalisation, and a relu
ARITHMETIC = (*operations.ARITHMETIC, layers.Add, layers.Multiply, layers.Rescaling, layers.Subtract)


def fusions(model):
    """Which operations of a Functional model are computed together with the one that reads them.

    Convolutions and dense layers take in the batch normalisation behind them; these, normalisations and arithmetic
    take in the relu behind them. Only where nothing else reads what stands between.

    Args:
        model: a Functional model, before or after `quantize_model`.

    Returns:
        A dictionary from operation to the operation that follows it.

    Example:

    >>> fusions(model)[model.get_layer("conv1")].name
    'conv1_bn'
    """
    only_readers = {operation: next(iter(found)) for operation, found in readers_of(model).items() if len(found) == 1}
    return {operation: reader for operation, reader in only_readers.items() if _fuses(operation, reader)}


def readers_of(model):
    """A dictionary from each operation of a Functional model to the set of those that read it, and None of outputs."""
    readers = collections.defaultdict(set)
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            for tensor in node.input_tensors:
                readers[tensor._keras_history.operation].add(node.operation)
    for tensor in model.outputs:
        readers[tensor._keras_history.operation].add(None)
    return readers


def is_relu(operation):
    """Whether integer operators can apply `operation` before they round their sums."""
    if isinstance(operation, layers.Activation):
        return operation.activation in (activations.relu, activations.relu6)
    if isinstance(operation, layers.ReLU):
        return operation.max_value in (None, 6) and not operation.negative_slope and not operation.threshold
    return isinstance(operation, operations.RELUS)


def _fuses(operation, reader):
    layer = operation.layer if isinstance(operation, QuantizeWrapper) else operation
    is_sum = isinstance(layer, SUMS) and layer.activation is activations.linear
    if isinstance(reader, layers.BatchNormalization):
        return is_sum
    return is_relu(reader) and (is_sum or isinstance(layer, (layers.BatchNormalization, *ARITHMETIC)))
