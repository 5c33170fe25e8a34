"""`optimize_rounding`: rounds the weights of a kernel together, so that their errors cancel on real pictures."""

import dataclasses
import itertools

import numpy as np
from keras import layers
from keras import ops

from keras_mnv4.qat.bias_correction import BiasCorrection
from keras_mnv4.qat.bias_correction import run_corrected
from keras_mnv4.qat.grid import Grid
from keras_mnv4.qat.stock.wrapper import QuantizeWrapper

DAMPING = 0.01  # of the mean square of the inputs, added to each one's: GPTQ's constant
MAX_PATCHES = 40_000  # that the correlations of a layer's inputs are estimated from


def optimize_rounding(model, data):
    """Rounds the kernels of a calibrated model for the least error of each layer's outputs, and corrects its biases.

    Rounding each weight to the nearest code is best for the weights, not for what is computed with them. Here the
    weights of a channel are rounded one after the other, and each one's error is made up for by those still to come,
    as far as the inputs are correlated on `data`. The kernels end on codes of their ranges, which stay. Those without
    equal steps, such as powers of two, stay as they are. It takes a minute or two for a network of five million
    weights, and is worth most without training afterwards.

    Source: Frantar et al., "GPTQ" (arXiv 2210.17323), section 3, here for convolutions; and for the biases as
    `correct_biases`.

    Args:
        model: a model from `quantize_model` whose ranges are set. Changed in place: kernels, and what `correct_biases`
            changes.
        data: inputs, as for `calibrate`, all in memory at once; a hundred or so.

    Raises:
        ValueError: if `model` has no quantisers or `data` is empty.

    Example:

    >>> calibrate(quantized, photos)
    >>> optimize_rounding(quantized, photos[:128])
    """
    run_corrected(model, data, _RoundingCorrection())


class _RoundingCorrection(BiasCorrection):
    """A bias correction that rounds the kernel of each convolution first, knowing its (first) rounded inputs."""

    def __init__(self):
        super().__init__()
        self._kernels = {}  # as they were: the variable, its value, and what is convolved with

    def convolve(self, layer, inputs, convolve):
        if not layer.kernel_quantizer.quantizer.has_equal_steps:
            return super().convolve(layer, inputs, convolve)
        exact, rounded = ops.split(inputs, 2)
        if layer not in self._kernels:
            variable, factor = getattr(layer, "layer", layer).kernel, getattr(layer, "kernel_factor", 1.0)
            found = round_kernel(layer, ops.convert_to_numpy(rounded)) / factor
            before = np.array(ops.convert_to_numpy(variable)), np.array(ops.convert_to_numpy(layer.float_kernel()))
            self._kernels[layer] = variable, *before
            variable.assign(found.reshape(variable.shape))
        exact = convolve(exact, ops.cast(self._kernels[layer][2], exact.dtype))
        return self.shift(layer, exact, convolve(rounded, layer.quantized_kernel()))

    def undo(self):
        for variable, value, _ in self._kernels.values():
            variable.assign(value)


def round_kernel(layer, inputs):
    """The kernel of a layer, as its `float_kernel` is, on the grid of its range, for the least error on `inputs`.

    Args:
        layer: a `ConvNormAct`, or a `QuantizeWrapper` of a layer with a kernel.
        inputs: maps, as the layer convolves them.
    """
    inputs, kernel = inputs.astype("float32"), ops.convert_to_numpy(layer.float_kernel())
    quantizer = layer.kernel_quantizer
    grid = Grid.over(*quantizer.range, quantizer.quantizer.num_bits, quantizer.quantizer.narrow_range)
    window = _Window.of(layer)
    patches = window.patches(inputs)
    taps, channels = patches.shape[-2:]
    patches = _sample(patches.reshape(-1, taps, channels))
    if window.depthwise:  # a small problem for each channel
        weights = kernel.reshape(taps, -1).T[..., None]
        patches = np.repeat(patches.transpose(2, 0, 1), len(weights) // channels, axis=0)
        grid = grid.for_each(len(weights))
    else:
        patches, weights = patches.reshape(len(patches), -1), kernel.reshape(taps * channels, -1)
    correlations = np.matmul(np.swapaxes(patches, -1, -2), patches) / patches.shape[-2]
    rounded = round_together(weights, correlations, grid)
    return (rounded[..., 0].T if window.depthwise else rounded).reshape(kernel.shape)


def round_together(weights, correlations, grid):
    """Rounds columns of weights so that their products with inputs change least, in the mean of squares.

    Args:
        weights: array `(..., inputs, outputs)`.
        correlations: array `(..., inputs, inputs)`: means of the products of two inputs.
        grid: a `Grid` whose scales broadcast to `(..., outputs)`.

    Returns:
        float32 array of the shape of `weights`, on the grid.
    """
    count = weights.shape[-2]
    power = np.trace(correlations, axis1=-2, axis2=-1)[..., None, None] / count
    damped = correlations + (DAMPING * power + 1e-12) * np.eye(count)
    # Row i of this factor says how the weights after the i-th make up for an error of the i-th.
    factor = np.swapaxes(np.linalg.cholesky(np.linalg.inv(damped.astype("float64"))), -1, -2)
    weights, rounded = weights.astype("float64"), np.empty(weights.shape, "float32")
    for index in range(count):
        column = weights[..., index, :]
        rounded[..., index, :] = grid.values(grid.codes(column))
        error = (column - rounded[..., index, :]) / factor[..., index, index, None]
        weights[..., index + 1 :, :] -= factor[..., index, index + 1 :, None] * error[..., None, :]
    return rounded


@dataclasses.dataclass(frozen=True)
class _Window:
    """What of its inputs each output of a convolution sees. Pairs are of rows and columns."""

    size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str = "valid"
    data_format: str = "channels_last"
    depthwise: bool = False

    @classmethod
    def of(cls, layer):
        if not isinstance(layer, QuantizeWrapper):
            size, strides = (layer.kernel_size,) * 2, (layer.conv_strides,) * 2
            padding = "same" if layer.conv_strides == 1 else layer.padding
            return cls(size, strides, (1, 1), padding, layer.data_format, layer.depthwise)
        stock = layer.layer
        if isinstance(stock, layers.Dense):
            return cls()
        depthwise = isinstance(stock, layers.DepthwiseConv2D)
        return cls(stock.kernel_size, stock.strides, stock.dilation_rate, stock.padding, stock.data_format, depthwise)

    def patches(self, inputs):
        """`(batch, height, width, taps, channels)`."""
        if self.data_format == "channels_first":
            inputs = inputs.transpose(0, 2, 3, 1)
        margins, counts = [], []
        for side, size, step, spread in zip(inputs.shape[1:3], self.size, self.strides, self.dilation, strict=True):
            extent = (size - 1) * spread + 1
            if self.padding == "symmetric":
                margins.append((size // 2, size // 2))
            else:
                missing = max((-(-side // step) - 1) * step + extent - side, 0) if self.padding == "same" else 0
                margins.append((missing // 2, missing - missing // 2))
            counts.append((side + sum(margins[-1]) - extent) // step + 1)
        inputs = np.pad(inputs, [(0, 0), *margins, (0, 0)])
        places = [
            [slice(tap * spread, tap * spread + (count - 1) * step + 1, step) for tap in range(size)]
            for size, step, spread, count in zip(self.size, self.strides, self.dilation, counts, strict=True)
        ]
        return np.stack([inputs[:, rows, columns] for rows, columns in itertools.product(*places)], axis=-2)


def _sample(patches):
    """At most `MAX_PATCHES` of `patches`, evenly spread."""
    chosen = np.linspace(0, len(patches) - 1, min(len(patches), MAX_PATCHES)).astype(int)
    return patches[chosen]
