"""`FakeQuantize`: the layer that hosts one quantiser."""

import keras
import numpy as np
from keras import ops

from keras_mnv4.qat import quantizers

RANGE_NAMES = ["range_min", "range_max"]  # of all variables that quantisers keep


@keras.saving.register_keras_serializable(package="keras_mnv4")
class FakeQuantize(keras.layers.Layer):
    """Rounds a tensor to a few bits while training goes on as if in float.

    Args:
        quantizer: a `keras_mnv4.qat.quantizers.Quantizer`. On the TensorFlow backend TFMOT's class of the same name
            does the work, on the others the portable one; both keep the same variables, so a `.keras` file made with
            one loads with the other.
        axis: the channels' axis, which per-axis quantisers keep a range for each index of.

    Input shape: any. Output shape: the same.

    Raises:
        TypeError: if `quantizer` is not a `Quantizer`.

    Example:

    >>> layer = FakeQuantize(FixedQuantizer(num_bits=2, init_min=0.0, init_max=3.0))
    >>> layer(np.array([0.4, 1.6, 9.0]))  # [0., 2., 3.]
    """

    def __init__(self, quantizer, axis=-1, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if not isinstance(quantizer, quantizers.Quantizer):
            raise TypeError(f"`quantizer` must be a `keras_mnv4.qat.Quantizer`. Received: quantizer={quantizer!r}")
        self.quantizer = quantizer
        self.axis = axis
        self.observer = None  # while `calibrate` runs, what sees the values; they are not rounded then
        self.correction = None  # a `BiasCorrection` while `correct_biases` runs

    def build(self, input_shape):
        self.engine = _engine(self.quantizer)
        shape = tuple(input_shape)
        if self._moves_axis(len(shape)):
            shape = (*shape[: self.axis], *shape[self.axis + 1 :], shape[self.axis])
        self._state = self.engine.build(shape, "range", _WeightHost(self))

    def call(self, inputs, training=False):
        if self._moves_axis(len(inputs.shape)):
            return ops.moveaxis(self._process(ops.moveaxis(inputs, self.axis, -1), training), -1, self.axis)
        return self._process(inputs, training)

    def _moves_axis(self, rank):
        """Whether the channels are to be moved to the end, where per-axis quantisers take them."""
        return self.axis not in (-1, rank - 1) and getattr(self.quantizer, "per_axis", False)

    def _process(self, inputs, training):
        if self.observer is not None:
            self.observer.see(self.quantizer, ops.cast(inputs, "float32"))
            return inputs
        if self.correction is not None:
            return self.correction.round_half(self._round, inputs)
        return self._round(inputs, training)

    def _round(self, inputs, training=False):
        outputs = self.engine(ops.cast(inputs, "float32"), training, self._state)
        return ops.cast(outputs, inputs.dtype)

    def round_again(self, inputs):
        """Rounds other values to the grid of those that went through this layer, whose range is not touched."""
        if self.observer is not None:
            return inputs
        if self.correction is not None:
            return self.correction.round_half(self._round, inputs)
        return self._round(inputs)

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def set_range_from(self, inputs):
        """Sets the range to that of `inputs`."""
        if self.has_range:
            self.set_range(*self.quantizer.observed_range(ops.cast(inputs, "float32")))

    def widen_range(self, least):
        """Makes the range of each channel reach from `-least` to `least` where it does not yet.

        A range that channels share stays: what one of them needs would be too wide for all others.
        """
        if self.has_range and len(self._state["max_var"].shape):
            low, high = (ops.convert_to_tensor(self._state[name]) for name in ("min_var", "max_var"))
            self.set_range(ops.minimum(low, -least), ops.maximum(high, least))

    @property
    def range(self):
        """The `(low, high)` in use, as float32 arrays of one value, or of one a channel.

        Raises:
            ValueError: if the quantiser keeps none.
        """
        if self.has_range:
            stored = (ops.convert_to_tensor(self._state[name]) for name in ("min_var", "max_var"))
            return tuple(ops.convert_to_numpy(end) for end in self.quantizer.used_range(*stored))
        if not hasattr(self.quantizer, "init_min"):
            raise ValueError(f"The quantiser of `{self.path}` keeps no range: {self.quantizer!r}")
        return np.float32(self.quantizer.init_min), np.float32(self.quantizer.init_max)

    @property
    def is_rounding(self):
        """Whether values are rounded yet: AQT's feature maps are not until their bounds are computed."""
        return not self.has_range or bool(np.all(self.range[1] >= 0))

    @property
    def has_range(self):
        """Whether there is a range to set; that of a `FixedQuantizer` is known, powers of two may have none."""
        return "min_var" in self._state

    def set_range(self, low, high):
        """Sets the stored range: two numbers, or two arrays of one a channel."""
        self._state["min_var"].assign(low)
        self._state["max_var"].assign(high)

    def get_config(self):
        quantizer = keras.saving.serialize_keras_object(self.quantizer)
        return {**super().get_config(), "quantizer": quantizer, "axis": self.axis}

    @classmethod
    def from_config(cls, config):
        config = {**config, "quantizer": keras.saving.deserialize_keras_object(config["quantizer"])}
        return cls(**config)


def is_quantized(model):
    """Whether `model` is fake-quantised."""
    return any(isinstance(layer, FakeQuantize) for layer in model._flatten_layers())


def layers_with_kernels(model):
    """The layers of `model` whose kernels are rounded."""
    return [layer for layer in model._flatten_layers() if getattr(layer, "kernel_quantizer", None) is not None]


def kernel_quantizers(model):
    """The `FakeQuantize` layers of `model` that round kernels."""
    return [layer.kernel_quantizer for layer in layers_with_kernels(model)]


def _engine(quantizer):
    """The object that runs `quantizer` on this backend."""
    if keras.backend.backend() == "tensorflow":
        from keras_mnv4.qat import tfmot

        twin = tfmot.to_tfmot(quantizer)
        if twin is not None:
            return tfmot.HostedQuantizer(twin)
    return quantizer


class _WeightHost:
    """Gives a Keras 3 layer the `add_weight` signature that TFMOT's quantisers call."""

    def __init__(self, layer):
        self._layer = layer

    def add_weight(self, name, initializer, trainable, shape=None):
        shape = () if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        value = initializer.get_config()["value"]  # of Keras 2 or Keras 3: both are `Constant`
        return self._layer.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(value),
            trainable=trainable,
            name=name,
            dtype="float32",
            autocast=False,
        )
