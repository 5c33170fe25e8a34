"""The arguments that all `keras.applications` constructors share: checked and resolved once, here."""

import math
import numbers

import keras

from keras_mnv4.applications.preprocessing import Preprocessing

MIN_SIZE = 32  # pixels: the networks halve the picture five times


def check_pooling(pooling):
    """Raises unless `pooling` is None, `"avg"` or `"max"`."""
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}")


def check_classes(classes):
    """Raises unless `classes` is a whole number above 0."""
    if not isinstance(classes, numbers.Integral) or classes < 1:
        raise ValueError(f"`classes` must be a whole number above 0. Received: classes={classes!r}")


def check_alpha(alpha):
    """Raises unless `alpha` is a number above 0."""
    if not isinstance(alpha, numbers.Real) or not 0 < alpha < math.inf:
        raise ValueError(f"`alpha` must be a number above 0. Received: alpha={alpha!r}")


def check_preprocessing(include_preprocessing, input_shape):
    """Raises if a `Preprocessing`, which scales three colours, meets pictures of other channels."""
    if isinstance(include_preprocessing, Preprocessing) and channels_of(input_shape) != 3:
        raise ValueError(
            "A `Preprocessing` takes pictures of 3 channels: use `include_preprocessing=False` and scale them before "
            f"the model. Received: input_shape={input_shape}"
        )


def check_pretrained(source, include_top, classes, classifier_activation, input_shape):
    """Raises unless the weights of a `Source` suit the other arguments."""
    if source.layout is None:
        return
    if source.checkpoint is not None and channels_of(input_shape) != 3:
        raise ValueError(
            f"Pretrained weights take pictures of 3 channels: use `weights=None`. Received: input_shape={input_shape}"
        )
    if not include_top:
        return
    if source.classes is not None and classes != source.classes:
        raise ValueError(
            f"These weights have a classifier of {source.classes} classes: pass `classes={source.classes}`, or use "
            f"`include_top=False` and a classifier of your own. Received: classes={classes}"
        )
    if keras.activations.get(classifier_activation) not in (keras.activations.linear, keras.activations.softmax):
        raise ValueError(
            "`classifier_activation` must be None or 'softmax' with pretrained weights. "
            f"Received: classifier_activation={classifier_activation!r}"
        )


def channels_of(input_shape):
    """The channels of a shape without the batch, in the global data format's order."""
    return input_shape[0] if keras.config.image_data_format() == "channels_first" else input_shape[-1]


def resolve_input_shape(input_shape, default_size, include_top, input_tensor=None):
    """The `(height, width, channels)`, in the global data format's order, that a model is built for.

    Args:
        input_shape: what the user gave, without the batch, or None.
        default_size: height and width to take where a classifier needs them and the user gave none.
        include_top: whether the model has its classifier.
        input_tensor: the tensor to build on, if the user gave one: its shape is what counts.

    Raises:
        ValueError: if it is not three whole numbers, of which sides may be None, has no channels or sides under 32
            pixels, or is not that of `input_tensor`.
    """
    channels_first = keras.config.image_data_format() == "channels_first"
    if input_tensor is not None:
        input_shape = _shape_of_tensor(input_tensor, input_shape)
        name, received = "input_tensor", f"input_tensor of shape {input_shape} without the batch"
    elif input_shape is None:
        size = default_size if include_top else None
        return (3, size, size) if channels_first else (size, size, 3)
    else:
        name, received = "input_shape", f"input_shape={input_shape}"
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3:
        raise ValueError(f"`{name}` must have three dimensions without the batch. Received: {received}")
    input_shape = tuple(input_shape)
    *sides, channels = (*input_shape[1:], input_shape[0]) if channels_first else input_shape
    if not all(side is None or isinstance(side, numbers.Integral) for side in input_shape):
        raise ValueError(f"`{name}` must be of whole numbers; height and width may be None. Received: {received}")
    if channels is None or channels < 1:
        raise ValueError(f"`{name}` must have a known number of channels, 1 or more. Received: {received}")
    if any(side is not None and side < MIN_SIZE for side in sides):
        raise ValueError(f"Height and width of `{name}` must be at least {MIN_SIZE} pixels. Received: {received}")
    return input_shape


def resolve_input(input_tensor, input_shape):
    """The tensor to build on, and the inputs of the finished model.

    Args:
        input_tensor: a symbolic Keras tensor, or None.
        input_shape: shape without the batch, for a new `keras.Input`.

    Returns:
        `(tensor, inputs)`. With an `input_tensor` the inputs are those that it was made from.
    """
    if input_tensor is None:
        tensor = keras.Input(input_shape)
        return tensor, tensor
    return input_tensor, keras.utils.get_source_inputs(input_tensor)


def _shape_of_tensor(tensor, input_shape):
    if not isinstance(tensor, keras.KerasTensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, the output of `keras.Input` or of a layer. "
            f"Received: input_tensor={tensor!r}"
        )
    shape = tuple(tensor.shape[1:])
    if input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            f"`input_tensor` has shape {shape} and `input_shape` says {tuple(input_shape)}: leave `input_shape` out."
        )
    return shape
