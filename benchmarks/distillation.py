"""What a teacher's stored probabilities save: pictures a second that reach a student, against a teacher online.

The three sides take turns, round by round, in one process, so that drift hits all alike. None of them trains: a step
of the student costs the same behind each. Pictures are crops of scikit-learn's two photos, JPEG of quality 95 in the
store; weights are random, which does not matter to the time. Ratios are medians over rounds, between their quartiles.

    python benchmarks/distillation.py                            # EfficientNet-Lite0 at 224 pixels
    python benchmarks/distillation.py --teacher EfficientNetLite2 --size 260 --top-k 10

| side | what it does for a picture |
|---|---|
| stored | reads, decodes and mirrors it; its probabilities lie beside it. A pass begins anew each round |
| online | crops and changes it (D1 and D2, 1 : 1), in as many threads as there are cores, while the teacher computes |
| teacher only | has it in memory; the teacher computes |
"""

import argparse
import os
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from keras_mnv4 import applications
from keras_mnv4 import distillation

CLASSES = 1000


def photo_crops(count, size):
    photos, random = load_sample_images().images, np.random.default_rng(0)
    corners = random.integers(0, np.array(photos[0].shape[:2]) - size + 1, (count, 2))
    return np.stack(
        [photos[index % 2][top : top + size, left : left + size] for index, (top, left) in enumerate(corners)]
    )


def seconds_of_each(sides, rounds):
    """Seconds of each side in each round, `(rounds, sides)`."""
    seconds = np.empty((rounds, len(sides)))
    for run in sides.values():
        run()  # compiles, fills the caches of files
    for one_round in seconds:
        for index, run in enumerate(sides.values()):
            start = time.perf_counter()
            run()
            one_round[index] = time.perf_counter() - start
    return seconds


def main(options):
    build = getattr(applications, options.teacher)
    teacher = build(weights=None, classes=CLASSES, input_shape=(options.size, options.size, 3))
    photos = photo_crops(options.pictures, min(2 * options.size, 420))
    sources = [distillation.Source(photos, augmentation=each) for each in (distillation.D1, distillation.D2)]
    mix = distillation.DatasetMix(
        sources,
        options.size,
        batch_size=options.batch,
        epoch_size=options.pictures,
        threads=len(os.sched_getaffinity(0)),
    )
    steps = len(mix)
    in_memory = [mix.batch(step)[0] for step in range(steps)]
    with tempfile.TemporaryDirectory() as folder:
        store = distillation.write_soft_labels(mix, teacher, folder, top_k=options.top_k)
        size = sum(path.stat().st_size for path in store.shards) / store.num_pictures

        def stored():
            for _ in store.tf_data(options.batch, verify=False):
                pass

        def online():
            for (pictures,) in mix.tf_data().take(steps).as_numpy_iterator():
                teacher.predict_on_batch(pictures)

        def teacher_only():
            for pictures in in_memory:
                teacher.predict_on_batch(pictures)

        sides = {"stored": stored, "online": online, "teacher only": teacher_only}
        seconds = seconds_of_each(sides, options.rounds)
    table = Table("side", "pictures a second", "times as slow as stored")
    for index, side in enumerate(sides):
        low, middle, high = np.quantile(seconds[:, index] / seconds[:, 0], (0.25, 0.5, 0.75))
        rate = options.pictures / np.median(seconds[:, index])
        table.add_row(side, f"{rate:,.0f}", f"{middle:.1f} ({low:.1f} to {high:.1f})")
    console = Console()
    console.print(
        f"{options.teacher}, {options.size} pixels, batches of {options.batch}, {options.rounds} rounds of "
        f"{options.pictures} pictures, {size / 1e3:.0f} kB each in the store"
    )
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pictures a second: a teacher's stored probabilities against online.")
    parser.add_argument("--teacher", default="EfficientNetLite0", help="a constructor of keras_mnv4.applications")
    parser.add_argument("--size", type=int, default=224, help="height and width, in pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures a batch")
    parser.add_argument("--pictures", type=int, default=256, help="pictures a round")
    parser.add_argument("--top-k", type=int, help="probabilities kept a picture; default, all")
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
