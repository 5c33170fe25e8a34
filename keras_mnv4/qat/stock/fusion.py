"""What an integer converter computes as one operator: no quantiser may stand inside."""

import collections
import math

from keras import activations
from keras import layers

from keras_mnv4.qat.stock import operations
from keras_mnv4.qat.stock.wrapper import KERNEL_LAYERS
from keras_mnv4.qat.stock.wrapper import QuantizeWrapper

SUMS = (*KERNEL_LAYERS, layers.SeparableConv2D)  # what takes in a normalisation, and a relu
ARITHMETIC = (*operations.ARITHMETIC, layers.Add, layers.Multiply, layers.Rescaling, layers.Subtract)
POOLINGS = (layers.AveragePooling2D, layers.MaxPooling2D)

# Where relus end, by their function and by their `max_value`.
ACTIVATIONS = {activations.relu: math.inf, activations.relu6: 6.0}
CEILINGS = {None: math.inf, 6.0: 6.0}


def fusions(model):
    """Which operations of a Functional model are computed together with the one that reads them.

    Convolutions and dense layers take in the batch normalisation behind them; these, normalisations, arithmetic and
    poolings take in the relu behind them. Only where nothing else reads what stands between, but for the same relu.

    Args:
        model: a Functional model, before or after `quantize_model`.

    Returns:
        A dictionary from operation to the operation that follows it.

    Example:

    >>> fusions(model)[model.get_layer("conv1")].name
    'conv1_bn'
    """
    firsts = {operation: next(iter(found)) for operation, found in readers_of(model).items() if _are_one(found)}
    return {operation: reader for operation, reader in firsts.items() if _fuses(operation, reader)}


def readers_of(model):
    """For each operation of a Functional model those that read it, in order, and None for outputs of the model.

    Args:
        model: a Functional model.

    Returns:
        A dictionary from operation to a dictionary of which the keys are its readers.
    """
    readers = collections.defaultdict(dict)
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            for tensor in node.input_tensors:
                readers[tensor._keras_history.operation][node.operation] = True
    for tensor in model.outputs:
        readers[tensor._keras_history.operation][None] = True
    return readers


def relu_ceiling(operation):
    """Where a relu that integer operators can apply before they round their sums ends, 6 or infinity; None of others.

    Args:
        operation: an operation of a model, or a layer.

    Example:

    >>> relu_ceiling(keras.layers.ReLU(6.0))
    6.0
    """
    if isinstance(operation, layers.Activation):
        return ACTIVATIONS.get(operation.activation)
    if isinstance(operation, layers.ReLU):
        is_bent = operation.negative_slope or operation.threshold
        return None if is_bent else CEILINGS.get(operation.max_value)
    return CEILINGS[operations.MAX_VALUES[type(operation)]] if isinstance(operation, operations.RELUS) else None


def is_relu(operation):
    """Whether integer operators can apply `operation` before they round their sums."""
    return relu_ceiling(operation) is not None


def _are_one(readers):
    """Whether there is one reader, or several that do the same, which a converter makes one of."""
    ceilings = {relu_ceiling(reader) for reader in readers}
    return len(readers) == 1 or (len(ceilings) == 1 and None not in ceilings)


def _fuses(operation, reader):
    layer = operation.layer if isinstance(operation, QuantizeWrapper) else operation
    is_sum = isinstance(layer, SUMS) and layer.activation is activations.linear
    if isinstance(reader, layers.BatchNormalization):
        return is_sum
    return is_relu(reader) and (is_sum or isinstance(layer, (layers.BatchNormalization, *ARITHMETIC, *POOLINGS)))
