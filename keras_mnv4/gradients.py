"""`value_and_gradients`: gradients of any function, on every backend, for what `fit` alone cannot do."""

import keras
from keras import ops


def value_and_gradients(function, values):
    """The value of a function, and its gradients.

    It may be used inside of a training step: nothing of it takes part in the gradients of the step.

    Args:
        function: function of a list of tensors that gives a scalar tensor.
        values: list of float tensors.

    Returns:
        The scalar, and a list of gradients; zeros for values that it does not depend on.

    Example:

    >>> value, (gradient,) = value_and_gradients(lambda values: values[0] ** 2, [np.float32(3)])
    >>> float(value), float(gradient)
    (9.0, 6.0)
    """
    values = [ops.stop_gradient(ops.convert_to_tensor(value)) for value in values]
    value, gradients = _BACKENDS[keras.backend.backend()](function, values)
    gradients = [
        ops.zeros_like(each) if gradient is None else ops.stop_gradient(gradient)
        for each, gradient in zip(values, gradients, strict=True)
    ]
    return ops.stop_gradient(value), gradients


def _tensorflow(function, values):
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        value = function(values)
    return value, tape.gradient(value, values)


def _jax(function, values):
    import jax

    return jax.value_and_grad(function)(values)


def _torch(function, values):
    import torch

    with torch.enable_grad():
        values = [value.detach().clone().requires_grad_() for value in values]
        value = function(values)
        return value, torch.autograd.grad(value, values, allow_unused=True)


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
