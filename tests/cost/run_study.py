"""A study of forty short runs: `python run_study.py FOLDER [WORKERS]`. Tests start it, and kill it.

Workers wait for each other before they begin. `MNV4_FAIL` names one whose runs fail.
"""

import os
import pathlib
import sys
import time

import keras

from keras_mnv4 import cost

NAME = os.environ.get("KERASTUNER_TUNER_ID", "alone")


class NotedStudy(cost.ParetoStudy):
    """Writes down which process finishes a run."""

    def carry_out(self, run):
        is_new = self.record(run) is None
        if is_new:
            print("started", flush=True)
        record = super().carry_out(run)
        if is_new:
            note(self.directory / "workers.txt", NAME)
        return record


def note(path, line):
    with open(path, "a") as file:
        file.write(line + "\n")


def tiny(width):
    return keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(4, 1)])


def train(model, run, backups):
    if os.environ.get("MNV4_FAIL") == NAME:
        raise OSError("no space left")
    time.sleep(0.02)
    return {"top1_train": 0.5, "top1_eval": 0.5, "made_at": time.time()}


def wait_for_others(folder, workers):
    note(folder / "ready.txt", NAME)
    while len((folder / "ready.txt").read_text().split()) < workers:
        time.sleep(0.1)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    study = NotedStudy(folder, {"tiny": tiny}, [1.0], {"float": None}, range(40), train)
    if len(sys.argv) > 2 and NAME != "chief":
        wait_for_others(folder, int(sys.argv[2]))
    study.run(verbose=0)
