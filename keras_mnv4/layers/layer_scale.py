"""`LayerScale`: a learned factor for each channel of a branch."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_mnv4")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a learned factor that starts near zero: a deep network starts as a shallow one.

    Source: Touvron et al., "Going deeper with Image Transformers" (arXiv 2103.17239), section 2.1.

    Args:
        initial_value: what all factors start from.
        axis: axis of the channels.

    Input shape: any. Output shape: the same.

    Example:

    >>> LayerScale(0.5)(np.ones((1, 2, 2, 3)))  # 0.5 everywhere
    """

    def __init__(self, initial_value=1e-5, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value
        self.axis = axis

    def build(self, input_shape):
        initializer = keras.initializers.Constant(self.initial_value)
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[self.axis],), initializer=initializer)

    def call(self, inputs):
        if self.axis in (-1, len(inputs.shape) - 1):
            return inputs * self.gamma
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        return inputs * ops.reshape(self.gamma, shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial_value": self.initial_value, "axis": self.axis}
