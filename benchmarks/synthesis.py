"""Synthesis against a plain DeepInversion loop: seconds a picture on the same teacher, in turns, and their ratio.

    python benchmarks/synthesis.py --size 96 --pictures 16 --steps 20 --rounds 15

The loop is what one writes first: a compiled step, by the backend of Keras a `tf.function` or `jax.jit`, with a roll of
the whole picture for jitter, and a model that gives the inputs of all normalisations. Both take as many steps of the
same Adam at the same resolution; `stages` is what `synthesize` does by default, two fifths of the steps at half of it.
Ratios are medians over rounds, between their quartiles: of the time on the clock, and of the processor's, which other
work on the machine disturbs less.
"""

import argparse
import time

import keras
import numpy as np
from keras import ops

from keras_mnv4 import datafree
from keras_mnv4.datafree.canvas import BETAS
from keras_mnv4.datafree.canvas import Canvas
from keras_mnv4.datafree.listening import normalizations_of

JITTER = 8


def plain_loop(teacher, count, size, rate):
    """A function that takes so many steps of DeepInversion."""
    norms = normalizations_of(teacher)
    inner = keras.Model(teacher.input, [teacher.output, *[norm.input for norm in norms]])
    trained = [tuple(map(ops.copy, (norm.moving_mean, norm.moving_variance))) for norm in norms]
    labels = ops.convert_to_tensor(np.arange(count) % teacher.output_shape[-1])
    first = np.random.default_rng(0).normal(size=(count, size, size, 3)).astype("float32")

    def loss_of(shown, heard):
        probabilities, *inputs = heard
        loss = ops.mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
        for (mean, variance), each in zip(trained, inputs, strict=True):
            own_mean, own_variance = ops.moments(each, (0, 1, 2))
            loss += 0.01 * (_norm(own_mean - mean) + _norm(own_variance - variance))
        for one, other in (
            (shown[:, 1:], shown[:, :-1]),
            (shown[:, :, 1:], shown[:, :, :-1]),
            (shown[:, 1:, 1:], shown[:, :-1, :-1]),
            (shown[:, 1:, :-1], shown[:, :-1, 1:]),
        ):
            loss += 1e-4 * _norm(one - other)
        return loss + 1e-5 * _norm(shown)

    return LOOPS[keras.backend.backend()](inner, loss_of, first, keras.optimizers.Adam(rate, **BETAS))


def _norm(numbers):
    return ops.sqrt(ops.sum(ops.square(numbers)))


def tensorflow_loop(inner, loss_of, first, optimizer):
    import tensorflow as tf

    pictures = tf.Variable(first)
    optimizer.build([pictures])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            shift = tf.random.uniform((2,), -JITTER, JITTER + 1, tf.int32)
            shown = tf.roll(pictures, shift, (1, 2))
            loss = loss_of(shown, inner(shown, training=False))
        optimizer.apply([tape.gradient(loss, pictures)], [pictures])
        pictures.assign(tf.clip_by_value(pictures, -2.0, 2.0))
        return loss

    def take(steps):
        for _ in range(steps):
            loss = step()
        return float(loss)

    return take


def jax_loop(inner, loss_of, first, optimizer):
    import jax

    pictures = keras.Variable(first)
    optimizer.build([pictures])
    # Copies: a `fit` with the same teacher gives its arrays away.
    kinds = inner.trainable_variables, inner.non_trainable_variables
    weights = [[jax.numpy.copy(each.value) for each in kind] for kind in kinds]

    def loss_of_step(pictures, key, weights):
        shift = jax.random.randint(key, (2,), -JITTER, JITTER + 1)
        shown = jax.numpy.roll(pictures, shift, (1, 2))
        return loss_of(shown, inner.stateless_call(*weights, shown, training=False)[0])

    @jax.jit
    def step(state, key, weights):
        pictures, slots = state
        loss, gradient = jax.value_and_grad(loss_of_step)(pictures, key, weights)
        (pictures,), slots = optimizer.stateless_apply(slots, [gradient], [pictures])
        return (jax.numpy.clip(pictures, -2.0, 2.0), slots), loss

    state = pictures.value, [each.value for each in optimizer.variables]
    keys = iter(lambda: jax.random.key(np.random.default_rng().integers(2**31)), None)

    def take(steps):
        nonlocal state
        for _ in range(steps):
            state, loss = step(state, next(keys), weights)
        return float(loss)

    return take


LOOPS = {"tensorflow": tensorflow_loop, "jax": jax_loop}


def ours(teacher, count, size, steps, stages):
    """A function that paints as many pictures in as many steps."""
    side = size + size // 8 // 2 * 2
    canvases = [Canvas(teacher, count, side, stage, datafree.RELATIVE) for stage in stages]
    labels = np.eye(teacher.output_shape[-1], dtype="float32")[np.arange(count) % teacher.output_shape[-1]]

    def take(_):
        pictures = np.random.default_rng(0).normal(size=(count, side, side, 3)).astype("float32")
        for canvas in canvases:
            pictures = canvas.paint(pictures, labels, 0, 0.1)

    return take


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    size, count, steps = arguments.size, arguments.pictures, arguments.steps
    teacher = keras.applications.MobileNetV2((size, size, 3), weights=None, classes=100)
    one = (datafree.Stage(steps, size),)
    two = (datafree.Stage(2 * steps // 5, size // 2, pool=2), datafree.Stage(steps - 2 * steps // 5, size))
    kinds = {
        "plain loop": plain_loop(teacher, count, size, 0.1),
        "one stage": ours(teacher, count, size, steps, one),
        "stages": ours(teacher, count, size, steps, two),
    }
    for take in kinds.values():
        take(steps)
    times = np.empty((arguments.rounds, len(kinds), 2))
    for one_round in times:
        for index, take in enumerate(kinds.values()):
            start = np.array([time.perf_counter(), time.process_time()])
            take(steps)
            one_round[index] = [time.perf_counter(), time.process_time()] - start
    print(f"{teacher.name}, {count} pictures of {size} pixels, Keras {keras.__version__}, {keras.backend.backend()}")
    for name, each in zip(kinds, np.swapaxes(times, 0, 1), strict=True):
        quartiles = np.quantile(each / times[:, 0], (0.25, 0.5, 0.75), axis=0)
        clock, processor = (f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in quartiles.T)
        step = 1e3 * np.median(each[:, 0]) / steps / count
        print(
            f"{name:10}: {step:.2f} ms a picture and step, {clock} x the plain loop, {processor} of its processor time"
        )


if __name__ == "__main__":
    main()
