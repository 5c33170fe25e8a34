"""TFMOT's quantisers, hosted in Keras 3. The only file of the package that imports TFMOT.

TFMOT is written for Keras 2: its import sets `TF_USE_LEGACY_KERAS` and so turns the program's `tf.keras` into Keras 2.
Its quantiser objects, however, only ask their host for `add_weight` and work on raw `tf.Variable`s, so they run
unchanged inside a Keras 3 layer.
"""

import dataclasses
import functools
import os
import types

import keras
from keras import ops

from keras_mnv4.qat import quantizers

_LEGACY_SWITCH = "TF_USE_LEGACY_KERAS"
_TWINS = (
    quantizers.LastValueQuantizer,
    quantizers.MovingAverageQuantizer,
    quantizers.AllValuesQuantizer,
    quantizers.FixedQuantizer,
)


@functools.cache
def import_tfmot_quantizers():
    """Imports `tfmot.quantization.keras.quantizers`, leaving `tf.keras` and `os.environ` as they were."""
    import tensorflow as tf

    tf.keras.layers  # noqa: B018  resolves the lazy `tf.keras` to Keras 3 before TFMOT can redirect it
    before = os.environ.get(_LEGACY_SWITCH)
    try:
        from tensorflow_model_optimization.python.core.quantization.keras import quantizers as tfmot_quantizers
    finally:
        if before is None:
            os.environ.pop(_LEGACY_SWITCH, None)
        else:
            os.environ[_LEGACY_SWITCH] = before
    return tfmot_quantizers


def to_tfmot(quantizer):
    """TFMOT's own quantiser with the configuration of `quantizer`, or None where TFMOT has no equal.

    Args:
        quantizer: a `keras_mnv4.qat.quantizers.Quantizer`.

    Returns:
        A `tfmot.quantization.keras.quantizers.Quantizer`, or None. TFMOT's `FixedQuantizer` is 8 bits whatever its
        `num_bits` says, so other widths have no equal.
    """
    if isinstance(quantizer, quantizers.FixedQuantizer) and quantizer.num_bits != 8:
        return None
    if type(quantizer) not in _TWINS:
        return None
    return getattr(import_tfmot_quantizers(), type(quantizer).__name__)(**quantizer.get_config())


def from_tfmot(quantizer):
    """The quantiser of this package that does what a TFMOT one does: its portable twin, or a `TFMOTQuantizer`.

    Args:
        quantizer: a `tfmot.quantization.keras.quantizers.Quantizer`, or an object with its protocol.
    """
    kind = type(quantizer)
    bases = [base.__name__ for base in kind.__mro__ if kind.__module__.startswith("tensorflow_model_optimization.")]
    twin = next((twin for twin in _TWINS if twin.__name__ in bases), None)  # `Default8BitConvWeightsQuantizer` and such
    if twin is quantizers.FixedQuantizer and quantizer.num_bits != 8:
        twin = None
    return TFMOTQuantizer(quantizer) if twin is None else twin(**quantizer.get_config())


def quantizers_of(quantize_config):
    """`(weights, outputs)`: the first quantiser for each that a TFMOT `QuantizeConfig` has, or None."""
    # What configurations ask of a layer are its attributes; here one that has them all is enough.
    layer = types.SimpleNamespace(kernel=None, depthwise_kernel=None, pointwise_kernel=None, activation=None, bias=None)
    weights = [quantizer for _, quantizer in quantize_config.get_weights_and_quantizers(layer)]
    outputs = list(quantize_config.get_output_quantizers(layer))
    outputs += [quantizer for _, quantizer in quantize_config.get_activations_and_quantizers(layer)]
    return next(iter(weights), None), next(iter(outputs), None)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class TFMOTQuantizer(quantizers.Quantizer):
    """A quantiser of a class of one's own that speaks TFMOT's protocol. It runs on the TensorFlow backend only.

    Args:
        quantizer: the object. To be saved in files, its class must be registered with
            `keras.saving.register_keras_serializable` and have `from_config`, as TFMOT's base class does.
    """

    quantizer: object

    num_bits = property(lambda self: getattr(self.quantizer, "num_bits", 8))
    per_axis = property(lambda self: getattr(self.quantizer, "per_axis", False))
    narrow_range = property(lambda self: getattr(self.quantizer, "narrow_range", False))

    def build(self, tensor_shape, name, layer):
        return HostedQuantizer(self.quantizer).build(tensor_shape, name, layer)

    def __call__(self, inputs, training, weights):
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"{self.quantizer!r} is made for TensorFlow: set KERAS_BACKEND=tensorflow, or use a quantiser of "
                f"`keras_mnv4.qat`. The backend is {keras.backend.backend()!r}."
            )
        return HostedQuantizer(self.quantizer)(inputs, training, weights)

    def observed_range(self, inputs):
        axes = tuple(range(len(inputs.shape) - 1)) if self.per_axis else None
        return ops.minimum(ops.min(inputs, axes), 0.0), ops.maximum(ops.max(inputs, axes), 0.0)

    def get_config(self):
        return {"quantizer": keras.saving.serialize_keras_object(self.quantizer)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["quantizer"]))


class HostedQuantizer:
    """A TFMOT quantiser behind the portable protocol: Keras 3 variables in, raw `tf.Variable`s through.

    Under a `tf.distribute` strategy every replica sees a part of the batch. TFMOT would average their ranges; here each
    quantiser first learns the extremes of all replicas, so that ranges are those of the whole batch.

    Args:
        quantizer: a `tfmot.quantization.keras.quantizers.Quantizer`.
    """

    def __init__(self, quantizer):
        self.quantizer = quantizer

    def build(self, tensor_shape, name, layer):
        return self.quantizer.build(tensor_shape, name, layer) or {}

    def __call__(self, inputs, training, weights):
        raw = {key: variable.value for key, variable in weights.items()}
        training = bool(training)
        if training and self._is_per_axis:
            return self._round_quickly(inputs, raw)
        return self._round(inputs, training, raw)

    @property
    def _is_per_axis(self):
        return type(self.quantizer) is import_tfmot_quantizers().LastValueQuantizer and self.quantizer.per_axis

    def _round(self, inputs, training, raw):
        replicas = _replicas()
        if training and raw and replicas is not None:
            self.quantizer(self._extremes(inputs, replicas), True, raw)  # for the update of its variables
            training = False
        return self.quantizer(inputs, training, raw)

    def _round_quickly(self, inputs, raw):
        """`_round` in training, with a gradient of our own."""
        import tensorflow as tf

        rounded = self._round(tf.stop_gradient(inputs), True, raw)
        low, high = (tf.convert_to_tensor(raw[end]) for end in ("min_var", "max_var"))

        @tf.custom_gradient
        def straight_through(inputs):
            def gradient(upstream):
                is_beyond = quantizers.saturates(
                    inputs, low, high, self.quantizer.num_bits, self.quantizer.narrow_range
                )
                return tf.where(is_beyond, 0.0, upstream)

            return tf.identity(rounded), gradient

        return straight_through(inputs)

    def _extremes(self, inputs, replicas):
        """The smallest and the largest value of each replica's inputs, for each index of the last axis if asked for."""
        import tensorflow as tf

        axes = tuple(range(len(inputs.shape) - 1)) if self.quantizer.per_axis else None
        extremes = tf.stack([tf.reduce_min(inputs, axes), tf.reduce_max(inputs, axes)])
        return replicas.all_gather(tf.stop_gradient(extremes), axis=0)


def _replicas():
    """The `tf.distribute.ReplicaContext` of a step that runs on several devices, else None."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context
