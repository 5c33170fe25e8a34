"""`normalizations_of` and `listening`: what the normalisations of any Keras model hear while it is called."""

import contextlib
import functools

import keras


def normalizations_of(model):
    """The batch normalisations of a model, those inside of its layers and nested models included.

    Args:
        model: a built `keras.Model`.

    Returns:
        List of `keras.layers.BatchNormalization`.

    Raises:
        ValueError: if it has none: they were folded into the kernels, or never there. Without them nothing is known of
            the pictures that the model was trained on.
    """
    found = [
        layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization) and layer.built
    ]
    if not found:
        raise ValueError(
            f"`teacher` must have batch normalisations, whose statistics tell of the pictures that it was trained on. "
            f"`{model.name}` has none: give the model from before they were folded away."
        )
    return found


@contextlib.contextmanager
def listening(normalizations):
    """Notes what normalisations get for input, for as long as it lasts.

    Keras has no hooks for that: each layer's `call` is wrapped, and is itself again at the end.

    Args:
        normalizations: list of layers.

    Yields:
        List that grows by a pair, layer and input, with every call of one of them.

    Example:

    >>> with listening(normalizations_of(model)) as heard:
    ...     model(pictures, training=False)
    >>> [(layer.name, inputs.shape) for layer, inputs in heard]
    """
    heard = []

    def wrap(layer):
        call = layer.call

        @functools.wraps(call)
        def noting(inputs, *args, **kwargs):
            heard.append((layer, inputs))
            return call(inputs, *args, **kwargs)

        return noting

    # An instance's own attribute hides the method of its class. Keras's `__setattr__` would refuse layers that are
    # built, and track what is set.
    for layer in normalizations:
        object.__setattr__(layer, "call", wrap(layer))
    try:
        yield heard
    finally:
        for layer in normalizations:
            object.__delattr__(layer, "call")
