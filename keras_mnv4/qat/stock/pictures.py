"""How pictures enter a quantised network: as bytes, and what layers make of these before anything else does."""

import keras
import numpy as np
from keras import layers

from keras_mnv4.qat.quantizers import FixedQuantizer
from keras_mnv4.qat.stock.fusion import readers_of

BYTES = FixedQuantizer(num_bits=8, init_min=0.0, init_max=255.0)

# Those that change pictures in training, and are nothing at inference.
AUGMENTATIONS = (
    layers.RandomBrightness,
    layers.RandomContrast,
    layers.RandomFlip,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
)


def is_picture(tensor):
    """Whether a tensor is an input of the model, augmentations aside."""
    if not isinstance(tensor, keras.KerasTensor):
        return False
    operation = tensor._keras_history.operation
    return isinstance(operation, layers.InputLayer) or (
        isinstance(operation, AUGMENTATIONS) and is_picture(operation.input)
    )


def picture_readers(model):
    """The operations of `model` that read its inputs, augmentations aside."""
    readers = readers_of(model)
    pictures = [operation for operation in readers if isinstance(operation, (layers.InputLayer, *AUGMENTATIONS))]
    found = (reader for operation in pictures for reader in readers[operation])
    return [reader for reader in found if not isinstance(reader, AUGMENTATIONS)]


def pixel_quantizer(rescaling):
    """The range of bytes 0 to 255 after `rescaling`: known, so not measured."""
    darkest = np.asarray(rescaling.offset)
    brightest = darkest + 255 * np.asarray(rescaling.scale)
    low, high = np.minimum(darkest, brightest), np.maximum(darkest, brightest)
    return FixedQuantizer(num_bits=8, init_min=min(float(low.min()), 0.0), init_max=max(float(high.max()), 0.0))


def is_input_scale(rescaling):
    """Whether scale and zero point of an integer file's input can say what `rescaling` makes of bytes.

    They can if it is the same for all colours, rises, and has zero among what it gives out.
    """
    scale, offset = rescaling.scale, rescaling.offset
    return np.ndim(scale) == np.ndim(offset) == 0 and scale > 0 and offset <= 0 <= offset + 255 * scale


def offset_on_a_byte(rescaling):
    """The offset of `rescaling`, moved by half a step at most so that the zero of what it gives out is a byte."""
    zero = -rescaling.offset / rescaling.scale
    is_between = 0 < zero < 255 and abs(zero - round(zero)) > 1e-3
    return -np.floor(zero + 0.5) * rescaling.scale if is_between else rescaling.offset
