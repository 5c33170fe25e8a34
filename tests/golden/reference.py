"""Weights and a picture made by formula, the same for timm and for us, so that only outputs need storing."""

import numpy as np

SIZE = 96
KEPT_CLASSES = slice(None, None, 20)  # of the 1000 logits
VARIANTS = {
    "conv_small": "mobilenetv4_conv_small",
    "conv_medium": "mobilenetv4_conv_medium",
    "conv_large": "mobilenetv4_conv_large",
}


def kernel(index, height, width, channels, filters):
    """The kernel of convolution `index`, in Keras's layout (height, width, channels, filters)."""
    random = np.random.default_rng((1, index))
    scale = np.sqrt(2 / (height * width * channels))
    return (scale * random.normal(size=(height, width, channels, filters))).astype("float32")


def norm(index, channels):
    """`(gamma, beta, mean, variance)` of batch normalisation `index`."""
    random = np.random.default_rng((2, index))
    gamma, variance = random.uniform(0.5, 1.5, (2, channels))
    beta, mean = random.normal(0, 0.3, (2, channels))
    return tuple(values.astype("float32") for values in (gamma, beta, mean, variance))


def bias(classes):
    """The bias of the classifier."""
    return np.random.default_rng(3).normal(size=classes).astype("float32")


def pictures(count=8):
    """Pictures as the network takes them, `(count, SIZE, SIZE, 3)`: each with waves of a direction and a colour."""
    random = np.random.default_rng(4)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in random.uniform(-8, 8, (count, 2))]
    return np.stack([wave[..., None] * random.normal(size=3) for wave in waves]).astype("float32")
