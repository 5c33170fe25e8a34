"""A search held against training from scratch: do shared weights tell which networks are good, and is what is found?

`python benchmarks/search.py FOLDER` does all of it on a folder of images, 32 pixels wide, part by part, and keeps what
it has done in `--out`; the same command goes on where it was stopped. Parts can run side by side:

| `--part` | does | needs |
|---|---|---|
| `supernet` | trains a supernet of the space below, by SPOS | |
| `candidates` | trains random candidates from scratch | |
| `search` | scores these on the supernet; evolution under a limit, half of the largest network's MACs | `supernet` |
| `found` | trains what was found from scratch; random networks and MobileNetV4ConvSmall of as many MACs | `search` |
| `two_stage` | half the epochs and generations for channels, half for kernels; trains what is found | |
| `bits` | searches of 4 or 8 bits a block, and of 8, under limits on ACEv2; trains and quantises what they find | |
| `report` | Kendall's tau of scores and accuracies; what was found against the others | |

The space is of three stages of universal inverted bottlenecks, with channels, expansion, depth and both kernels to
choose, small enough for a processor without accelerator: its first maps have 8 x 8 pixels. Its networks differ in their
multiply-accumulates by more than ten times.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from results import kept

from keras_mnv4 import data
from keras_mnv4 import training
from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import build_network
from keras_mnv4.applications import choice
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES
from keras_mnv4.cost import TableProfiler
from keras_mnv4.files import atomic_file
from keras_mnv4.fitting import adamw
from keras_mnv4.fitting import fit_classifier

SIZE = 32
VALIDATION_PICTURES = 5000  # that candidates are scored on
POPULATION = 25
PARTS = ("supernet", "candidates", "search", "found", "two_stage", "bits", "report")
WIDTHS = np.arange(0.05, 1.01, 0.025)  # of MobileNetV4ConvSmall


def stage(name, filters, depth, stride, expand, **kernels):
    filters = choice(*filters, name=f"{name}/filters")
    if isinstance(expand, tuple):
        expand = choice(*expand, name=f"{name}/expand")
    rest = [choice(None, UIB(filters, expand=expand, **kernels))] * (depth - 1)
    return UIB(filters, expand=expand, stride=stride, **kernels), *rest


def make_space(name, weight_bits=(), expand=(1, 2, 4), **kernels):
    rows = (
        Conv(16, kernel=5, stride=4),
        *stage("stage_1", (4, 8, 16, 24), 2, 1, expand, **kernels),
        *stage("stage_2", (8, 16, 24, 40), 3, 2, expand, **kernels),
        *stage("stage_3", (12, 24, 40, 64), 3, 2, expand, **kernels),
        Conv(128, kernel=1),
    )
    return tuner.SearchSpace(Architecture(name, rows, default_size=SIZE, head_filters=None), weight_bits)


KERNELS = {"start": choice(0, 3, 5), "middle": choice(0, 3, 5)}
SPACE = make_space("search_32", **KERNELS)
COARSE = make_space("search_32_coarse", expand=4, middle=3)
BITS_ROWS = ("mixed", "uniform", "uniform_as_cheap")
OF_BITS = {"mixed": make_space("search_32", (4, 8), **KERNELS), "uniform": make_space("search_32", (8,), **KERNELS)}


class Experiment:
    """What all parts share: pictures, costs, and a folder of results."""

    space = SPACE

    def __init__(self, arguments):
        self.arguments = arguments
        self.out = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.pictures = data.load_image_folder(arguments.folder, SIZE, arguments.batch_size)
        train = self.pictures.train
        if arguments.train_pictures:
            train = data.PictureSet(*train.arrays(arguments.train_pictures), SIZE, arguments.batch_size, shuffle=True)
        validation = data.PictureSet(*self.pictures.validation.arrays(VALIDATION_PICTURES), SIZE, arguments.batch_size)
        self.pictures = data.PictureData(self.pictures.class_names, train, validation, self.pictures.test)
        self.classes = len(self.pictures.class_names)
        self.costs = tuner.CostModel(self.space, input_shape=(SIZE, SIZE, 3), classes=self.classes)
        random = np.random.default_rng(0)
        self.candidates = [self.space.sample(random) for _ in range(arguments.candidates)]
        self.limit = self.costs.cost(self.space.mend(self.space.largest), "macs") / 2

    def kept(self, name, make, *arguments, **options):
        """The result called `name`; made by `make` if it is not there."""
        return kept(self.out / f"{name}.json", make, *arguments, **options)

    def result(self, name):
        path = self.out / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def optimizer(self, epochs):
        return adamw(self.arguments.learning_rate, epochs * len(self.pictures.train), warmup_share=0.05)

    @staticmethod
    def augmentation():
        return [keras.layers.RandomFlip("horizontal"), keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest")]

    def train_alone(self, architecture, alpha=1.0, seed=0, policy=None):
        """Test accuracy of a network trained from scratch, and quantised where there is a policy; and its MACs."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        self.pictures.train.reseed(seed)
        shape = (SIZE, SIZE, 3)
        model = build_network(architecture, alpha=alpha, classes=self.classes, input_shape=shape)
        epochs = self.arguments.epochs
        fit_classifier(model, self.pictures, self.optimizer(epochs), epochs, self.augmentation(), verbose=0)
        if policy is not None:
            model = training.quantize(model, self.pictures, policy, self.arguments.qat_epochs, verbose=0)
        macs = TableProfiler(shape, self.classes).profile(architecture, alpha).macs
        result = {"top1": training.top1(model, self.pictures.test), "macs": macs}
        print(architecture.name, alpha, seed, result, flush=True)
        return result

    def supernet(self):
        """The supernet, trained."""
        keras.utils.set_random_seed(0)
        supernet = tuner.SuperNet(self.space, (SIZE, SIZE, 3), self.classes)
        path = self.out / "supernet.weights.h5"
        if path.exists():
            supernet.load_weights(path)
            return supernet
        epochs = self.arguments.supernet_epochs
        uniform_in = self.arguments.uniform_in
        strategy = tuner.SPOS(supernet, self.costs, uniform_in=uniform_in, augmentation=self.augmentation())
        strategy.compile(self.optimizer(epochs), metrics=["accuracy"])
        backup = keras.callbacks.BackupAndRestore(self.out / "backup")
        strategy.fit(self.pictures.train, epochs=epochs, verbose=2, callbacks=[backup])
        with atomic_file(path) as temporary:
            supernet.save_weights(temporary)
        return supernet

    def search(self):
        """What evolution finds under the limit, best first by the supernet's score."""
        supernet = self.supernet()
        pictures, labels = self.pictures.validation.arrays()
        calibration = self.pictures.train.arrays(1000)[0]
        for index, candidate in enumerate(self.candidates):
            self.kept(f"score_{index}", supernet.score, candidate, (pictures, labels), calibration)
        costs = tuner.CostModel(self.space, {"macs": self.limit}, (SIZE, SIZE, 3), self.classes)
        oracle = tuner.EvolutionOracle(costs, population=POPULATION, generations=self.arguments.generations, seed=0)
        found = tuner.UIBTuner(supernet, oracle, costs, directory=self.out, project_name="evolution")
        found.search(validation_data=(pictures, labels), calibration_data=calibration)
        return found.results()[:10]

    def found(self):
        """Trains what was found, and networks of as many MACs to hold it against."""
        best = self.kept("found", self.search)[0]
        macs = best["costs"]["macs"]
        shape = (SIZE, SIZE, 3)
        profiler = TableProfiler(shape, self.classes)
        small = ARCHITECTURES["MobileNetV4ConvSmall"]
        alpha = min(WIDTHS, key=lambda alpha: abs(profiler.profile(small, alpha).macs - macs))
        random = np.random.default_rng(1)
        equal = []
        while len(equal) < self.arguments.equals:
            candidate = self.space.sample(random)
            if 0.95 * macs <= self.costs.cost(candidate, "macs") <= 1.05 * macs:
                equal.append(candidate)
        architecture = self.space.architecture_of(best["candidate"])
        for seed in range(self.arguments.seeds):
            self.kept(f"best_{seed}", self.train_alone, architecture, seed=seed)
            self.kept(f"conv_small_{seed}", self.train_alone, small, float(alpha), seed)
        for index, candidate in enumerate(equal):
            self.kept(f"equal_{index}", self.train_alone, self.space.architecture_of(candidate))

    def how_to_search(self, limits, share=1):
        """Arguments of the package's own searches: the supernet's budget here, or a share of it."""
        return {
            "limits": limits,
            "epochs": self.arguments.supernet_epochs // share,
            "learning_rate": self.arguments.learning_rate,
            "population": POPULATION,
            "generations": self.arguments.generations // share,
            "augmentation": self.augmentation(),
        }

    def two_stage(self):
        """Trains what two stages find, in the time of one."""
        how = self.how_to_search({"macs": self.limit}, share=2)
        found = tuner.two_stage_search(COARSE, self.pictures, self.out / "stages", **how).best_architecture()
        for seed in range(self.arguments.seeds):
            self.kept(f"two_stage_{seed}", self.train_alone, found, seed=seed)

    def bits(self):
        """Trains and quantises what searches with and without a choice of bits find, within the same ACEv2."""
        for share in sorted(self.arguments.bits_limits):
            found = {kind: self.kept(f"{kind}_{share:g}_found", self.search_bits, kind, share) for kind in OF_BITS}
            as_cheap = found["mixed"][0]["costs"]["ace_v2"]
            best = {kind: results[0] for kind, results in found.items()}
            best["uniform_as_cheap"] = next(each for each in found["uniform"] if each["costs"]["ace_v2"] <= as_cheap)
            for kind, each in best.items():
                space, candidate = OF_BITS[kind.split("_")[0]], each["candidate"]
                architecture, policy = space.architecture_of(candidate), space.policy_of(candidate)
                for seed in range(self.arguments.seeds):
                    self.kept(f"{kind}_{share:g}_{seed}", self.train_alone, architecture, seed=seed, policy=policy)

    def search_bits(self, kind, share):
        """The results of a search within a share of the largest network's ACEv2; the first one trains the supernet."""
        uniform, space = OF_BITS["uniform"], OF_BITS[kind]
        costs = tuner.CostModel(uniform, input_shape=(SIZE, SIZE, 3), classes=self.classes)
        limits = {"ace_v2": costs.cost(uniform.mend(uniform.largest), "ace_v2") / share}
        supernet = self.out / kind / "supernet.keras"
        if not supernet.exists():
            return tuner.search(space, self.pictures, self.out / kind, **self.how_to_search(limits)).results()
        costs = tuner.CostModel(space, limits, (SIZE, SIZE, 3), self.classes)
        oracle = tuner.EvolutionOracle(costs, population=POPULATION, generations=self.arguments.generations, seed=0)
        project = {"directory": self.out, "project_name": f"{kind}_{share:g}"}
        found = tuner.UIBTuner(keras.models.load_model(supernet), oracle, costs, **project)
        found.search(self.pictures.validation.arrays(), self.pictures.train.arrays(1000)[0])
        return found.results()

    def train_candidates(self):
        """Trains the random candidates."""
        for index, candidate in enumerate(self.candidates):
            self.kept(f"alone_{index}", self.train_alone, self.space.architecture_of(candidate))

    def report(self):
        """Prints what there is."""
        pairs = [
            (self.result(f"score_{index}"), self.result(f"alone_{index}")) for index in range(len(self.candidates))
        ]
        pairs = [(score["accuracy"], alone["top1"]) for score, alone in pairs if score and alone]
        if len(pairs) > 1:
            print(f"Kendall's tau of {len(pairs)} candidates: {kendall_tau(*zip(*pairs, strict=True)):.3f}")
        bits = [f"{kind}_{share:g}" for share in self.arguments.bits_limits for kind in BITS_ROWS]
        for kind in ("best", "two_stage", "conv_small", "equal", *bits):
            results = [self.result(f"{kind}_{index}") for index in range(self.arguments.equals)]
            results = [each for each in results if each]
            if results:
                scores = [each["top1"] for each in results]
                macs = np.mean([each["macs"] for each in results]) / 1e6
                found = self.result(f"{kind}_found")
                ace_v2 = f", ACEv2 {found[0]['costs']['ace_v2']:.4g}" if found else ""
                print(
                    f"{kind}: {len(scores)} runs, {macs:.2f} M MACs{ace_v2}, top-1 mean {np.mean(scores):.2%}, median "
                    f"{np.median(scores):.2%}, from {min(scores):.2%} to {max(scores):.2%}"
                )


def kendall_tau(first, second):
    """Kendall's tau-b: how far two lists agree in how they order things, from -1 to 1."""
    one, other = (np.sign(np.subtract.outer(each, each)) for each in (first, second))
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--train-pictures", type=int, default=0, help="0 for all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--supernet-epochs", type=int, default=60)
    parser.add_argument("--uniform-in", help="a cost, such as macs: train networks of all of its ranges alike")
    parser.add_argument("--epochs", type=int, default=15, help="of networks that are trained from scratch")
    parser.add_argument("--qat-epochs", type=int, default=3, help="of networks that are quantised")
    parser.add_argument("--bits-limits", type=float, nargs="+", default=[4], help="times less than the largest network")
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--generations", type=int, default=12)
    parser.add_argument("--equals", type=int, default=9, help="random networks of as many MACs as what was found")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("search"))
    experiment = Experiment(parser.parse_args())
    parts = {
        "supernet": experiment.supernet,
        "candidates": experiment.train_candidates,
        "search": lambda: experiment.kept("found", experiment.search),
        "found": experiment.found,
        "two_stage": experiment.two_stage,
        "bits": experiment.bits,
        "report": experiment.report,
    }
    for part in experiment.arguments.part:
        parts[part]()


if __name__ == "__main__":
    main()
