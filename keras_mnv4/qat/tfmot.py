"""TFMOT's quantisers, hosted in Keras 3. The only file of the package that imports TFMOT.

TFMOT is written for Keras 2: its import sets `TF_USE_LEGACY_KERAS` and so turns the program's `tf.keras` into Keras 2.
Its quantiser objects, however, only ask their host for `add_weight` and work on raw `tf.Variable`s, so they run
unchanged inside a Keras 3 layer.
"""

import functools
import os

from keras_mnv4.qat import quantizers

_LEGACY_SWITCH = "TF_USE_LEGACY_KERAS"


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
    twins = (
        quantizers.LastValueQuantizer,
        quantizers.MovingAverageQuantizer,
        quantizers.AllValuesQuantizer,
        quantizers.FixedQuantizer,
    )
    if type(quantizer) not in twins:
        return None
    return getattr(import_tfmot_quantizers(), type(quantizer).__name__)(**quantizer.get_config())


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
        replicas = _replicas()
        if training and raw and replicas is not None:
            self.quantizer(self._extremes(inputs, replicas), True, raw)  # for the update of its variables
            training = False
        return self.quantizer(inputs, training, raw)

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
