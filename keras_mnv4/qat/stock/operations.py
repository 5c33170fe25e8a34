"""Operations of `keras.ops` in the graph of a model, such as `x + 3`, as stock layers that do the same.

TensorFlow's graph knows layers by their names, operations by none: only of layers can an exported operator be traced.
"""

import keras
from keras import layers
from keras import ops


def _class_of(function, inputs=1):
    """The class of what a function of `keras.ops` leaves in the graph of a model."""
    return type(function(*[keras.KerasTensor((1, 1))] * inputs)._keras_history.operation)


ADD, MULTIPLY, SUBTRACT = (_class_of(each, 2) for each in (ops.add, ops.multiply, ops.subtract))
DIVIDE = _class_of(ops.true_divide, 2)
RELU, RELU6 = (_class_of(each) for each in (ops.relu, ops.relu6))

OF_TWO_TENSORS = {ADD: layers.Add, MULTIPLY: layers.Multiply, SUBTRACT: layers.Subtract}
# From the number to the scale and offset of a `Rescaling`.
WITH_A_NUMBER = {
    ADD: lambda number: (1.0, number),
    DIVIDE: lambda number: (1.0 / number, 0.0),
    MULTIPLY: lambda number: (number, 0.0),
    SUBTRACT: lambda number: (1.0, -number),
}
MAX_VALUES = {RELU: None, RELU6: 6.0}

ARITHMETIC = tuple(WITH_A_NUMBER)
RELUS = tuple(MAX_VALUES)


def stand_in(operation, *args):
    """The stock layer that does what `operation` does with `args`, and its inputs; None if there is none.

    Args:
        operation: an operation of a Functional model that is no layer.
        *args: what it is called with.

    Returns:
        A new layer of the same name, and what to call it with; or None.

    Example:

    >>> stand_in((x + 3.0)._keras_history.operation, x, 3.0)[0].offset
    3.0
    """
    kind, tensors = type(operation), [arg for arg in args if isinstance(arg, keras.KerasTensor)]
    if kind in MAX_VALUES:
        return layers.ReLU(MAX_VALUES[kind], name=operation.name), args[0]
    if kind in OF_TWO_TENSORS and len(tensors) == 2 and len(tensors[0].shape) == len(tensors[1].shape):
        return OF_TWO_TENSORS[kind](name=operation.name), tensors
    affine = scale_and_offset(operation, *args)
    return affine and (layers.Rescaling(*affine, name=operation.name), *tensors)


def scale_and_offset(operation, *args):
    """The numbers that an operation of a tensor and a number multiplies with and adds; None of any other.

    Args:
        operation: an operation of a Functional model.
        *args: what it is called with.

    Example:

    >>> scale_and_offset((x / 4)._keras_history.operation, x, 4)
    (0.25, 0.0)
    """
    kind = type(operation)
    if kind not in WITH_A_NUMBER or len(args) != 2:
        return None
    first, second = args if isinstance(args[0], keras.KerasTensor) or kind not in (ADD, MULTIPLY) else args[::-1]
    is_affine = isinstance(first, keras.KerasTensor) and isinstance(second, (int, float))
    return WITH_A_NUMBER[kind](second) if is_affine else None
