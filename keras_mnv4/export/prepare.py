"""What comes before a model is converted, to whatever format: checks, ranges of dead channels, constants."""

import keras
import numpy as np

PART_SAMPLES = 2  # inputs for the comparison part by part; each gives thousands of values a part


def check_backend(need):
    """Raises if the Keras backend is not TensorFlow.

    Args:
        need: a sentence that says so and what to do, for the message.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"{need} The backend is {keras.backend.backend()!r}.")


def check_inputs(model):
    """Raises if `model` has several inputs."""
    count = len(getattr(model, "inputs", "1"))  # of a subclassed model nobody knows
    if count != 1:
        raise ValueError(f"`model` must have one input. Received: one of {count}")


def output_names(model):
    """What the outputs of a file are called, in the order of `model.outputs`: as their layers are, a lone one `output`.

    Args:
        model: a Keras model.
    """
    names = getattr(model, "output_names", [])  # of a subclassed model nobody knows
    if len(names) < 2:
        return ["output"]
    return names if len(set(names)) == len(names) else [f"output_{place}" for place in range(len(names))]


def example_pictures(shape, count=4, seed=0):
    """Made-up pictures with the spectrum of natural ones, for where there are no real ones.

    Args:
        shape: `(height, width, channels)`.
        count: how many.
        seed: seed of the random numbers.

    Returns:
        float32 array `(count, height, width, channels)` of values 0 to 255.
    """
    height, width, channels = shape
    noise = np.random.default_rng(seed).normal(size=(count, height, width, channels))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    spectrum = np.fft.fft2(noise, axes=(1, 2)) / np.maximum(frequency, 1 / max(height, width))[None, :, :, None]
    pictures = np.fft.ifft2(spectrum, axes=(1, 2)).real
    low, high = (f(pictures, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    return np.round(255 * (pictures - low) / (high - low)).astype("float32")


def checked_samples(samples, shape):
    """`samples` as float32 array, `(count, height, width, channels)`; made up if None.

    Args:
        samples: inputs of a model; or None.
        shape: `(height, width, channels)` of such an input; None for sides that are free.

    Raises:
        ValueError: if they are not numbers of that shape, or if there are none.
    """
    if samples is None:
        return example_pictures(tuple(side or 64 for side in shape))
    samples = np.asarray(samples)
    fits = samples.ndim == len(shape) + 1
    fits = fits and all(want in (None, got) for want, got in zip(shape, samples.shape[1:], strict=True))
    if not fits or not len(samples) or not np.issubdtype(samples.dtype, np.number):
        sides = ", ".join(str(side or "any") for side in shape)
        raise ValueError(
            f"`samples` must be inputs of the model, numbers of shape (count, {sides}), and one or more. Received: "
            f"{samples.dtype} of shape {samples.shape}"
        )
    return samples.astype("float32")


def widen_weight_ranges(model):
    """Widens the ranges of channels that died in training, in place, so that their biases fit into 32 bits."""
    for layer in model._flatten_layers():
        if hasattr(layer, "widen_weight_ranges"):
            layer.widen_weight_ranges()


def freeze(function, shape):
    """A TensorFlow function of one batch of floats that has no variables any more.

    Args:
        function: a callable of one tensor, such as a model.
        shape: shape of the batch; None for a length that is free.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec(shape, tf.float32, name="image")
    return convert_variables_to_constants_v2(tf.function(function, autograph=False).get_concrete_function(signature))
