"""Searches on made-up pictures against the same searches on real ones: is what they find as good?

`python benchmarks/datafree_search.py FOLDER` trains a teacher on a folder of images, 32 pixels wide, has it paint
pictures, and searches a small space by three strategies on these, and on all real training pictures, under the same
limit and for as many steps. What is found is trained from scratch on real pictures, and so are random networks of the
space within the limit. Each seed is of a whole search and of the trainings of what it found. Parts are kept in `--out`,
where the same command goes on after a stop; they can run side by side:

| `--part` | does | needs |
|---|---|---|
| `pictures` | trains the teacher, a ResNet-18 of half the width, and has it paint | |
| `made`, `real` | searches on made-up, or on real pictures; trains what is found | `pictures` |
| `random` | trains random networks within the limit | |
| `report` | test top-1 of all | |
| `ranks`, if asked for | Kendall's tau of SPOS's scores with the accuracies of all networks | the others |

On made-up pictures networks learn what the teacher says of them, as changed in training, on real ones their labels. All
else is alike.

The space is of two stages of universal inverted bottlenecks in their four kinds, with expansion and depth to choose:
networks of 0.4 to 2.9 M multiply-accumulates. Channels are fixed, as in the spaces of DARTS and ProxylessNAS.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
import search
from fused_norm import use_fused_norms
from pareto import RESNET18
from results import check_settings

from keras_mnv4 import data
from keras_mnv4 import datafree
from keras_mnv4 import training
from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import build_network
from keras_mnv4.applications import choice
from keras_mnv4.files import atomic_file
from keras_mnv4.fitting import adamw
from keras_mnv4.fitting import fit_classifier
from keras_mnv4.tuner.search import CALIBRATION_PICTURES

STRATEGIES = ("spos", "darts", "proxylessnas")
KINDS = ("real", "made")
PARTS = ("pictures", "made", "real", "random", "report", "ranks")
SETTINGS = (
    "teacher_epochs",
    "pictures",
    "rounds",
    "steps",
    "search_steps",
    "generations",
    "objective",
    "train_pictures",
    "epochs",
    "batch_size",
    "learning_rate",
    "architecture_learning_rate",
    "architecture_every",
)
SCORE_PICTURES = {"made": 1000, "real": 3000}  # that candidates are scored on

# ResNet-18 for pictures of 32 pixels: its first maps have 16, where those of ImageNet have 56.
TEACHER = Architecture(
    "resnet18_teacher",
    (Conv(32, kernel=3, stride=2), *RESNET18.blocks[2:]),
    default_size=search.SIZE,
    head_filters=None,
    has_fixed_stem=True,
    definition="timm",
)


def stage(filters, depth):
    """Rows of a stage: inverted bottlenecks of any of the four kinds, those behind the first may be left out."""
    how = {"expand": choice(1, 2, 4), "start": choice(0, 3), "middle": choice(0, 3)}
    return UIB(filters, stride=2, **how), *[choice(None, UIB(filters, **how))] * (depth - 1)


SPACE = tuner.SearchSpace(
    Architecture(
        "datafree_32",
        (
            Conv(16, kernel=3, stride=2),
            *stage(32, depth=2),
            *stage(64, depth=3),
            Conv(128, kernel=1),
        ),
        default_size=search.SIZE,
        head_filters=None,
    )
)


class Experiment(search.Experiment):
    """What all parts share: that of `search.py`, its own space, and a teacher."""

    space = SPACE

    def __init__(self, arguments):
        super().__init__(arguments)
        check_settings(self.out, arguments, SETTINGS)

    def teacher(self):
        """The teacher, trained unless it is there."""
        path = self.out / "teacher.keras"
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(0)
        shape = (search.SIZE, search.SIZE, 3)
        teacher = build_network(TEACHER, alpha=0.5, classes=self.classes, input_shape=shape)
        pictures = self.all_pictures(batch_size=128)
        epochs = self.arguments.teacher_epochs
        optimizer = adamw(3e-3, epochs * len(pictures.train), warmup_share=0.1)
        fit_classifier(teacher, pictures, optimizer, epochs, self.augmentation(), verbose=2)
        print(f"teacher: test top-1 {training.top1(teacher, pictures.test):.2%}", flush=True)
        with atomic_file(path) as temporary:
            teacher.save(temporary)
        return teacher

    def all_pictures(self, batch_size):
        """All real pictures, where `self.pictures` has those that networks are trained from scratch on."""
        return data.load_image_folder(self.arguments.folder, search.SIZE, batch_size)

    def made(self):
        """The pictures that the teacher painted."""
        return datafree.synthesize(
            self.teacher(),
            self.arguments.pictures,
            self.out / "made",
            noise="natural",
            rounds=self.arguments.rounds,
            steps=self.arguments.steps,
            batch_size=250,
            class_names=self.pictures.class_names,
            verbose=2,
        )

    def to_search_on(self, kind):
        """Training and validation pictures of a search, and who says the labels of the former."""
        batch, scored = self.arguments.batch_size, SCORE_PICTURES[kind]
        if kind == "made":
            shares = (self.arguments.pictures - scored, scored, 0)
            return self.made().picture_data(search.SIZE, batch, shares), {"teacher": self.teacher()}
        every = self.all_pictures(batch)
        train = data.PictureSet(*every.train.arrays(), search.SIZE, batch, shuffle=True)
        validation = data.PictureSet(*every.validation.arrays(scored), search.SIZE, batch)
        return data.PictureData(every.class_names, train, validation, every.test), {}

    def find(self, kind, strategy, seed):
        """The candidate that a strategy finds on pictures of a kind."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        pictures, how = self.to_search_on(kind)
        by_gradients = strategy != "spos"  # weights then learn on half of the pictures
        how |= {
            "limits": {"macs": self.limit},
            "epochs": round(self.arguments.search_steps * (1 + by_gradients) / len(pictures.train)),
            "learning_rate": self.arguments.learning_rate,
            "augmentation": self.augmentation(),
            "seed": seed,
        }
        folder = self.out / f"{kind}_{strategy}_{seed}"
        if by_gradients:
            how |= {"architecture_learning_rate": self.arguments.architecture_learning_rate}
            if strategy == "proxylessnas":
                how |= {"every": self.arguments.architecture_every}
            return tuner.gradient_search(self.space, pictures, folder, strategy, **how)
        how |= {"uniform_in": "macs", "population": search.POPULATION, "generations": self.arguments.generations}
        how |= {"objective": self.arguments.objective}
        return tuner.search(self.space, pictures, folder, **how).best_candidate()

    def search_on(self, kind):
        """Searches by the strategies asked for, and trains what they find."""
        for strategy in self.arguments.strategies:
            for seed in self.arguments.seeds:
                name = f"{kind}_{strategy}_{seed}"
                found = self.kept(f"{name}_found", self.find, kind, strategy, seed)
                self.train_found(name, found)

    def train_found(self, name, candidate):
        """Trains a candidate as often as asked for, each time with another seed."""
        architecture = self.space.architecture_of(candidate)
        for seed, result in enumerate(self.trained(name)):
            self.kept(result, self.train_alone, architecture, seed=seed)

    def random(self):
        """Trains random networks within the limit."""
        for name, candidate in self.random_candidates():
            self.train_found(name, candidate)

    def random_candidates(self):
        """Pairs of the name of a random network and its candidate."""
        costs = tuner.CostModel(self.space, {"macs": self.limit}, (search.SIZE, search.SIZE, 3), self.classes)
        random = np.random.default_rng(2)
        return [(f"random_{index}", costs.sample(random)) for index in range(self.arguments.randoms)]

    def ranks(self):
        """Prints how well supernets order all networks that were trained alone."""
        numbers = range(self.arguments.randoms)
        names = [f"{kind}_{strategy}_{number}" for kind in KINDS for strategy in STRATEGIES for number in numbers]
        found = [(name, self.result(f"{name}_found")) for name in names]
        known = {}  # each network once, however often it was found
        for name, candidate in (*self.random_candidates(), *found):
            trained = [each["top1"] for each in map(self.result, self.trained(name)) if each]
            if candidate and trained:
                architecture = json.dumps(self.space.architecture_of(candidate).to_dict(), sort_keys=True)
                known[architecture] = candidate, np.mean(trained)
        accuracies = [accuracy for _, accuracy in known.values()]
        for kind in KINDS:
            taus = {"loss": [], "accuracy": []}
            pictures, _ = self.to_search_on(kind)
            scored_on = pictures.validation.arrays(), pictures.train.arrays(CALIBRATION_PICTURES)[0]
            for seed in self.arguments.seeds:
                folder = self.out / f"{kind}_spos_{seed}"
                if not (folder / "supernet.keras").exists():
                    continue
                supernet = keras.models.load_model(folder / "supernet.keras")
                scores = [supernet.score(candidate, *scored_on) for candidate, _ in known.values()]
                for measure, each in taus.items():
                    tau = search.kendall_tau([score[measure] for score in scores], accuracies)
                    each.append(-tau if measure == "loss" else tau)
                print(f"{kind}_spos_{seed}: tau of {len(known)} networks {_last(taus)}", flush=True)
            if taus["loss"]:
                means = {measure: [np.mean(each)] for measure, each in taus.items()}
                print(f"{kind}: mean tau {_last(means)}", flush=True)

    def report(self):
        """Prints what there is: of each network the mean of its trainings, then the mean over networks."""
        for name in ("random", *(f"{kind}_{strategy}" for strategy in STRATEGIES for kind in KINDS)):
            networks = [
                [each for each in map(self.result, self.trained(f"{name}_{index}")) if each]
                for index in range(self.arguments.randoms)
            ]
            networks = [each for each in networks if each]
            if not networks:
                continue
            scores = np.array([np.mean([each["top1"] for each in trained]) for trained in networks])
            macs = np.mean([trained[0]["macs"] for trained in networks]) / 1e6
            error = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.nan
            each = ", ".join(f"{score:.2%}" for score in scores)
            print(
                f"{name:18} {len(scores)} networks, {sum(map(len, networks))} trainings, {macs:.2f} M MACs, "
                f"top-1 {scores.mean():.2%} (standard error {error:.2%}): {each}"
            )

    def trained(self, name):
        """Names of the results of a network's trainings."""
        return [f"{name}_trained_{seed}" for seed in range(self.arguments.trainings)]


def _last(taus):
    return ", ".join(f"by {measure} {each[-1]:.3f}" for measure, each in taus.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--teacher-epochs", type=int, default=14)
    parser.add_argument("--pictures", type=int, default=6000, help="to paint")
    parser.add_argument("--rounds", type=int, default=4, help="of the calibration of labels")
    parser.add_argument("--steps", type=int, default=120, help="of painting")
    parser.add_argument("--search-steps", type=int, default=2000, help="of a supernet's weights")
    parser.add_argument("--generations", type=int, default=12)
    parser.add_argument(
        "--objective", choices=("val_accuracy", "val_loss"), default="val_loss", help="of evolution, for spos"
    )
    parser.add_argument("--train-pictures", type=int, default=20000, help="real ones, to train what is found on")
    parser.add_argument("--epochs", type=int, default=8, help="of networks that are trained from scratch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--architecture-learning-rate", type=float, default=2e-3, help="of the choices, by gradients")
    parser.add_argument(
        "--architecture-every", type=int, default=1, help="steps of weights for one of choices, for proxylessnas"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of searches")
    parser.add_argument("--trainings", type=int, default=3, help="of each network")
    parser.add_argument("--randoms", type=int, default=9, help="random networks")
    parser.add_argument("--fused-norms", action="store_true", help="faster normalisations: fused_norm.py")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("datafree_search"))
    parser.set_defaults(candidates=0)
    arguments = parser.parse_args()
    if arguments.fused_norms:
        use_fused_norms()
    experiment = Experiment(arguments)
    parts = {
        "pictures": experiment.made,
        "made": lambda: experiment.search_on("made"),
        "real": lambda: experiment.search_on("real"),
        "random": experiment.random,
        "ranks": experiment.ranks,
        "report": experiment.report,
    }
    for part in experiment.arguments.part:
        parts[part]()


if __name__ == "__main__":
    main()
