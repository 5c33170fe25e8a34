"""`feature_pyramid`: the feature maps that detectors and segmenters want."""

import math

import keras

from keras_mnv4.applications.block_spec import blocks_of
from keras_mnv4.layers import ConvNormAct

C5 = ("block", "conv")


def feature_pyramid(model, levels=(2, 3, 4, 5), c5="block"):
    """A model that gives the feature maps of several sizes, for detection and segmentation.

    Level `n` is the last map that is `2 ** n` times smaller than the picture.

    Args:
        model: a model made by a constructor of this package, with or without classifier. It shares its layers, and so
            its weights, with the result.
        levels: which maps, from 1 to 5.
        c5: what level 5 is. `"block"`, as in the TensorFlow Model Garden: what the last block gives, 128, 256 or 512
            channels. `"conv"`, as in timm: what the 1x1 convolution behind it gives, 960 channels. The same where a
            network has no such convolution.

    Returns:
        A Functional model from pictures to a dictionary `{"C2": map, ...}`.

    Raises:
        ValueError: if a level is not there, or `c5` is unknown.

    Example:

    >>> backbone = MobileNetV4ConvSmall(weights=None, include_top=False)
    >>> {name: map.shape[-1] for name, map in feature_pyramid(backbone).output.items()}
    {'C2': 32, 'C3': 64, 'C4': 96, 'C5': 128}
    """
    if c5 not in C5:
        raise ValueError(f"`c5` must be of {C5}. Received: c5={c5!r}")
    maps, reduction = {}, 0
    layers = [model.get_layer("stem"), *blocks_of(model)]
    if c5 == "block" and isinstance(layers[-1], ConvNormAct):
        layers.pop()
    for layer in layers:
        reduction += math.log2(layer.strides)
        maps[reduction] = layer.output
    maps = {int(level): each for level, each in maps.items() if level == int(level)}
    if not isinstance(levels, (list, tuple, range)):
        raise ValueError(f"`levels` must be a list of whole numbers. Received: levels={levels!r}")
    missing = [level for level in levels if level not in maps]
    if missing or not levels:
        raise ValueError(f"`levels` must be of {sorted(maps)} for model `{model.name}`. Received: levels={levels}")
    return keras.Model(model.input, {f"C{level}": maps[level] for level in levels}, name=f"{model.name}_pyramid")
