"""The arguments that all `keras.applications` constructors share: checked and resolved once, here."""

import os

import keras

MIN_SIZE = 32  # pixels: the networks halve the picture five times


def check_weights(weights):
    """Raises unless `weights` is None or the path of an existing file."""
    if weights is not None and not os.path.isfile(weights):
        raise ValueError(
            "`weights` must be None (random initialisation) or the path of an existing weights file; no pretrained "
            f"weights are published yet. Received: weights={weights!r}"
        )


def check_pooling(pooling):
    """Raises unless `pooling` is None, `"avg"` or `"max"`."""
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}")


def resolve_input_shape(input_shape, default_size, include_top):
    """The `(height, width, channels)`, in the global data format's order, that a model is built for.

    Args:
        input_shape: what the user gave, without the batch, or None.
        default_size: height and width to take where a classifier needs them and the user gave none.
        include_top: whether the model has its classifier.

    Raises:
        ValueError: if it has not three dimensions, no known channels, or sides under 32 pixels.
    """
    channels_first = keras.config.image_data_format() == "channels_first"
    if input_shape is None:
        size = default_size if include_top else None
        return (3, size, size) if channels_first else (size, size, 3)
    input_shape = tuple(input_shape)
    if len(input_shape) != 3:
        raise ValueError(f"`input_shape` must have three dimensions. Received: input_shape={input_shape}")
    *sides, channels = (*input_shape[1:], input_shape[0]) if channels_first else input_shape
    if channels is None:
        raise ValueError(f"`input_shape` must have a known number of channels. Received: input_shape={input_shape}")
    if any(side is not None and side < MIN_SIZE for side in sides):
        raise ValueError(f"Height and width must be at least {MIN_SIZE} pixels. Received: input_shape={input_shape}")
    return input_shape


def resolve_input(input_tensor, input_shape):
    """The tensor to build on, and the inputs of the finished model.

    Args:
        input_tensor: a symbolic Keras tensor, or None.
        input_shape: shape without the batch, for a new `keras.Input`.

    Returns:
        `(tensor, inputs)`. With an `input_tensor` the inputs are those that it was made from.

    Raises:
        ValueError: if `input_tensor` is not a Keras tensor.
    """
    if input_tensor is None:
        tensor = keras.Input(input_shape)
        return tensor, tensor
    if not isinstance(input_tensor, keras.KerasTensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, the output of `keras.Input` or of a layer. "
            f"Received: input_tensor={input_tensor!r}"
        )
    return input_tensor, keras.utils.get_source_inputs(input_tensor)


def load_weights(model, path, classes):
    """Loads a weights file into `model`; a mismatch is an error that says what does not fit.

    Raises:
        ValueError: if the file holds the weights of another network, or of another number of classes.
    """
    try:
        model.load_weights(path)
    except ValueError as error:
        raise ValueError(
            f"The weights in {str(path)!r} do not fit model `{model.name}` with classes={classes}. Build it with the "
            f"`classes`, `alpha` and `include_top` that the file was saved with. ({error})"
        ) from error
