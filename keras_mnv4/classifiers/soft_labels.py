"""`SoftLabelLoss`: the loss with which networks are searched for on made-up pictures."""

import keras
from keras import ops

from keras_mnv4.classifiers.outputs import log_probabilities

TEMPERATURE = 3.0


@keras.saving.register_keras_serializable(package="keras_mnv4")
class SoftLabelLoss(keras.losses.Loss):
    """Cross-entropy of a network's probabilities with a teacher's, both taken at a temperature.

    Labels are plain probabilities, as a `SyntheticSet` or a `teacher` that a search asks has them.

    Source: "Data-Free Neural Architecture Search via Recursive Label Calibration" (arXiv 2112.02086), its code; the
    square of the temperature, which that has not: Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv
    1503.02531), section 2.

    Args:
        temperature: what logits are divided by before the softmax.
        from_logits: whether the network gives logits and not probabilities.
        times_square: whether the loss is multiplied by the square of the temperature: its gradient is then about as
            large at any. For what stands beside it, such as a cost or a decay, and optimizers to which that matters.
        **kwargs: those of `keras.losses.Loss`.

    Raises:
        ValueError: if `temperature` is not above 0; called, if labels are not of the shape of the outputs.

    Example:

    >>> search(small_space(), made.picture_data(), "search", teacher=teacher, loss=SoftLabelLoss())
    """

    def __init__(self, temperature=TEMPERATURE, from_logits=False, times_square=False, name="soft_labels", **kwargs):
        super().__init__(name=name, **kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0. Received: {temperature}")
        self.temperature = temperature
        self.from_logits = from_logits
        self.times_square = times_square

    def call(self, y_true, y_pred):
        logits = ops.cast(y_pred, "float32") if self.from_logits else log_probabilities(y_pred)
        if y_true.shape[-1] != y_pred.shape[-1] or len(y_true.shape) != len(y_pred.shape):
            raise ValueError(
                f"Labels must be probabilities, of the shape of the outputs, {tuple(y_pred.shape)}. Received: "
                f"{tuple(y_true.shape)}"
            )
        powers = ops.power(ops.cast(y_true, "float32"), 1.0 / self.temperature)  # exact where a probability is 0
        soft_labels = powers / ops.sum(powers, axis=-1, keepdims=True)
        factor = self.temperature**2 if self.times_square else 1.0
        return -factor * ops.sum(soft_labels * ops.log_softmax(logits / self.temperature), axis=-1)

    def get_config(self):
        own = {"temperature": self.temperature, "from_logits": self.from_logits, "times_square": self.times_square}
        return {**super().get_config(), **own}
