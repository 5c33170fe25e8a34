"""`correct_biases`: takes back the shift that rounding gives the mean of every channel."""

import collections

import numpy as np
from keras import ops

from keras_mnv4.batches import pictures_of
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.fake_quantize import kernel_quantizers
from keras_mnv4.qat.fake_quantize import layers_with_kernels

CLEAR = 3.0  # standard errors that a channel's mean must be off by, to be shifted


def correct_biases(model, data):
    """Shifts the biases of a calibrated model so that rounding no longer moves the mean of any channel.

    Rounding the few weights of a channel's kernel errs to one side, and so do all its outputs, by much more than one
    of them errs by chance. The pictures go through the model twice at once, in float and rounded; each convolution
    shifts its rounded outputs to the mean of its float ones before the next layer sees them. Means that are off by less
    than three standard errors, as far as the pictures differ among themselves, stay: what a few pictures with outliers
    say would be a shift for all the others, too.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
    section 4.2, in its empirical form; the standard errors are this package's.

    Args:
        model: a model from `quantize_model` whose ranges are set. Changed in place: moving means of normalisations, and
            biases where there is no normalisation.
        data: inputs, as for `calibrate`, all in memory at once; a few dozen will do.

    Raises:
        ValueError: if `model` has no quantisers or `data` is empty.

    Example:

    >>> calibrate(quantized, photos)
    >>> correct_biases(quantized, photos[:32])
    """
    run_corrected(model, data, BiasCorrection())


def run_corrected(model, data, correction):
    """Runs `data` through a model twice at once, in float and rounded, with a `BiasCorrection` at each step."""
    data = pictures_of(data).astype("float32")
    convolutions, of_kernels = layers_with_kernels(model), kernel_quantizers(model)
    of_outputs = [
        layer for layer in model._flatten_layers() if isinstance(layer, FakeQuantize) and layer not in of_kernels
    ]
    if not convolutions and not of_outputs:
        raise ValueError(f"Model `{model.name}` has no quantisers: make it with `keras_mnv4.qat.quantize_model`.")
    if not len(data):
        raise ValueError("`data` must hold at least one input. Received none.")
    for layer in (*convolutions, *of_outputs):
        layer.correction = correction
    try:
        model(np.concatenate([data, data]), training=False)
    except BaseException:  # of much data, memory may run out
        correction.undo()
        raise
    finally:
        for layer in (*convolutions, *of_outputs):
            layer.correction = None
    correction.apply()


class BiasCorrection:
    """What layers do while batches are two halves, one in float and one rounded; and the shifts found."""

    def __init__(self):
        self._shifts = collections.defaultdict(list)

    def round_half(self, quantize, inputs):
        """`inputs` with its second half rounded."""
        exact, rounded = ops.split(inputs, 2)
        return ops.concatenate([exact, quantize(rounded)])

    def convolve(self, layer, inputs, convolve):
        """Both halves through `layer`'s convolution, the second shifted to the means of the first."""
        exact, rounded = ops.split(inputs, 2)
        exact = convolve(exact, layer.float_kernel())
        return self.shift(layer, exact, convolve(rounded, layer.quantized_kernel()))

    def shift(self, layer, exact, rounded):
        """What both halves go on with: outputs of a convolution in float, and rounded ones moved to their means."""
        if layer.norm is None and not layer.use_bias:  # nowhere to keep a shift
            return ops.concatenate([exact, rounded])
        axes = [axis for axis in (1, 2, 3) if axis != layer.channel_axis % 4]
        of_pictures = ops.mean(exact - rounded, axes, keepdims=True)
        shift = clear_mean(of_pictures)
        self._shifts[layer].append(ops.convert_to_numpy(shift).ravel())
        return ops.concatenate([exact, rounded + shift])

    def undo(self):
        """Takes back what was changed on the way; a correction of biases changes nothing before it is applied."""

    def apply(self):
        """Puts the shifts into the layers; into one that was called several times, their mean."""
        for layer, shifts in self._shifts.items():
            shift = np.mean(shifts, axis=0)
            if layer.norm is not None:
                layer.norm.moving_mean.assign(ops.convert_to_numpy(layer.norm.moving_mean) - shift)
            else:
                layer.bias.assign(ops.convert_to_numpy(layer.bias) + shift)


def clear_mean(values):
    """The mean over the first axis, which stays with length 1; zero where it may be chance that it is not zero.

    Args:
        values: tensor, of one picture or more.
    """
    mean = ops.mean(values, 0, keepdims=True)
    error = ops.std(values, 0, keepdims=True) / np.sqrt(values.shape[0])
    return ops.where(ops.abs(mean) > CLEAR * error, mean, 0.0)
