"""What a model computes by quantisers that integer operators have: 8 bits for fewer, a range for each channel."""

import contextlib

import numpy as np
from keras import ops

from keras_mnv4.export.verify import ExportError
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.fake_quantize import kernel_quantizers
from keras_mnv4.qat.grid import Grid
from keras_mnv4.qat.power_of_two import PowerOfTwoQuantizer
from keras_mnv4.qat.quantizers import fake_quantize

HANDING_ON = (  # what gives no negative numbers for none
    "AvgPool",
    "FakeQuantWithMinMaxArgs",
    "FakeQuantWithMinMaxVars",
    "Identity",
    "MaxPool",
    "Mean",
    "Reshape",
    "ResizeBilinear",
    "ResizeNearestNeighbor",
)
NEVER_NEGATIVE = ("Relu", "Relu6", "Sigmoid", "Softmax")
COMBINING = ("AddV2", "Mul")


@contextlib.contextmanager
def int8_containers(model, keep_int4=False):
    """While it lasts, `model` computes what it did, and a converter finds nothing but 8-bit quantisers.

    Kernels have a range for each channel, into which it can fold the factors of a normalisation.

    A code of fewer bits is an 8-bit code of the same scale that stays within bounds. Rounded kernels do so by
    themselves. Activations must be clipped: at the top by a zero point that puts their largest code at 127, at the
    bottom by an activation function that ends there, or a maximum.

    Args:
        model: a fake-quantised Keras model.
        keep_int4: whether kernels of 4 bits stay of 4 bits, for a converter that packs them.

    Raises:
        ExportError: if a kernel has no form in integers; the message names the layer.
    """
    kernels = kernel_quantizers(model)
    engines = {layer: _kernel_engine(layer, keep_int4) for layer in kernels}
    engines |= {
        layer: _ActivationContainer(layer)
        for layer in model._flatten_layers()
        if isinstance(layer, FakeQuantize) and layer not in kernels and not _has_eight_bits(layer.quantizer)
    }
    before = {layer: layer.engine for layer in engines}
    try:
        for layer, engine in engines.items():
            layer.engine = engine
        if engines:
            model(np.zeros((1, *model.input_shape[1:]), "float32"))  # here containers of kernels see their constants
        yield
    finally:
        for layer, engine in before.items():
            layer.engine = engine


def _kernel_engine(layer, keep_int4):
    quantizer = layer.quantizer
    if not (_has_eight_bits(quantizer) or (keep_int4 and _is_int4(quantizer))):
        return _KernelContainer(layer)
    _check_centred(layer)
    return layer.engine if getattr(quantizer, "per_axis", False) else _EachChannel(layer)


def _has_eight_bits(quantizer):
    return quantizer.num_bits == 8 and quantizer.has_equal_steps


def _is_int4(quantizer):
    return quantizer.num_bits == 4 and not isinstance(quantizer, PowerOfTwoQuantizer)


def _check_centred(layer):
    grid, (low, high) = _grid(layer), layer.range
    if np.any((grid.zero_point != (grid.last + 1) // 2) & (low != high)):  # a kernel of zeros has no range
        raise ExportError(
            f"The kernel of `{layer.path}` has a range that is not centred on zero, which TFLite's operators cannot "
            "have: use a quantiser of `symmetric=True` for it."
        )


def _grid(layer):
    return Grid.over(*layer.range, layer.quantizer.num_bits, layer.quantizer.narrow_range)


class _EachChannel:
    """Rounds a kernel as its quantiser does, whose one range each channel has for itself."""

    def __init__(self, layer):
        self._range, self._quantizer = layer.range, layer.quantizer

    def __call__(self, inputs, training, state):
        low, high = (np.full(inputs.shape[-1], end, "float32") for end in self._range)
        how = self._quantizer.num_bits, self._quantizer.narrow_range
        return fake_quantize(inputs, low, high, *how, per_axis=True)


class _KernelContainer:
    """Rounds a kernel by its own quantiser; then, as a constant, to an 8-bit grid that holds those values."""

    def __init__(self, layer):
        self._engine = layer.engine
        scale, largest = _steps(layer)
        # Codes may be multiples of some number. The larger, the finer the steps of the integer bias.
        self._end = 127 * scale / np.float32(127 // largest)
        self._rounded = None

    def __call__(self, inputs, training, state):
        if self._rounded is None:
            self._rounded = ops.convert_to_numpy(self._engine(inputs, training, state))
        end = np.broadcast_to(self._end, self._rounded.shape[-1:])
        return fake_quantize(self._rounded, -end, end, 8, narrow_range=True, per_axis=True)


def _steps(layer):
    """The step of a kernel's values, and how many steps the largest is away from zero."""
    quantizer = layer.quantizer
    if isinstance(quantizer, PowerOfTwoQuantizer):
        largest = 2 ** (quantizer.num_exponents - 1)
        if largest > 127:
            raise ExportError(
                f"The kernel of `{layer.path}` has {quantizer.num_exponents} powers of two, more than 8-bit integers "
                "hold: use `PowerOfTwoQuantizer` with `has_zero=True` and 4 bits or fewer."
            )
        return layer.range[1] / np.float32(largest), largest
    grid = _grid(layer)
    return grid.scale, max(np.max(grid.zero_point - grid.first), np.max(grid.last - grid.zero_point))


class _ActivationContainer:
    """Rounds to the 8-bit grid whose last codes are those of a quantiser of fewer bits, and clips to these."""

    def __init__(self, layer):
        grid = _grid(layer)
        self._floor, ceiling = grid.ends
        self._range = ceiling - 255 * grid.scale, ceiling

    def __call__(self, inputs, training, state):
        outputs = fake_quantize(inputs, *self._range, 8)
        if self._floor == 0 and _is_never_negative(inputs):
            return outputs
        return fake_quantize(ops.maximum(outputs, self._floor), *self._range, 8)


def _is_never_negative(tensor):
    """Whether a tensor of a TensorFlow graph is a relu or a sigmoid, or a mean, product or sum of what is."""
    if not hasattr(tensor, "op") or not tensor.op.inputs:  # outside a graph, or a constant
        return False
    if tensor.op.type in NEVER_NEGATIVE:
        return True
    if tensor.op.type in COMBINING:
        return all(_is_never_negative(each) for each in tensor.op.inputs)
    return tensor.op.type in HANDING_ON and _is_never_negative(tensor.op.inputs[0])
