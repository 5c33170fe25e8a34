"""What quantisation-aware training costs: the time of a step over that of the float network, for MobileNetV2.

Each side trains its own float network and its own fake-quantised twin in turn, step by step, so that drift hits both
alike. A step is `train_on_batch`: forward, backward and SGD, on one batch of random pictures, with normalisation by
the batch's own statistics. Everything runs on TensorFlow, without XLA. Ratios are medians over rounds, between their
quartiles: of the time on the clock, and of the processor's, which other work on the machine disturbs less.

    python benchmarks/qat.py                      # 32 pictures of 32 and of 96 pixels
    python benchmarks/qat.py --sides keras_mnv4 --sizes 96 --rounds 30

| side | network | quantised by |
|---|---|---|
| `keras_mnv4` | MobileNetV2 of this package's blocks, in Keras 3 | `qat.quantize_model`, with TFMOT's quantisers |
| `tfmot` | `tf_keras.applications.MobileNetV2` | `tfmot.quantization.keras.quantize_model` |

The networks are the same but for padding at strides of 2. Each side runs in a process of its own: TFMOT needs Keras 2.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

CLASSES = 10
SIDES = ("keras_mnv4", "tfmot")


def mobilenet_v2():
    """MobileNetV2 (Sandler et al., arXiv 1801.04381, table 2) as rows of this package."""
    from keras_mnv4.applications import UIB
    from keras_mnv4.applications import Architecture
    from keras_mnv4.applications import Conv

    rows = [Conv(32, kernel=3, stride=2), UIB(16, expand=None, middle=3)]
    for filters, repeats, stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)):
        for index in range(repeats):
            rows.append(UIB(filters, expand=6, middle=3, stride=1 if index else stride))
    return Architecture("mobilenet_v2", (*rows, Conv(1280, kernel=1)), activation="relu6", head_filters=None)


def keras_mnv4_models(size):
    """The float and the fake-quantised network of this package, compiled."""
    import keras

    from keras_mnv4 import qat
    from keras_mnv4.applications import build_network

    shape = (size, size, 3)
    model = build_network(mobilenet_v2(), classes=CLASSES, input_shape=shape, include_preprocessing=False)
    models = (model, qat.quantize_model(model))
    for each in models:
        each.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    return models


def tfmot_models(size):
    """The float and the fake-quantised network of tf_keras and TFMOT, compiled."""
    import tensorflow_model_optimization as tfmot  # before `tf_keras`: it decides which Keras TensorFlow uses
    import tf_keras

    model = tf_keras.applications.MobileNetV2((size, size, 3), weights=None, classes=CLASSES)
    models = (model, tfmot.quantization.keras.quantize_model(model))
    for each in models:
        each.compile(tf_keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    return models


def step_times(models, size, batch, rounds):
    """Seconds of each step by the clock and by the processor, `(rounds, models, 2)`, the models taking turns."""
    random = np.random.default_rng(0)
    pictures = random.uniform(-1, 1, (batch, size, size, 3)).astype("float32")
    labels = random.integers(0, CLASSES, batch)
    for model in models:
        for _ in range(2):  # traces, then makes its buffers
            model.train_on_batch(pictures, labels)
    times = np.empty((rounds, len(models), 2))
    for one_round in times:
        for index, model in enumerate(models):
            start = np.array([time.perf_counter(), time.process_time()])
            model.train_on_batch(pictures, labels)
            one_round[index] = [time.perf_counter(), time.process_time()] - start
    return times


def measure_here(side, options):
    """Prints one line of JSON for each size: the size, and the seconds of both steps in each round."""
    for size in options.sizes:
        models = {"keras_mnv4": keras_mnv4_models, "tfmot": tfmot_models}[side](size)
        print(json.dumps([size, step_times(models, size, options.batch, options.rounds).tolist()]), flush=True)


def measure(side, options):
    """The size and the times of each measurement of one side, made in a process of its own."""
    command = [sys.executable, __file__, "--here", side, "--batch", options.batch, "--rounds", options.rounds]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if side == "tfmot":
        environment["TF_USE_LEGACY_KERAS"] = "1"
    done = subprocess.run(
        [str(part) for part in (*command, "--sizes", *options.sizes)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def main(options):
    from rich.console import Console
    from rich.table import Table

    table = Table("side", "pixels", "float step", "quantised step", "ratio", "ratio of processor time")
    for side in options.sides:
        for size, times in measure(side, options):
            plain, quantized = np.swapaxes(times, 0, 1)
            medians = (f"{1e3 * np.median(each[:, 0]):.0f} ms" for each in (plain, quantized))
            quartiles = np.quantile(quantized / plain, (0.25, 0.5, 0.75), axis=0)
            ratios = (f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in np.transpose(quartiles))
            table.add_row(side, str(size), *medians, *ratios)
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time of a step of quantisation-aware training over a float step.")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 96], help="heights and widths, in pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--here", choices=SIDES, help=argparse.SUPPRESS)  # measure in this process, as JSON
    arguments = parser.parse_args()
    measure_here(arguments.here, arguments) if arguments.here else main(arguments)
