"""`resize`: pictures and feature maps in another size, on every backend and under XLA."""

import keras
import numpy as np
from keras import ops


def sides_of(maps):
    """Height and width of a batch of pictures or feature maps; None where one is not known yet."""
    return tuple(maps.shape[2:4] if _is_channels_first() else maps.shape[1:3])


def resize(maps, sides):
    """Pictures or feature maps, resized linearly, with every pixel taken into account where they become smaller.

    It is what `keras.ops.image.resize(maps, sides, antialias=True)` gives, which TensorFlow cannot compile with XLA.

    Args:
        maps: tensor `(batch, height, width, channels)`, or as Keras's data format says.
        sides: height and width to have.

    Returns:
        A float32 tensor; `maps` as they are if that is their size.
    """
    if sides_of(maps) == tuple(sides):
        return maps
    maps = ops.cast(maps, "float32")
    if None in sides_of(maps):
        return ops.image.resize(maps, sides, antialias=True)
    rows, columns = (weights(source, target) for source, target in zip(sides_of(maps), sides, strict=True))
    if _is_channels_first():
        return ops.einsum("bcHw,wW->bcHW", ops.einsum("bchw,hH->bcHw", maps, rows), columns)
    return ops.einsum("bHwc,wW->bHWc", ops.einsum("bhwc,hH->bHwc", maps, rows), columns)


def weights(source, target):
    """The matrix `(source, target)` that resizes one side."""
    scale = source / target
    centers = (np.arange(target) + 0.5) * scale - 0.5
    triangles = np.maximum(1 - np.abs(np.arange(source)[:, None] - centers) / max(scale, 1.0), 0.0)
    return (triangles / triangles.sum(0)).astype("float32")


def _is_channels_first():
    return keras.config.image_data_format() == "channels_first"
