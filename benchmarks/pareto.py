"""Cost-quality curves of a quantised ResNet-18: widths, policies and seeds, trained from scratch.

`python benchmarks/pareto.py FOLDER --epochs 6` trains them on a folder of images, one after the other, and keeps a
record of each in `--out`; the same command goes on where it was stopped. `--report` only prints what there is, and with
`--collect FILE` writes all records to one file.

To share the work, start several processes, each with KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT and a
KERASTUNER_TUNER_ID of its own. That of one is `chief`: it hands out the runs, the others train.
"""

import argparse
import dataclasses
import json
import pathlib

import keras

from keras_mnv4 import cost
from keras_mnv4 import data
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import MaxPool
from keras_mnv4.applications import build_network
from keras_mnv4.applications.resnet import UNITS
from keras_mnv4.files import atomic_file
from keras_mnv4.recipes import SGDRecipe

# ResNet-18 for pictures of 32 pixels: its first maps have 8, where those of ImageNet have 56.
RESNET18 = Architecture(
    "resnet18_32",
    (Conv(32, kernel=3, stride=2), MaxPool(kernel=3, stride=2), *UNITS["ResNet18"]),
    default_size=32,
    head_filters=None,
    has_fixed_stem=True,
    definition="timm",
)
TRAIN_PICTURES = 10_000  # to take the accuracy on the training set from


def policies(start_step):
    """Float, 8 bits, and 4 bits with 8 at both ends."""
    activations = qat.AQTActivationQuantizer(start_step=start_step)
    return {
        "float": None,
        "w8a8": qat.aqt_policy(8, 8, activations=activations),
        "w4a4_first_last_8": qat.aqt_policy(4, 4, first_last_bits=8, activations=activations),
    }


def make_study(arguments, pictures):
    """The study that the arguments ask for."""
    recipe = SGDRecipe(
        arguments.epochs,
        warmup_epochs=0.1 * arguments.epochs,
        cooldown_epochs=0.2 * arguments.epochs,
        learning_rate=arguments.learning_rate,
    )
    steps = len(pictures.train)
    start_step = round(0.25 * recipe.epochs * steps)
    shape = (arguments.size, arguments.size, 3)
    count = len(pictures.class_names)

    def build(width):
        return build_network(RESNET18, alpha=width, classes=count, input_shape=shape)

    def train(model, run, backups):
        pictures.train.reseed(run.seed)
        augmentation = [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(0.125, 0.125, fill_mode="constant", interpolation="nearest"),
        ]
        recipe.fit(model, pictures, augmentation, verbose=2, backup_dir=backups)
        return {
            "top1_train": training.top1(model, pictures.train, TRAIN_PICTURES),
            "top1_eval": training.top1(model, pictures.test),
        }

    return cost.ParetoStudy(
        arguments.out,
        networks={"resnet18": build},
        widths=arguments.widths,
        policies={name: policies(start_step)[name] for name in arguments.policies},
        seeds=range(arguments.seeds),
        train=train,
        settings={
            "recipe": dataclasses.asdict(recipe),
            "batch_size": arguments.batch_size,
            "size": arguments.size,
            "train_pictures": pictures.train.num_pictures,
            "test_pictures": pictures.test.num_pictures,
            "activation_bounds_from_step": start_step,
        },
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.125, 0.25, 0.375])
    parser.add_argument("--policies", nargs="+", choices=list(policies(0)), default=list(policies(0)))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pareto"))
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--collect", type=pathlib.Path)
    arguments = parser.parse_args()
    study = make_study(arguments, data.load_image_folder(arguments.folder, arguments.size, arguments.batch_size))
    if not arguments.report:
        study.run()
    records = study.records()
    print(cost.study_report(records))
    if arguments.collect is not None:
        with atomic_file(arguments.collect, overwrite=True) as temporary:
            temporary.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
