"""What a teacher is worth: MobileNetV4ConvSmall from scratch, by labels alone and by a teacher, in equal steps.

The teacher is EfficientNet-Lite0 with its weights of ImageNet, fine-tuned on the same pictures. All rows have the same
network, optimizer, schedule, batch and number of steps; they differ in the pictures and in what is learnt from them:

| row | pictures | learns |
|---|---|---|
| `scratch` | mirrored, shifted and zoomed by a tenth, as `mnv4 train` does | labels |
| `d1` | D1: Inception crop and RandAugment | the teacher's probabilities |
| `d2` | D2: Inception crop and Mixup | the teacher's probabilities |
| `mix` | D1 and D2, 1 : 1 | the teacher's probabilities |

    python benchmarks/distillation_accuracy.py --data FOLDER --size 160 --epochs 8

The teacher, its soft labels, the last epoch and the result of each run are kept in `--out`, where the same command goes
on after a stop. Soft labels are written once a row, `--replicas` changes of every picture, and shared by the seeds,
which draw the student's weights, the order and the mirrors. Students see all of a store before any of it again.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from fused_norm import use_fused_norms
from results import check_settings
from results import kept
from rich.console import Console
from rich.table import Table

from keras_mnv4 import data
from keras_mnv4 import distillation
from keras_mnv4 import training
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import replace_classifier
from keras_mnv4.backups import backup_callback
from keras_mnv4.backups import epochs_in
from keras_mnv4.files import atomic_file
from keras_mnv4.fitting import adamw
from keras_mnv4.fitting import fit_classifier

ROWS = {
    "scratch": (),
    "mix": (distillation.D1, distillation.D2),
    "d1": (distillation.D1,),
    "d2": (distillation.D2,),
}
SETTINGS = (
    "size",
    "epochs",
    "replicas",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "dropout",
    "teacher_epochs",
    "teacher_batch_size",
    "fused_norms",
    "limit",
)
TEACHER_BATCH = 32  # pictures that the teacher sees at a time; the student's batches are others


class Experiment:
    """What all runs share: pictures, the teacher, and a folder of results."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.out = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        check_settings(self.out, arguments, SETTINGS)
        self.pictures = self.load(arguments.batch_size)
        self.classes = len(self.pictures.class_names)
        self.files = sorted(
            path for path in (arguments.data / "train").rglob("*") if path.suffix.lower() in data.SUFFIXES
        )
        if arguments.limit:
            self.files = self.files[:: len(self.files) // arguments.limit][: arguments.limit]

    def load(self, batch_size):
        """The pictures, or the first of them, in batches."""
        size, limit = self.arguments.size, self.arguments.limit
        pictures = data.load_image_folder(self.arguments.data, size, batch_size)
        if not limit:
            return pictures
        train = data.PictureSet(*pictures.train.arrays(limit), size, batch_size, shuffle=True)
        return data.PictureData(pictures.class_names, train, pictures.validation, pictures.test)

    def optimizer(self):
        """That of `keras_mnv4.training.train`, for all rows."""
        arguments = self.arguments
        steps = arguments.epochs * len(self.pictures.train)
        return adamw(arguments.learning_rate, steps, weight_decay=arguments.weight_decay)

    def teacher(self):
        """EfficientNet-Lite0 with a head of its own; the head is trained first, alone, then all of it for a while."""
        path = self.out / "teacher.keras"
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(0)
        shape = (self.arguments.size, self.arguments.size, 3)
        pretrained = EfficientNetLite0(weights="imagenet", input_shape=shape, dropout_rate=self.arguments.dropout)
        teacher = replace_classifier(pretrained, self.classes)
        pictures = self.load(self.arguments.teacher_batch_size or self.arguments.batch_size)
        training.fine_tune(teacher, pictures, self.arguments.teacher_epochs, verbose=2)
        print(f"teacher: test top-1 {training.top1(teacher, self.pictures.test):.2%}", flush=True)
        with atomic_file(path) as temporary:
            teacher.save(temporary)
        return teacher

    def soft_labels(self, row):
        """The store of a row."""
        sources = [distillation.Source(self.files, augmentation=augmentation) for augmentation in ROWS[row]]
        arguments = self.arguments
        mix = distillation.DatasetMix(sources, arguments.size, batch_size=TEACHER_BATCH, epoch_size=len(self.files))
        replicas = arguments.replicas or arguments.epochs
        return distillation.write_soft_labels(mix, self.teacher(), self.out / f"soft_labels_{row}", replicas)

    def train(self, row, seed):
        """Trains one student; its accuracies."""
        keras.backend.clear_session()
        store = self.soft_labels(row) if ROWS[row] else None
        keras.utils.set_random_seed(seed)
        student = MobileNetV4ConvSmall(
            weights=None,
            input_shape=(self.arguments.size, self.arguments.size, 3),
            classes=self.classes,
            dropout_rate=self.arguments.dropout,
        )
        epochs, steps, start = self.arguments.epochs, len(self.pictures.train), time.perf_counter()
        backup_dir = self.out / f"backup_{row}_{seed}"
        if store is None:
            self.pictures.train.reseed(seed)
            augmentation = training.small_changes()
            how = {"verbose": 2, "backup_dir": backup_dir}
            fit_classifier(student, self.pictures, self.optimizer(), epochs, augmentation, **how)
        else:
            distiller = distillation.Distiller(student)
            distiller.compile(self.optimizer())
            distiller.optimizer.build(distiller.trainable_variables)
            seen = epochs_in(backup_dir) * steps
            pictures = store.tf_data(self.arguments.batch_size, seed=seed).repeat().skip(seen)
            how = {"verbose": 2, "callbacks": [backup_callback(backup_dir)], "steps_per_epoch": steps, "shuffle": False}
            distiller.fit(pictures, epochs=epochs, **how)
        result = {
            "row": row,
            "seed": seed,
            "steps": epochs * steps,
            "top1": training.top1(student, self.pictures.test),
            "validation_top1": training.top1(student, self.pictures.validation),
            "seconds": time.perf_counter() - start,
        }
        print(result, flush=True)
        return result

    def report(self):
        """A table of what there is."""
        found = {}
        for row in ROWS:
            paths = [self.out / f"{row}_{seed}.json" for seed in self.arguments.seeds]
            found[row] = {
                result["seed"]: result for result in (json.loads(path.read_text()) for path in paths if path.exists())
            }
        table = Table("row", "seeds", "test top-1", "least to most", "above scratch", "validation top-1")
        for row, results in found.items():
            if not results:
                continue
            scores = [result["top1"] for result in results.values()]
            validation = np.mean([result["validation_top1"] for result in results.values()])
            pairs = [
                result["top1"] - found["scratch"][seed]["top1"]
                for seed, result in results.items()
                if seed in found["scratch"]
            ]
            gap = f"{100 * np.mean(pairs):+.1f}" if pairs and row != "scratch" else ""
            spread = f"{min(scores):.1%} to {max(scores):.1%}"
            table.add_row(row, str(len(scores)), f"{np.mean(scores):.1%}", spread, gap, f"{validation:.1%}")
        Console().print(table)


def main(arguments):
    if arguments.fused_norms:
        use_fused_norms()
    experiment = Experiment(arguments)
    for seed in arguments.seeds:
        for row in arguments.rows:
            kept(arguments.out / f"{row}_{seed}.json", experiment.train, row, seed)
        experiment.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Test top-1 of a student from scratch, without and with a teacher.")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of images, split as `mnv4` reads it")
    parser.add_argument("--size", type=int, default=160, help="height and width, in pixels")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--replicas", type=int, default=0, help="changes of a picture in a store, 0 for one an epoch")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of the students, at its peak")
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--teacher-epochs", type=int, default=2, help="of fine-tuning all of the teacher")
    parser.add_argument("--teacher-batch-size", type=int, default=0, help="of fine-tuning, 0 for --batch-size")
    parser.add_argument("--fused-norms", action="store_true", help="faster normalisations: fused_norm.py")
    parser.add_argument("--limit", type=int, default=0, help="pictures to train on, 0 for all")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("distillation"))
    main(parser.parse_args())
