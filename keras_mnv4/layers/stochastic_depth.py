"""`StochasticDepth`: leaves out a residual branch at random during training."""

import keras
from keras import ops

from keras_mnv4.layers.arguments import check_rate


@keras.saving.register_keras_serializable(package="keras_mnv4")
class StochasticDepth(keras.layers.Layer):
    """Sets a residual branch to zero for a random part of the batch, and scales the rest up to make up for it.

    Source: Huang et al., "Deep Networks with Stochastic Depth" (arXiv 1603.09382), in the per-sample form of
    EfficientNet and timm.

    Args:
        rate: probability that a sample's branch is left out, from 0 up to but not including 1.
        seed: seed of the random numbers.

    Input shape: any, the batch first. Output shape: the same.

    Raises:
        ValueError: if `rate` is not at least 0 and below 1.

    Example:

    >>> StochasticDepth(0.2)(np.ones((8, 4, 4, 2)), training=False).shape
    (8, 4, 4, 2)
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        check_rate("rate", rate)
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        # In float32: of half precision numbers there are too few for small rates.
        kept = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) >= self.rate
        return inputs * ops.cast(kept, inputs.dtype) / (1.0 - self.rate)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
