"""How pictures enter a quantised network: as bytes, and what layers make of these before anything else does."""

import collections
import dataclasses

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.quantizers import FixedQuantizer
from keras_mnv4.qat.stock.fusion import readers_of
from keras_mnv4.qat.stock.operations import scale_and_offset

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


# Stock layers that hand on values which are on the integer grid already: of bytes, bytes.
GRID_KEEPING = (
    *AUGMENTATIONS,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout2D,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.MaxPooling2D,
    layers.GlobalMaxPooling2D,
    layers.Cropping2D,
    layers.ZeroPadding2D,
    layers.UpSampling2D,
    # Integer operators round their means to the grid of what they read. A range of its own would be forced on that.
    layers.AveragePooling2D,
)
# Bytes are brought to a range of a few units: by a small factor, or about a mean that pictures in [0, 1] never have.
LARGEST_SCALE, LEAST_MEAN = 1 / 16, 16


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Operations in a row that scale a picture: what the last gives is `picture * scale + offset`.

    Args:
        picture: the `InputLayer`.
        operations: operations of a tensor and a number, the first of which reads the picture.
        scale: a number.
        offset: a number.
    """

    picture: layers.InputLayer
    operations: tuple
    scale: float
    offset: float


def input_layer_of(tensor):
    """The `InputLayer` that a tensor comes from with nothing but augmentations between; None if there is none."""
    if not isinstance(tensor, keras.KerasTensor):
        return None
    operation = tensor._keras_history.operation
    if isinstance(operation, AUGMENTATIONS):
        return input_layer_of(operation.input)
    return operation if isinstance(operation, layers.InputLayer) else None


def is_picture(tensor):
    """Whether a tensor is an input of the model, augmentations aside."""
    return input_layer_of(tensor) is not None


def picture_readers(model):
    """By the `InputLayer` of each input of `model` the operations that read it, augmentations aside."""
    readers = readers_of(model)
    pictures = [tensor._keras_history.operation for tensor in model.inputs]
    return {picture: list(_behind(picture, readers, _is_augmentation)) for picture in pictures}


def scalings(model):
    """The `Scaling`s of `model` by operations of `keras.ops` that are plainly of bytes, such as `x / 127.5 - 1`."""
    readers = readers_of(model)
    found = (
        _scaling(picture, reader, readers) for picture, others in picture_readers(model).items() for reader in others
    )
    return [each for each in found if each is not None and _is_of_bytes(each.scale, each.offset)]


def byte_inputs(model):
    """The `InputLayer`s of a Functional model whose pictures are bytes, 0 to 255, for it scales them as such.

    A `Rescaling` or `Normalization` that reads them says so; behind layers that keep bytes what they are, and of
    operations, a scaling must plainly be one of bytes: others may come later than pictures do. Of a fake-quantised
    model, the quantiser of bytes says so that such a scaling was given.
    """
    readers = readers_of(model)
    return {
        picture
        for picture, others in picture_readers(model).items()
        if any(isinstance(reader, (layers.Rescaling, layers.Normalization)) for reader in others)
        or any(isinstance(reader, FakeQuantize) and reader.quantizer == BYTES for reader in others)
        or any(_scales_bytes(picture, reader, readers) for reader in _behind(picture, readers, _keeps_bytes))
    }


def _behind(operation, readers, is_passed):
    """The readers of an operation; in the place of those that are passed by, what reads these."""
    waiting, seen = collections.deque([operation]), {operation}
    while waiting:
        for reader in readers[waiting.popleft()]:
            if not is_passed(reader):
                yield reader
            elif reader not in seen:  # a layer may be used twice
                seen.add(reader)
                waiting.append(reader)


def _is_augmentation(operation):
    return isinstance(operation, AUGMENTATIONS)


def _keeps_bytes(operation):
    is_nothing = isinstance(operation, layers.Activation) and operation.activation is keras.activations.linear
    return is_nothing or isinstance(operation, GRID_KEEPING)


def _scales_bytes(picture, operation, readers):
    if isinstance(operation, layers.Rescaling):
        return _is_of_bytes(operation.scale, operation.offset)
    if isinstance(operation, layers.Normalization):
        mean, deviation = (ops.convert_to_numpy(each) for each in (operation.mean, ops.sqrt(operation.variance)))
        return not operation.invert and bool(np.all((deviation >= 1 / LARGEST_SCALE) | (np.abs(mean) > LEAST_MEAN)))
    scaling = _scaling(picture, operation, readers)
    return scaling is not None and _is_of_bytes(scaling.scale, scaling.offset)


def _scaling(picture, operation, readers):
    """The `Scaling` that begins with `operation`, as long as it can be; None if there is none."""
    operations, scale, offset = [], 1.0, 0.0
    while operation is not None:
        affine = scale_and_offset(operation, *operation._inbound_nodes[0].arguments.args)
        if affine is None:
            break
        scale, offset = scale * affine[0], offset * affine[0] + affine[1]
        operations.append(operation)
        operation = next(iter(readers[operation])) if len(readers[operation]) == 1 else None
    return Scaling(picture, tuple(operations), scale, offset) if operations else None


def _is_of_bytes(scale, offset):
    """Whether a factor and a sum are plainly those for bytes, and not for pictures in [0, 1] or [-1, 1]."""
    scale, offset = np.abs(scale), np.abs(offset)
    return bool(np.all((scale > 0) & ((scale <= LARGEST_SCALE) | (offset > LEAST_MEAN * scale))))


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
