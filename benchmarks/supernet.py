"""What a step of a supernet costs: its time over that of the largest network of the space, and of a random one.

The three train in turn, step by step, so that drift hits all alike: `train_on_batch` with SGD, on random pictures. Of
the largest the depthwise convolutions are all there and all of the larger size. Ratios are medians over rounds, with
their quartiles, of the time on the clock.

    python benchmarks/supernet.py                 # 64 pictures of 32 pixels
    python benchmarks/supernet.py --rounds 30
"""

import argparse
import time

import keras
import numpy as np

from keras_mnv4 import tuner
from keras_mnv4.applications import build_network

CLASSES = 10


def step_times(models, pictures, labels, rounds):
    """Seconds of each step, `(rounds, models)`."""
    for model in models:
        for _ in range(2):  # traces, then makes its buffers
            model.train_on_batch(pictures, labels)
    times = np.empty((rounds, len(models)))
    for row in times:
        for place, model in enumerate(models):
            start = time.perf_counter()
            model.train_on_batch(pictures, labels)
            row[place] = time.perf_counter() - start
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    shape = (arguments.size, arguments.size, 3)
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (arguments.batch, *shape)).astype("uint8")
    labels = random.integers(0, CLASSES, arguments.batch)

    space = tuner.small_space()
    costs = tuner.CostModel(space, input_shape=shape, classes=CLASSES)
    candidates = space.mend(space.largest), space.sample(random)
    models = [tuner.SPOS(tuner.SuperNet(space, shape, CLASSES), costs, paths=64)]
    models += [build_network(space.architecture_of(each), classes=CLASSES, input_shape=shape) for each in candidates]
    for model in models:
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "sparse_categorical_crossentropy")
    times = step_times(models, pictures, labels, arguments.rounds)
    print(
        f"supernet: {np.median(times[:, 0]) * 1e3:.0f} ms a step, {arguments.batch} pictures of {arguments.size} pixels"
    )
    for place, (name, candidate) in enumerate(zip(("largest", "random"), candidates, strict=True), 1):
        low, middle, high = np.percentile(times[:, 0] / times[:, place], (25, 50, 75))
        macs = costs.cost(candidate, "macs") / 1e6
        print(f"over the {name} network, {macs:.0f} M MACs: {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
