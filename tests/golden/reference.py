"""Weights and inputs made by formula, the same for the peers and for us, so that only outputs need storing.

A weight follows from its name and shape in timm's `state_dict`: no order of layers needs to agree. Scales are such that
logits stay below 300 and differ between pictures by more than a hundredth of their spread, and that attention neither
averages all pixels nor picks one. Rounding in 32 bits then moves no logit at inference by more than 2e-5 of the
largest; in training, where the last normalisation sees as few values as there are pictures, by 1e-4 of it.
"""

import hashlib
import zlib

import numpy as np

SIZES = ((96, 96), (64, 128))  # (height, width) of the pictures for timm
SQUARE_SIZES = ((96, 96), (160, 160))  # those for Model Garden, whose attention takes squares only
KEPT_CLASSES = slice(None, None, 20)  # of the 1000 logits
VARIANTS = {  # ours: timm's
    "conv_small": "mobilenetv4_conv_small",
    "conv_small_035": "mobilenetv4_conv_small_035",
    "conv_small_050": "mobilenetv4_conv_small_050",
    "conv_medium": "mobilenetv4_conv_medium",
    "conv_large": "mobilenetv4_conv_large",
    "conv_aa_medium": "mobilenetv4_conv_aa_medium",
    "conv_aa_large": "mobilenetv4_conv_aa_large",
    "conv_blur_medium": "mobilenetv4_conv_blur_medium",
    "hybrid_medium": "mobilenetv4_hybrid_medium",
    "hybrid_medium_075": "mobilenetv4_hybrid_medium_075",
    "hybrid_large": "mobilenetv4_hybrid_large",
    "hybrid_large_075": "mobilenetv4_hybrid_large_075",
}
RESNETS = {"resnet18": "resnet18", "resnet50": "resnet50"}


def tensor(key, shape):
    """The weight `key` of timm's `state_dict`, in timm's layout: (filters, channels, height, width) for kernels."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    name = key.rsplit(".", 1)[-1]
    if key.endswith("layer_scale.gamma"):
        values = random.uniform(0.3, 1, shape)
    elif name == "running_var" or (name == "weight" and len(shape) == 1):  # the latter is a normalisation's gamma
        values = random.uniform(0.5, 1.5, shape)
    elif name in ("running_mean", "bias"):
        values = 0.3 * random.normal(size=shape)
    elif name == "weight" and len(shape) == 4:
        gain = 0.1 if key.endswith(("query.proj.weight", "key.proj.weight")) else 1.1
        values = np.sqrt(gain / np.prod(shape[1:])) * random.normal(size=shape)
    elif name == "weight" and len(shape) == 2:
        values = np.sqrt(1 / shape[1]) * random.normal(size=shape)
    else:
        raise ValueError(f"There is no rule for a weight {key!r} of shape {tuple(shape)}.")
    return values.astype("float32")


def state_dict(shapes):
    """`{key: weight}` for `{key: shape}`, without the counters that inference has no use for."""
    return {key: tensor(key, shape) for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


def digest(shapes):
    """A fingerprint of `{key: shape}`: equal for a converter and timm if they name exactly the same weights."""
    keys = sorted(key for key in shapes if not key.endswith("num_batches_tracked"))
    return hashlib.sha256("\n".join(f"{key} {tuple(shapes[key])}" for key in keys).encode()).hexdigest()


def pictures(height, width, count=4):
    """Pictures as a network takes them, `(count, height, width, 3)`: each a wave of one direction and one colour."""
    random = np.random.default_rng(4)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in random.uniform(-8, 8, (count, 2))]
    return np.stack([wave[..., None] * random.normal(size=3) for wave in waves]).astype("float32")


def features(height, width, channels, count=2):
    """Input of a lone layer, `(count, height, width, channels)`: in each channel a wave of its own."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width][..., None] / max(height, width)
    a, b, phase = random.uniform(-3, 3, (3, count, 1, 1, channels))
    return (4 * np.sin(2 * np.pi * (a * x + b * y) + phase)).astype("float32")
