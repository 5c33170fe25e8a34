"""What a teacher is worth to a network of few bits: its float self, against quantisation-aware training by labels.

For each seed, MobileNetV4ConvSmall is trained from scratch on a folder of images, quantised as `mnv4 quantize` does,
and trained on in three ways, from the same start, with the same optimizer and number of steps, on the same pictures.
They are shifted, zoomed and mirrored as in the training of the float network. With `--qat-pictures`, quantised networks
have so many of them only, as where the data of the float network are gone but for a few.

| row | learns |
|---|---|
| `float` | labels; it is where all others begin, and the teacher |
| `plain` | labels |
| `distilled` | the probabilities of its float self, without labels |
| `both` | these probabilities and labels, the sum of both losses |

    python benchmarks/distillation_qat.py --data cifar10 --epochs 15 --qat-epochs 4

Float networks and results are kept in `--out`, where the same command goes on after a stop.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from keras import ops
from results import kept
from rich.console import Console
from rich.table import Table

from keras_mnv4 import data
from keras_mnv4 import distillation
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.files import atomic_file
from keras_mnv4.files import write_json
from keras_mnv4.fitting import adamw

ROWS = ("float", "plain", "distilled", "both")
SETTINGS = (
    "size",
    "epochs",
    "qat_epochs",
    "qat_pictures",
    "batch_size",
    "learning_rate",
    "qat_learning_rate",
    "policy",
    "limit",
)


class Changed(keras.utils.PyDataset):
    """Batches of a `PictureSet`, changed by layers, with labels one-hot."""

    def __init__(self, pictures, layers, classes):
        super().__init__()
        self.pictures, self.change, self.classes = pictures, keras.Sequential(layers), classes

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        pictures, labels = self.pictures[index]
        changed = ops.convert_to_numpy(self.change(pictures, training=True))
        return changed, np.eye(self.classes, dtype="float32")[labels]

    def on_epoch_end(self):
        self.pictures.on_epoch_end()


def some_of(pictures, count):
    """So many pictures of a `PictureSet`, spread over it, as another."""
    inputs, labels = pictures.arrays(count)
    return data.PictureSet(inputs, labels, pictures.size, pictures.batch_size, shuffle=True)


class Experiment:
    """What all runs share: pictures and a folder of results."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.out = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(arguments, name) for name in SETTINGS}
        if not (self.out / "settings.json").exists():
            write_json(self.out / "settings.json", settings)
        if json.loads((self.out / "settings.json").read_text()) != settings:
            raise SystemExit(f"'{self.out}' has results of other settings, {self.out / 'settings.json'}: name another.")
        self.pictures = data.load_image_folder(arguments.data, arguments.size, arguments.batch_size)
        if arguments.limit:
            train = some_of(self.pictures.train, arguments.limit)
            self.pictures = data.PictureData(
                self.pictures.class_names, train, self.pictures.validation, self.pictures.test
            )
        self.qat_pictures = self.pictures.train
        if arguments.qat_pictures:
            self.qat_pictures = some_of(self.pictures.train, arguments.qat_pictures)
        self.classes = len(self.pictures.class_names)

    def float_model(self, seed):
        """The float network of a seed, trained unless it is there."""
        path = self.out / f"float_{seed}.keras"
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(seed)
        shape = (self.arguments.size, self.arguments.size, 3)
        model = MobileNetV4ConvSmall(weights=None, input_shape=shape, classes=self.classes)
        self.pictures.train.reseed(seed)
        training.train(model, self.pictures, self.arguments.epochs, self.arguments.learning_rate, verbose=2)
        with atomic_file(path) as temporary:
            model.save(temporary)
        return model

    def run(self, row, seed):
        """Trains one network; its accuracies."""
        keras.backend.clear_session()
        model = teacher = self.float_model(seed)
        if row != "float":
            keras.utils.set_random_seed(seed)
            model = self.begin(teacher)
            self.qat_pictures.reseed(seed)
            pictures = Changed(self.qat_pictures, training.small_changes(), self.classes)
            epochs = self.arguments.qat_epochs
            optimizer = adamw(self.arguments.qat_learning_rate, epochs * len(pictures))
            trained = model if row == "plain" else distillation.Distiller(model, teacher=teacher)
            trained.compile(optimizer, None if row == "distilled" else "categorical_crossentropy", metrics=["accuracy"])
            trained.fit(pictures, epochs=epochs, verbose=2)
        result = {
            "row": row,
            "seed": seed,
            "top1": training.top1(model, self.pictures.test),
            "validation_top1": training.top1(model, self.pictures.validation),
        }
        print(result, flush=True)
        return result

    def begin(self, teacher):
        """The quantised network as `keras_mnv4.training.quantize` has it before it is trained."""
        quantized = qat.quantize_model(teacher, self.arguments.policy)
        qat.calibrate(quantized, self.qat_pictures.arrays(training.CALIBRATION_PICTURES)[0])
        qat.correct_biases(quantized, training.correction_pictures(self.qat_pictures))
        qat.freeze_statistics(quantized)
        return quantized

    def report(self):
        """A table of what there is."""
        table = Table("row", "seeds", "test top-1", "least to most", "to float", "validation top-1")
        found = {}
        for row in ROWS:
            paths = [self.out / f"{row}_{seed}.json" for seed in self.arguments.seeds]
            results = [json.loads(path.read_text()) for path in paths if path.exists()]
            found[row] = {result["seed"]: result["top1"] for result in results}
            if not results:
                continue
            scores = list(found[row].values())
            gaps = [100 * (top1 - found["float"][seed]) for seed, top1 in found[row].items()]
            table.add_row(
                row,
                str(len(scores)),
                f"{np.mean(scores):.2%}",
                f"{min(scores):.2%} to {max(scores):.2%}",
                f"{np.mean(gaps):+.2f}",
                f"{np.mean([result['validation_top1'] for result in results]):.2%}",
            )
        Console().print(table)


def main(arguments):
    experiment = Experiment(arguments)
    for seed in arguments.seeds:
        for row in ROWS:
            kept(arguments.out / f"{row}_{seed}.json", experiment.run, row, seed)
        experiment.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Test top-1 of quantised networks, taught by labels or by themselves.")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of images, split as `mnv4` reads it")
    parser.add_argument("--size", type=int, default=32, help="height and width, in pixels")
    parser.add_argument("--epochs", type=int, default=15, help="of the float network")
    parser.add_argument("--qat-epochs", type=int, default=4)
    parser.add_argument("--qat-pictures", type=int, default=0, help="that quantised networks train on, 0 for all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of the float network")
    parser.add_argument("--qat-learning-rate", type=float, default=training.LEARNING_RATE_FEWER_BITS)
    parser.add_argument("--policy", default="w4a8")
    parser.add_argument("--limit", type=int, default=0, help="pictures to train on, 0 for all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("distillation_qat"))
    main(parser.parse_args())
