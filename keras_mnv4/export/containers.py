"""Fewer bits in 8-bit containers: for files of models whose codes are narrower than the operators they run on."""

import contextlib

import numpy as np
from keras import ops

from keras_mnv4.export.verify import ExportError
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.grid import Grid
from keras_mnv4.qat.power_of_two import PowerOfTwoQuantizer
from keras_mnv4.qat.quantizers import fake_quantize

HANDING_ON = ("AvgPool", "FakeQuantWithMinMaxVars", "Identity", "MaxPool", "Mean", "Reshape")


@contextlib.contextmanager
def int8_containers(model, keep_int4=False):
    """While it lasts, `model` computes what it did, and a converter finds nothing but 8-bit quantisers.

    A code of fewer bits is an 8-bit code of the same scale that stays within bounds. Rounded kernels do so by
    themselves. Activations must be clipped: at the top by a zero point that puts their largest code at 127, at the
    bottom by an activation function that ends there, or a maximum.

    Args:
        model: a fake-quantised Keras model.
        keep_int4: whether kernels of 4 bits stay as they are, for a converter that packs them.
    """
    layers = model._flatten_layers()
    kernels = {id(layer.kernel_quantizer) for layer in layers if getattr(layer, "kernel_quantizer", None)}
    narrow = [layer for layer in layers if isinstance(layer, FakeQuantize) and layer.quantizer.num_bits < 8]
    if keep_int4:
        narrow = [layer for layer in narrow if id(layer) not in kernels or not _is_int4(layer.quantizer)]
    before = [layer.engine for layer in narrow]
    try:
        for layer in narrow:
            container = _KernelContainer if id(layer) in kernels else _ActivationContainer
            layer.engine = container(layer)
        if narrow:
            model(np.zeros((1, *model.input_shape[1:]), "float32"))  # here containers of kernels see their constants
        yield
    finally:
        for layer, engine in zip(narrow, before, strict=True):
            layer.engine = engine


def _is_int4(quantizer):
    return quantizer.num_bits == 4 and not isinstance(quantizer, PowerOfTwoQuantizer)


class _KernelContainer:
    """Rounds a kernel by its own quantiser; then, as a constant, to an 8-bit grid that holds those values."""

    def __init__(self, layer):
        self._engine = layer.engine
        self._per_axis = layer.quantizer.per_axis
        scale, largest = _steps(layer)
        # Codes may be multiples of some number. The larger, the finer the steps of the integer bias.
        self._end = 127 * scale / np.float32(127 // largest)
        self._rounded = None

    def __call__(self, inputs, training, state):
        if self._rounded is None:
            self._rounded = ops.convert_to_numpy(self._engine(inputs, training, state))
        return fake_quantize(self._rounded, -self._end, self._end, 8, narrow_range=True, per_axis=self._per_axis)


def _steps(layer):
    """The step of a kernel's values, and how many steps the largest is away from zero."""
    low, high = layer.range
    quantizer = layer.quantizer
    if isinstance(quantizer, PowerOfTwoQuantizer):
        largest = 2 ** (quantizer.num_exponents - 1)
        if largest > 127:
            raise ExportError(
                f"The kernel of `{layer.path}` has {quantizer.num_exponents} powers of two, more than 8-bit integers "
                "hold: use `PowerOfTwoQuantizer` with `has_zero=True` and 4 bits or fewer."
            )
        return high / np.float32(largest), largest
    grid = Grid.over(low, high, quantizer.num_bits, quantizer.narrow_range)
    return grid.scale, max(np.max(grid.zero_point - grid.first), np.max(grid.last - grid.zero_point))


class _ActivationContainer:
    """Rounds to the 8-bit grid whose last codes are those of a quantiser of fewer bits, and clips to these."""

    def __init__(self, layer):
        grid = Grid.over(*layer.range, layer.quantizer.num_bits, layer.quantizer.narrow_range)
        self._floor, ceiling = grid.ends
        self._range = ceiling - 255 * grid.scale, ceiling

    def __call__(self, inputs, training, state):
        outputs = fake_quantize(inputs, *self._range, 8)
        if self._floor == 0 and _is_never_negative(inputs):
            return outputs
        return fake_quantize(ops.maximum(outputs, self._floor), *self._range, 8)


def _is_never_negative(tensor):
    """Whether a tensor of a TensorFlow graph is a relu, or a mean of what is."""
    if not hasattr(tensor, "op") or not tensor.op.inputs:  # outside a graph, or a constant
        return False
    if tensor.op.type in ("Relu", "Relu6"):
        return True
    return tensor.op.type in HANDING_ON and _is_never_negative(tensor.op.inputs[0])
