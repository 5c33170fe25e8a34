"""`calibrate`: ranges from data."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_mnv4.batches import batches_of
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.grid import Grid
from keras_mnv4.qat.quantizers import FixedQuantizer
from keras_mnv4.qat.stock.pictures import BYTES
from keras_mnv4.qat.stock.pictures import is_picture

METHODS = ("minmax", "mse")
SHARES = np.linspace(1.0, 0.2, 33)  # of a range's larger end, that "mse" tries as the farthest end
VALUES = 20_000  # of a batch, drawn at random, that errors are measured on


def calibrate(model, data, batch_size=32, method=None):
    """Sets the ranges of a fake-quantised model from a sample of real inputs.

    | method | the range of an activation |
    |---|---|
    | `"minmax"` | the mean over batches of their smallest and largest values, where training's moving average settles |
    | `"mse"` | that one, with its ends drawn in to where the mean square of the rounding errors is least |

    With few codes a finer grid is worth the values that it cuts off; with 256 it is not, and those often matter most.
    Weights take their own range, and the bounds of AQT are its own affair. An activation that is zero for all of `data`
    keeps the range that it had.

    Args:
        model: a model from `quantize_model`. Changed in place.
        data: array of inputs `(count, height, width, channels)`, or a `tf.data.Dataset` or `keras.utils.PyDataset` of
            batches, with labels or without; a hundred inputs or so will do.
        batch_size: inputs a batch, of an array.
        method: `"minmax"` or `"mse"` for all; None for `"mse"` where there are fewer than 8 bits, else `"minmax"`.

    Raises:
        ValueError: if `model` has no quantisers, `data` is empty or not numbers, `method` is unknown, or values are not
            finite; ranges are as before then.

    Warns:
        UserWarning: if `model` scales bytes itself, and `data` are pictures in [0, 1] or [-1, 1].

    Example:

    >>> quantized = quantize_model(model, "w8a8")
    >>> calibrate(quantized, photos)
    """
    if method not in (None, *METHODS):
        raise ValueError(f"`method` must be one of {METHODS}, or None. Received: method={method!r}")
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, FakeQuantize)]
    if not layers:
        raise ValueError(f"Model `{model.name}` has no quantisers: make it with `keras_mnv4.qat.quantize_model`.")
    first, _ = next(batches_of(data, batch_size), (None, None))
    if first is None:
        raise ValueError("`data` must hold at least one input. Received none.")
    _warn_of_scaled_pictures(model, first)
    ranged = [layer for layer in layers if layer.has_range]
    _observe(layers, {layer: _Ends(layer) for layer in ranged}, model, batches_of(data, batch_size))
    narrowed = [layer for layer in ranged if _is_narrowed(layer.quantizer, method)]
    if narrowed:
        _observe(layers, {layer: _Errors(layer) for layer in narrowed}, model, batches_of(data, batch_size))


def _warn_of_scaled_pictures(model, data):
    """A range of bytes is taken for known, not measured: of pictures in [0, 1] all is rounded to black or nearly so."""
    if isinstance(data, (tuple, list, dict)):  # of several inputs, of which some may be pictures
        return
    takes_bytes = any(_is_of_bytes(layer) for layer in getattr(model, "layers", ()))
    if takes_bytes and np.max(np.abs(data)) <= 1 and np.any(data != np.rint(data)):
        warnings.warn(
            f"`data` has values from {np.min(data):.3g} to {np.max(data):.3g}, but model `{model.name}` scales its "
            "inputs as bytes, 0 to 255: give it those, or build it without the scaling.",
            stacklevel=3,
        )


def _is_of_bytes(layer):
    if not isinstance(layer, FakeQuantize) or not isinstance(layer.quantizer, FixedQuantizer):
        return False
    is_scaled = isinstance(layer.input._keras_history.operation, keras.layers.Rescaling)
    return is_scaled or (layer.quantizer == BYTES and is_picture(layer.input))


def _is_narrowed(quantizer, method):
    is_asked_for = method == "mse" or (method is None and quantizer.num_bits < 8)
    return is_asked_for and quantizer.can_be_narrowed and not quantizer.per_axis


def _observe(layers, observers, model, batches):
    """Runs batches unrounded and sets ranges to what observers make of it, `{FakeQuantize: observer}`."""
    try:
        for layer in layers:
            layer.observer = observers.get(layer, _Observer())
        for inputs, _ in batches:
            model(inputs, training=False)
    finally:
        for layer in layers:
            layer.observer = None
    ranges = {layer: observer.range for layer, observer in observers.items() if observer.seen}
    for layer, ends in ranges.items():
        if not np.isfinite([ops.convert_to_numpy(end) for end in ends]).all():
            raise ValueError(
                f"Values at `{layer.path}` of model `{model.name}` are not finite: look for NaN in `data` and in the "
                "weights."
            )
    for layer, ends in ranges.items():
        layer.set_range(*ends)


class _Observer:
    """Lets values through, and keeps in `seen` what it is to know of each batch of them: nothing."""

    def __init__(self):
        self.seen = []

    def see(self, quantizer, values):
        pass


class _Ends(_Observer):
    """The mean of the ends of batches. What was zero throughout says nothing of its range, and keeps the one it had."""

    def __init__(self, layer):
        super().__init__()
        self.before = layer.range

    def see(self, quantizer, values):
        self.seen.append(quantizer.observed_range(values))

    @property
    def range(self):
        low, high = (ops.mean(ops.stack(ends), axis=0) for ends in zip(*self.seen, strict=True))
        is_empty = ops.equal(low, high)
        return tuple(ops.where(is_empty, *each) for each in zip(self.before, (low, high), strict=True))


class _Errors(_Observer):
    """The range of least squared error, of those within the range that there is."""

    def __init__(self, layer):
        super().__init__()
        low, high = layer.range
        ends = SHARES * low, SHARES * high
        if not layer.quantizer.symmetric:
            farthest = SHARES * max(-low, high)
            ends = np.maximum(low, -farthest), np.minimum(high, farthest)
        self.candidates = list(zip(*ends, strict=True))
        self.random = np.random.default_rng(0)

    def see(self, quantizer, values):
        values = ops.convert_to_numpy(values).ravel()
        if len(values) > VALUES:
            values = self.random.choice(values, VALUES)
        grids = [_grid_in_use(quantizer, *ends) for ends in self.candidates]
        self.seen.append([np.mean((grid.values(grid.codes(values)) - values) ** 2) for grid in grids])

    @property
    def range(self):
        return self.candidates[np.argmin(np.mean(self.seen, axis=0))]


def _grid_in_use(quantizer, *ends):
    """What a quantiser rounds to with a range, which `DoubleQuantizer` changes."""
    used = quantizer.used_range(*(ops.convert_to_tensor(end, "float32") for end in ends))
    return Grid.over(*map(ops.convert_to_numpy, used), quantizer.num_bits, quantizer.narrow_range)
