"""Searches on made-up pictures against the same searches on real ones: is what they find as good?

`python benchmarks/datafree_search.py FOLDER` trains a teacher on a folder of images, 32 pixels wide, has it paint as
many pictures as there are real ones to search on, and searches the space of `search.py` by three strategies on either,
under the same limit, for as many epochs. What is found is trained from scratch on real pictures, and so are random
networks of the space within the limit. Each seed is of a whole search and of the training of what it found. Parts are
kept in `--out`, where the same command goes on after a stop; they can run side by side:

| `--part` | does | needs |
|---|---|---|
| `pictures` | trains the teacher, a ResNet-18 of half the width, and has it paint | |
| `made`, `real` | searches on made-up, or on real pictures; trains what is found | `pictures` |
| `random` | trains random networks within the limit | |
| `report` | test top-1 of all | |

On made-up pictures networks learn what the teacher says of them, as augmented; on real ones the labels of the pictures.
"""

import argparse
import pathlib

import keras
import numpy as np
import search
from datafree import NATURAL
from pareto import RESNET18

from keras_mnv4 import data
from keras_mnv4 import datafree
from keras_mnv4 import training
from keras_mnv4 import tuner
from keras_mnv4.applications import build_network
from keras_mnv4.files import atomic_file

STRATEGIES = ("spos", "darts", "proxylessnas")
PARTS = ("pictures", "made", "real", "random", "report")
TRAIN_SHARE = 0.7  # of the pictures of a search; candidates are scored on the others


class Experiment(search.Experiment):
    """What all parts share: that of `search.py`, and a teacher."""

    def teacher(self):
        """ResNet-18 of half the width, trained unless it is there."""
        path = self.out / "teacher.keras"
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(0)
        shape = (search.SIZE, search.SIZE, 3)
        teacher = build_network(RESNET18, alpha=0.5, classes=self.classes, input_shape=shape)
        all_pictures = data.load_image_folder(self.arguments.folder, search.SIZE, 128)
        training.train(teacher, all_pictures, self.arguments.teacher_epochs, verbose=2)
        print(f"teacher: test top-1 {training.top1(teacher, all_pictures.test):.2%}", flush=True)
        with atomic_file(path) as temporary:
            teacher.save(temporary)
        return teacher

    def made(self):
        """The pictures that the teacher painted."""
        return datafree.synthesize(
            self.teacher(),
            self.arguments.pictures,
            self.out / "made",
            **NATURAL,
            rounds=self.arguments.rounds,
            steps=self.arguments.steps,
            batch_size=250,
            class_names=self.pictures.class_names,
            verbose=2,
        )

    def to_search_on(self, kind):
        """Training and validation pictures of a search, as many of either kind, and how to train on them."""
        batch = self.arguments.batch_size
        if kind == "made":
            shares = (TRAIN_SHARE, 1 - TRAIN_SHARE, 0.0)
            return self.made().picture_data(search.SIZE, batch, shares), {"teacher": self.teacher()}
        inputs, labels = self.pictures.train.arrays(self.arguments.pictures)
        order = np.random.default_rng(0).permutation(len(labels))
        sets = [
            data.PictureSet(inputs[part], labels[part], search.SIZE, batch, shuffle=not place)
            for place, part in enumerate(np.split(order, [round(TRAIN_SHARE * len(order))]))
        ]
        return data.PictureData(self.pictures.class_names, *sets, self.pictures.test), {}

    def find(self, kind, strategy, seed):
        """The candidate that a strategy finds on pictures of a kind."""
        keras.backend.clear_session()
        pictures, how = self.to_search_on(kind)
        how |= {
            "augmentation": self.augmentation(),
            "limits": {"macs": self.limit},
            "epochs": self.arguments.search_epochs,
            "learning_rate": self.arguments.learning_rate,
            "seed": seed,
        }
        folder = self.out / f"{kind}_{strategy}_{seed}"
        if strategy != "spos":
            how |= {"architecture_learning_rate": self.arguments.architecture_learning_rate}
            return tuner.gradient_search(search.SPACE, pictures, folder, strategy, **how)
        how |= {"uniform_in": "macs", "population": search.POPULATION, "generations": self.arguments.generations}
        how |= {"objective": self.arguments.objective}
        return tuner.search(search.SPACE, pictures, folder, **how).best_candidate()

    def search_on(self, kind):
        """Searches by the strategies asked for, and trains what they find."""
        for strategy in self.arguments.strategies:
            for seed in range(self.arguments.seeds):
                found = self.kept(f"{kind}_{strategy}_{seed}_found", self.find, kind, strategy, seed)
                architecture = search.SPACE.architecture_of(found)
                self.kept(f"{kind}_{strategy}_{seed}", self.train_alone, architecture, seed=seed)

    def random(self):
        """Trains random networks within the limit."""
        costs = tuner.CostModel(search.SPACE, {"macs": self.limit}, (search.SIZE, search.SIZE, 3), self.classes)
        random = np.random.default_rng(2)
        for index in range(self.arguments.randoms):
            self.kept(f"random_{index}", self.train_alone, search.SPACE.architecture_of(costs.sample(random)))

    def report(self):
        for name in ("random", *(f"{kind}_{strategy}" for strategy in STRATEGIES for kind in ("real", "made"))):
            results = [self.result(f"{name}_{index}") for index in range(self.arguments.randoms)]
            scores = [each["top1"] for each in results if each]
            if scores:
                macs = np.mean([each["macs"] for each in results if each]) / 1e6
                spread = f"from {min(scores):.2%} to {max(scores):.2%}"
                error = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.nan
                mean = f"top-1 {np.mean(scores):.2%} (standard error {error:.2%})"
                print(f"{name:18} {len(scores)} runs, {macs:.2f} M MACs, {mean}, {spread}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=4000, help="to search on, of either kind")
    parser.add_argument("--rounds", type=int, default=4, help="of the calibration of labels")
    parser.add_argument("--steps", type=int, default=250, help="of painting")
    parser.add_argument("--search-epochs", type=int, default=40)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument(
        "--objective", choices=("val_accuracy", "val_loss"), default="val_accuracy", help="of evolution, for spos"
    )
    parser.add_argument("--train-pictures", type=int, default=20000, help="real ones, to train what is found on")
    parser.add_argument("--epochs", type=int, default=8, help="of networks that are trained from scratch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument(
        "--architecture-learning-rate", type=float, default=None, help="of the choices, by gradients; default: papers'"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--randoms", type=int, default=9, help="random networks")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("datafree_search"))
    parser.set_defaults(candidates=0)
    experiment = Experiment(parser.parse_args())
    parts = {
        "pictures": experiment.made,
        "made": lambda: experiment.search_on("made"),
        "real": lambda: experiment.search_on("real"),
        "random": experiment.random,
        "report": experiment.report,
    }
    for part in experiment.arguments.part:
        parts[part]()


if __name__ == "__main__":
    main()
