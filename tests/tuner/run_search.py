"""A search of 120 short trials: `python run_search.py FOLDER`. Tests start it, and kill it.

It says that it is ready, and waits for a line before it begins. `MNV4_FAIL` makes all trials of two workers
fail, the first when both have one: Keras Tuner's chief does not wait for workers that it has not heard of.
"""

import os
import pathlib
import sys
import time

from planted import PlantedSupernet
from planted import costs_of

from keras_mnv4.tuner.evolution import EvolutionOracle
from keras_mnv4.tuner.uib_tuner import UIBTuner

NAME = os.environ.get("KERASTUNER_TUNER_ID", "alone")
POPULATION, TRIALS = 20, 120


class SlowSupernet(PlantedSupernet):
    """Takes its time, and writes down which process asks."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def score(self, candidate, validation_data, calibration_data=None):
        workers = self.folder / "workers.txt"
        with open(workers, "a") as file:
            file.write(NAME + "\n")
        if "MNV4_FAIL" in os.environ:
            while len(set(workers.read_text().split())) < 2:
                time.sleep(0.02)
            raise OSError("no space left")
        time.sleep(0.02)
        return super().score(candidate, validation_data, calibration_data)


def make(folder, supernet=None):
    costs = costs_of(macs=600_000)
    oracle = EvolutionOracle(costs, population=POPULATION, generations=TRIALS // POPULATION, seed=0)
    return UIBTuner(supernet or PlantedSupernet(), oracle, costs, log_dir=folder / "logs", directory=folder)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    tuner = make(folder, SlowSupernet(folder))
    print("ready", flush=True)
    sys.stdin.readline()
    tuner.search(None)
