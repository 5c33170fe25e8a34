"""Small TFLite files with known properties, made with TensorFlow alone."""

import warnings

import numpy as np


def convert(function, shape, *, is_integer=True, batch=1):
    """Converts a function of one float tensor `(batch, *shape)` to the bytes of a TFLite file."""
    import tensorflow as tf

    traced = tf.function(function, autograph=False)
    concrete = traced.get_concrete_function(tf.TensorSpec((batch, *shape), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    if is_integer:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return converter.convert()


def round_to(x, low=-4.0, high=4.0):
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_args(x, low, high)


def convolution(x, num_bits=8, filters=4):
    """A 3x3 convolution with a per-channel fake-quantised kernel."""
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(0, 0.2, (3, 3, x.shape[-1], filters)).astype("float32")
    largest = np.abs(kernel).max((0, 1, 2))
    kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        kernel, -largest, largest, num_bits=num_bits, narrow_range=True
    )
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def integer_model(x):
    return round_to(convolution(round_to(x)))


def int4_model(x):
    return round_to(convolution(round_to(x), num_bits=4))


def hard_swish_model(x):
    import tensorflow as tf

    x = convolution(round_to(x))
    return round_to(x * tf.nn.relu6(x + 3.0) * (1 / 6))


def float_island_model(x):
    """A sum that nobody rounded: it and the convolution behind it compute in float."""
    x = round_to(x)
    return round_to(convolution(x + round_to(convolution(x, filters=3))))
