"""`SoftLabelLoss`: the loss with which networks are searched for on made-up pictures."""

import keras
from keras import ops

from keras_mnv4.distillation.classifier_view import log_probabilities

TEMPERATURE = 3.0


@keras.saving.register_keras_serializable(package="keras_mnv4")
class SoftLabelLoss(keras.losses.Loss):
    """Cross-entropy of a network's probabilities, taken at a temperature, with soft labels of the same temperature.

    Without the square of the temperature for a factor, as in the authors' code. Their labels are what the teacher says
    of each picture as it was changed for training; those of a `SyntheticSet` were asked for once.

    Source: "Data-Free Neural Architecture Search via Recursive Label Calibration" (arXiv 2112.02086), its code.

    Args:
        temperature: what logits are divided by before the softmax.
        from_logits: whether the network gives logits and not probabilities.
        **kwargs: those of `keras.losses.Loss`.

    Example:

    >>> pictures = made.picture_data(soft=True, temperature=3.0)
    >>> search(small_space(), pictures, "search", loss=SoftLabelLoss(3.0))
    """

    def __init__(self, temperature=TEMPERATURE, from_logits=False, name="soft_labels", **kwargs):
        super().__init__(name=name, **kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0. Received: {temperature}")
        self.temperature = temperature
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        logits = ops.cast(y_pred, "float32") if self.from_logits else log_probabilities(y_pred)
        return -ops.sum(ops.cast(y_true, "float32") * ops.log_softmax(logits / self.temperature), axis=-1)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "from_logits": self.from_logits}
