"""`correct_biases`: takes back the shift that rounding gives the mean of every channel."""

import numpy as np
from keras import ops

_running = None  # the correction under way: what layers consult while they are called


def correct_biases(model, data):
    """Shifts the biases of a calibrated model so that rounding no longer moves the mean of any channel.

    Rounding the few weights of a channel's kernel errs to one side, and so do all its outputs, by much more than one
    of them errs by chance. The pictures go through the model twice at once, in float and rounded; each convolution
    shifts its rounded outputs to the mean of its float ones before the next layer sees them.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
    section 4.2, in its empirical form.

    Args:
        model: a model from `quantize_model` whose ranges are set. Changed in place: moving means of normalisations, and
            biases where there is no normalisation.
        data: array of inputs `(count, height, width, channels)`, all in memory at once; a few dozen will do.

    Example:

    >>> calibrate(quantized, photos)
    >>> correct_biases(quantized, photos[:32])
    """
    data = np.asarray(data, "float32")
    with BiasCorrection() as correction:
        model(np.concatenate([data, data]), training=False)
    correction.apply()


class BiasCorrection:
    """The mode in which batches are two halves, one in float and one rounded, and the shifts found in it."""

    def __init__(self):
        self._shifts = []

    def __enter__(self):
        _set_running(self)
        return self

    def __exit__(self, *_):
        _set_running(None)

    @staticmethod
    def running():
        """The correction under way, or None."""
        return _running

    @staticmethod
    def round_half(quantize, inputs):
        """`inputs` with its second half rounded."""
        exact, rounded = ops.split(inputs, 2)
        return ops.concatenate([exact, quantize(rounded)])

    def convolve(self, layer, inputs, convolve):
        """Both halves through `layer`'s convolution, the second shifted to the means of the first."""
        exact, rounded = ops.split(inputs, 2)
        _set_running(None)  # a kernel has no halves
        kernel = layer.quantized_kernel()
        _set_running(self)
        exact = convolve(exact, layer.float_kernel())
        rounded = convolve(rounded, kernel)
        axes = [axis for axis in range(4) if axis != layer.channel_axis % 4]
        shift = ops.mean(exact - rounded, axes, keepdims=True)
        self._shifts.append((layer, ops.convert_to_numpy(shift).ravel()))
        return ops.concatenate([exact, rounded + shift])

    def apply(self):
        """Puts the shifts into the layers."""
        for layer, shift in self._shifts:
            if layer.norm is not None:
                layer.norm.moving_mean.assign(ops.convert_to_numpy(layer.norm.moving_mean) - shift)
            elif layer.use_bias:
                layer.bias.assign(ops.convert_to_numpy(layer.bias) + shift)


def _set_running(correction):
    global _running
    _running = correction
