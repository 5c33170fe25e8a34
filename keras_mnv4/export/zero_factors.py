"""Channels that a normalisation multiplies by zero, in a form that integer converters take."""

import contextlib

import numpy as np
from keras import ops

from keras_mnv4.layers.quant_norm import QuantNorm
from keras_mnv4.qat.fake_quantize import layers_with_kernels

LEAST_FACTOR = 1e-30  # of a channel; below it the scale of its folded kernel is no float32


@contextlib.contextmanager
def without_zero_factors(model):
    """While it lasts, no normalisation of `model` multiplies by zero, and the model computes what it did.

    A converter folds the factors of a normalisation into the kernel before it, and a kernel times zero has no scale.
    Such channels, which a new `ResidualUnit` has and pruning leaves, get the zeros in their kernel and a factor that
    is not zero.

    Args:
        model: a fake-quantised Keras model.
    """
    changes = [change for layer in layers_with_kernels(model) for change in _changes(layer)]
    before = [(weight, np.array(ops.convert_to_numpy(weight))) for weight, _ in changes]
    try:
        for weight, values in changes:
            weight.assign(values)
        yield
    finally:
        for weight, values in before:
            weight.assign(values)


def _changes(layer):
    """The weights of a convolution and of what is folded into it that have to change, each with its new values."""
    norm, scale = layer.norm, getattr(layer, "scale", None)
    factor, after = _factor(norm), 1.0 if scale is None else ops.convert_to_numpy(scale.gamma)
    is_zero = np.abs(factor * after) < LEAST_FACTOR
    if not is_zero.any():
        return
    kernel = getattr(layer, "layer", layer).kernel
    yield kernel, np.where(_along_channels(is_zero, kernel.shape), 0.0, kernel)
    if layer.use_bias:
        yield layer.bias, np.where(is_zero, after * layer.bias if norm is None else 0.0, layer.bias)
    if norm is not None:
        yield norm.moving_mean, np.where(is_zero, 0.0, norm.moving_mean)
        if norm.beta is not None:
            yield norm.beta, np.where(is_zero, after * norm.beta, norm.beta)
        if norm.gamma is not None:
            # Not larger than others are, nor much smaller: a `QuantNorm` rounds all by the largest.
            size = 0.5 * np.max(np.abs(factor)) or 1.0
            deviation = np.sqrt(norm.moving_variance + norm.epsilon)
            yield norm.gamma, np.where(is_zero, size * deviation, norm.gamma)
    if scale is not None:
        yield scale.gamma, np.where(is_zero, 1.0, scale.gamma)


def _factor(norm):
    """What a normalisation multiplies each channel by; of none, one."""
    if norm is None or norm.gamma is None:
        return 1.0
    if isinstance(norm, QuantNorm):
        return ops.convert_to_numpy(norm.scale_and_offset()[0])
    return ops.convert_to_numpy(norm.gamma / ops.sqrt(norm.moving_variance + norm.epsilon))


def _along_channels(vector, kernel_shape):
    """A vector of one a channel, to go with a kernel: of a depthwise one, channels are its last two axes."""
    *_, before_last, last = kernel_shape
    return vector if len(vector) == last else np.reshape(vector, (before_last, last))
