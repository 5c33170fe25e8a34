"""Two stages against one, at the same number of evaluations, on landscapes of accuracies that are drawn by chance.

Nothing is trained. A landscape has an effect for each number in each row, and half of one for each pair of numbers in a
row; an accuracy is their sum, squeezed between 0 and 1. Effects of channels are `--channels` times as large as those of
kernels: how many channels there are matters most in real networks. One stage searches channels, depth and both kernels
together; two first channels, of inverted bottlenecks, then the rest. Both by evolution.

    python benchmarks/stages.py --evaluations 200 --channels 1 2 3 --landscapes 60
"""

import argparse
import itertools
import math
import tempfile

import numpy as np
from rich.progress import track

from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import choice

FIRST_SHARE = 0.3  # of the evaluations, for the first of two stages
POPULATION = 20
STAGES = [choice(8, 16, 24, 32, 40, 48, name=f"stage_{stage}") for stage in range(3)]
COARSE = tuner.SearchSpace(
    Architecture(
        "coarse",
        (
            Conv(8, kernel=3, stride=2),
            *(UIB(filters, expand=4, middle=3, stride=stride) for filters in STAGES for stride in (2, 1, 1)),
        ),
        default_size=32,
        head_filters=None,
    )
)


class Landscape:
    """An accuracy for each network, and what `UIBTuner` asks of a supernet."""

    trainable_variables = ()

    def __init__(self, seed, channels):
        self.random = np.random.default_rng(seed)
        self.channels = channels  # what effects of channels are multiplied by
        self.effects = {}

    def accuracy(self, space, candidate):
        total = 0.0
        for path, row in space.chosen(candidate):
            if isinstance(row, UIB):
                numbers = [(name, getattr(row, name)) for name in ("filters", "start", "middle")]
                total += sum(self.effect(path, each) for each in numbers)
                total += 0.5 * sum(self.effect(path, *pair) for pair in itertools.combinations(numbers, 2))
        return 1.0 / (1.0 + math.exp(-total / (5.0 + 5.0 * self.channels)))

    def effect(self, path, *numbers):
        scale = self.channels if [name for name, _ in numbers] == ["filters"] else 1.0
        return scale * self.effects.setdefault((path, numbers), self.random.normal())

    def score(self, candidate, validation_data, calibration_data=None):
        accuracy = self.accuracy(self.space, candidate)
        return {"accuracy": accuracy, "loss": -math.log(accuracy)}

    def best(self, space, evaluations):
        """The best candidate that evolution finds."""
        self.space = space
        costs = tuner.CostModel(space, input_shape=(32, 32, 3), classes=3)
        generations = max(1, round(evaluations / POPULATION))
        oracle = tuner.EvolutionOracle(costs, population=POPULATION, generations=generations, parents=5, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            search = tuner.UIBTuner(self, oracle, costs, directory=folder)
            search.search(validation_data=None, verbose=0)
            return search.best_candidate()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--channels", type=float, nargs="+", default=[1, 2, 3])
    parser.add_argument("--landscapes", type=int, default=20)
    arguments = parser.parse_args()
    for evaluations, channels in itertools.product(arguments.evaluations, arguments.channels):
        first = max(1, round(FIRST_SHARE * evaluations / POPULATION)) * POPULATION
        pairs = []
        for seed in track(range(arguments.landscapes), f"{evaluations} evaluations, channels {channels:g} times"):
            landscape = Landscape(seed, channels)
            whole = tuner.fine_space(COARSE.architecture)
            fine = tuner.fine_space(COARSE.architecture_of(landscape.best(COARSE, first)))
            of_two = landscape.accuracy(fine, landscape.best(fine, evaluations - first))
            pairs.append((landscape.accuracy(whole, landscape.best(whole, evaluations)), of_two))
        one, two = np.transpose(pairs)
        error = (two - one).std(ddof=1) / math.sqrt(len(pairs))
        print(
            f"{evaluations} evaluations, channels {channels:g} times, {len(pairs)} landscapes: one stage "
            f"{one.mean():.3f}, two {two.mean():.3f}, difference {(two - one).mean():+.3f} with a standard error of "
            f"{error:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
