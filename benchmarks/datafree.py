"""What makes made-up pictures good: each part of the synthesis left out, and what a stranger sees in the pictures.

    python benchmarks/datafree.py --out datafree

Pictures are made from EfficientNet-Lite0 with its ImageNet weights; EfficientNet-Lite2, which had no part in it, is the
judge. Rows: `recursive`, everything; `one_hot`, labels that are not calibrated; `no_region`, windows as large as the
canvas; `no_statistics`, without the normalisations' statistics; `natural`, begun as noise with the spectrum of
photographs; `paper`, with the objective of the authors' code; `as_painted`, a teacher that sees pictures in the size of
the stage, not in that which it was trained on. A run that was stopped goes on; a row that is done is not made again.
"""

import argparse
import dataclasses
import pathlib
import time

from results import kept

from keras_mnv4 import datafree
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.applications import EfficientNetLite2

ROWS = {
    "recursive": {},
    "one_hot": {"labels": "one_hot"},
    "no_region": {"canvas": "window"},
    "no_statistics": {"objective": dataclasses.replace(datafree.RELATIVE, features=0.0)},
    "natural": {"noise": "natural"},
    "paper": {"objective": datafree.PAPER},
    "as_painted": {},
}
CLASSES = 1000


def make_row(name, arguments, teacher, judge):
    """Makes the pictures of a row and measures them."""
    how = dict(ROWS[name])
    if how.get("canvas") == "window":
        how["canvas"] = arguments.size
    if name == "as_painted":
        teacher = EfficientNetLite0(weights="imagenet", input_shape=(None, None, 3))
    classes = range(0, CLASSES, CLASSES // arguments.classes)[: arguments.classes]
    start = time.perf_counter()
    made = datafree.synthesize(
        teacher,
        arguments.pictures,
        arguments.out / name,
        classes=classes,
        rounds=max(1, arguments.pictures // arguments.classes),
        size=arguments.size,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        **how,
    )
    seconds = time.perf_counter() - start
    quality = datafree.measure_quality(made, teacher, judge)
    return {**dataclasses.asdict(quality), "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("datafree"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    teacher, judge = (build(weights="imagenet") for build in (EfficientNetLite0, EfficientNetLite2))
    print(f"{'':14}{'teacher':>9}{'judge':>9}{'top 5':>9}{'diversity':>11}{'statistics':>12}{'s a picture':>13}")
    for name in arguments.rows:
        path = arguments.out / f"{name}.json"
        row = kept(path, make_row, name, arguments, teacher, judge)
        shares = "".join(f"{row[key]:9.1%}" for key in ("teacher_top1", "judge_top1", "judge_top5"))
        rest = f"{row['diversity']:11.3f}{row['statistics_distance']:12.3f}{row['seconds'] / row['pictures']:13.2f}"
        print(f"{name:14}{shares}{rest}", flush=True)


if __name__ == "__main__":
    main()
