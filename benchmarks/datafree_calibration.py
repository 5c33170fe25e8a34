"""Ranges from made-up pictures against ranges from real ones: what an 8-bit network keeps of its float self.

    python benchmarks/datafree_calibration.py --data FOLDER --size 160

The network is EfficientNet-Lite0 with a classifier for these classes, trained on what ImageNet taught the rest; a
`.keras` file, `--model`, with normalisations that are not folded; or, `--imagenet`, EfficientNet-Lite0 as it is, which
knows none of these classes: it has no top-1. Pictures are made of the network alone. Each row quantises it with other
pictures, as many of each: real ones, those that were made, and noise, which any network could be given. Figures are the
test top-1, and the share of the test set of which it says what the float network says: with ranges calibrated, with
biases corrected, and with kernels rounded on the same pictures. What is made is kept in `--out`.
"""

import argparse
import pathlib

import keras
import numpy as np
from results import kept
from rich.console import Console
from rich.table import Table

from keras_mnv4 import data
from keras_mnv4 import datafree
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.applications import replace_classifier
from keras_mnv4.files import atomic_file

WAYS = {
    "ranges": lambda model, pictures: None,
    "and biases": qat.correct_biases,
    "and rounding": qat.optimize_rounding,
}


def network(arguments, pictures):
    """The float network: the file that was given, ImageNet's, or one that is trained and kept."""
    if arguments.model is not None:
        return keras.models.load_model(arguments.model)
    pretrained = EfficientNetLite0(weights="imagenet", input_shape=(arguments.size, arguments.size, 3))
    if arguments.imagenet:
        return pretrained
    path = arguments.out / "model.keras"
    if not path.exists():
        keras.utils.set_random_seed(0)
        model = replace_classifier(pretrained, len(pictures.class_names))
        training.fine_tune(model, pictures, epochs=0)
        with atomic_file(path) as temporary:
            model.save(temporary)
    return keras.models.load_model(path)


def samples(arguments, model, pictures):
    """`{row: pictures to calibrate on}`."""
    made = datafree.synthesize(
        model,
        arguments.pictures,
        arguments.out / "made",
        classes=range(0, 992, 31) if arguments.imagenet else None,
        rounds=arguments.rounds,
        steps=arguments.steps,
        batch_size=32,
        class_names=None if arguments.imagenet else pictures.class_names,
    )
    real = pictures.train.arrays(arguments.pictures)[0]
    noise = np.random.default_rng(0).integers(0, 256, real.shape, "uint8")
    return {"real": real, "made": made.arrays(arguments.size)[0], "noise": noise}


def answers(model, policy, sample, improve, shown):
    """The classes that the network says for pictures when it is quantised on a sample."""
    quantized = qat.quantize_model(model, policy)
    qat.calibrate(quantized, sample)
    improve(quantized, sample)
    return quantized.predict(shown, verbose=0).argmax(-1).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of images, split as `mnv4` reads it")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--model", type=pathlib.Path, help=".keras file of a classifier of these images")
    given.add_argument("--imagenet", action="store_true", help="the network with ImageNet's classes")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--policy", default="w8a8")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("datafree_calibration"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures = data.load_image_folder(arguments.data, arguments.size)
    model = network(arguments, pictures)
    shown, labels = pictures.test.arrays()
    before = model.predict(shown, verbose=0).argmax(-1)
    table = Table(f"{len(shown)} to test on", *(f"{way}: {figure}" for way in WAYS for figure in ("top-1", "as float")))
    if not arguments.imagenet:
        table.add_row("float", f"{np.mean(before == labels):.2%}")
    for row, sample in samples(arguments, model, pictures).items():
        cells = []
        for way, improve in WAYS.items():
            record = arguments.out / f"{row}_{way.replace(' ', '_')}.json"
            after = np.array(kept(record, answers, model, arguments.policy, sample, improve, shown))
            top1, as_float = (f"{np.mean(after == expected):.2%}" for expected in (labels, before))
            cells += ["" if arguments.imagenet else top1, as_float]
        table.add_row(row, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
