"""`synthesize`: pictures out of a pretrained model, by recursive label calibration."""

import dataclasses
import pathlib
import shutil
import warnings

import keras
import numpy as np
from keras import ops
from PIL import Image
from rich.console import Console

from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.datafree.canvas import Canvas
from keras_mnv4.datafree.canvas import Stage
from keras_mnv4.datafree.canvas import as_bytes
from keras_mnv4.datafree.canvas import as_taken
from keras_mnv4.datafree.canvas import middle
from keras_mnv4.datafree.listening import listening
from keras_mnv4.datafree.listening import normalizations_of
from keras_mnv4.datafree.noise import NOISES
from keras_mnv4.datafree.noise import natural_noise
from keras_mnv4.datafree.objective import NATURAL
from keras_mnv4.datafree.objective import RELATIVE
from keras_mnv4.datafree.objective import moments
from keras_mnv4.datafree.synthetic_set import BATCHES
from keras_mnv4.datafree.synthetic_set import PICTURES
from keras_mnv4.datafree.synthetic_set import PLAN
from keras_mnv4.datafree.synthetic_set import SyntheticSet
from keras_mnv4.files import atomic_file
from keras_mnv4.files import make_folder
from keras_mnv4.plans import check_plan
from keras_mnv4.plans import fingerprint
from keras_mnv4.progress import resolve_verbose

LABELS = ("recursive", "one_hot")
USUAL = {"natural": (0.1, NATURAL), "white": (0.25, RELATIVE)}  # by noise: the learning rate, and the objective
ODD_SCALE = 12.0  # deviations of what a teacher hears, over those that it was trained on
SMALL = 64  # pixels, up to which there is one stage, and a batch is large


def default_stages(size, steps=5000):
    """Stages for a teacher of pictures of `size` pixels, and the size of the canvas.

    Large pictures are painted at half the resolution first, for two fifths of the steps; each stage has one at least.
    For 224 pixels and 5,000 steps they are those of the authors' code: 2,000 steps of windows of 112 on the canvas of
    256 halved, 3,000 of windows of 224 on the whole.

    Returns:
        A tuple of `Stage`s, and a number of pixels.

    Example:

    >>> default_stages(224)
    ((Stage(steps=2000, window=112, pool=2), Stage(steps=3000, window=224, pool=1)), 256)
    """
    if size <= SMALL:
        return (Stage(steps, size),), size + max(2, size // 8)
    canvas = 2 * round(size * 8 / 7 / 2)
    first = max(1, 2 * steps // 5)
    return (Stage(first, size // 2, pool=2), Stage(max(1, steps - first), size)), canvas


def synthesize(
    teacher,
    num_images,
    directory,
    *,
    classes=None,
    rounds=10,
    labels="recursive",
    size=None,
    steps=5000,
    stages=None,
    canvas=None,
    objective=None,
    noise="white",
    learning_rate=None,
    batch_size=None,
    preprocess=None,
    teacher_outputs=None,
    class_names=None,
    seed=0,
    verbose="auto",
):
    """Makes pictures of which a pretrained model says what they were to be, from nothing but the model.

    Pictures begin as noise and are painted by gradient descent until the teacher sees their class in them and the
    inputs of its batch normalisations have the statistics of what it was trained on. In the first round labels are
    one-hot; in each further one the pictures begin anew, and their labels are what the teacher said of those of the
    round before: how classes resemble each other (recursive label calibration). Each step paints in a window of the
    canvas only (regional update).

    What is finished is kept: if it is stopped, or killed, the same call goes on behind the last finished batch. The
    same seed gives the same pictures.

    Source: "Data-Free Neural Architecture Search via Recursive Label Calibration" (arXiv 2112.02086) and its code, for
    constants and order. Different: the objective, see `Objective`, and `PAPER` for the authors'; mirroring is by
    chance, where their code mirrors every picture; labels are of the middle window, where theirs are of the last drawn.

    Args:
        teacher: a built Keras model of pictures to probabilities or logits, with batch normalisations. Left as it is.
        num_images: how many pictures; as many from each round. Each goes through the same classes from the first on:
            for all of them it takes `rounds` times as many pictures as there are classes.
        directory: folder to write to; made if it is not there.
        classes: list of class indices to make pictures of; None for all.
        rounds: how often labels are calibrated, and one. A picture a class comes out of each.
        labels: `"recursive"`, or `"one_hot"` in every round.
        size: height and width of the pictures in the last stage, in pixels; None for that of the teacher's input. A
            teacher that was built for one size sees them resized to it; one that takes any sees them as they are, and
            makes poor ones far from the size that it was trained on.
        steps: painting steps for each picture, for `default_stages`.
        stages: tuple of `Stage`s instead of those; the last has a `pool` of 1.
        canvas: height and width of the pictures; None for what goes with the default stages, or, with `stages`, for the
            last one's window, which then is the whole picture.
        objective: an `Objective`; None for `RELATIVE` with white noise, `NATURAL` with natural noise.
        noise: what pictures begin as: `"white"`, of which little is left in the end; or `"natural"`, with the spectrum
            of photographs, of which much is left: pictures of a class differ more, and are harder to learn.
        learning_rate: of Adam, at its peak in each stage; None for 0.25 with white noise, 0.1 with natural noise.
        batch_size: pictures that are painted together, and share their statistics; None for 250 of up to 64 pixels, 50
            of more.
        preprocess: function of Keras operations from bytes, floats from 0 to 255, to what the teacher takes, such as
            `keras.applications.mobilenet_v2.preprocess_input`; None for models that take bytes, as all of this package.
        teacher_outputs: `"probabilities"` or `"logits"`; None to see it from the teacher's last layer.
        class_names: names of the teacher's classes, for folders; None for their numbers. Of classes of one name, each
            folder has the number, too.
        seed: of noise and windows.
        verbose: 0 for silence, 1 for a progress bar with the running terms of the objective, 2 for a line a stage;
            `"auto"` is a bar on a terminal, else lines.

    Returns:
        The `SyntheticSet`.

    Raises:
        ValueError: if the teacher has no batch normalisations, if an argument is out of range, or if the folder has
            pictures that were made in another way.

    Warns:
        UserWarning: if there are too few pictures for all classes, so that some are left out; or if the teacher was
            plainly trained on other numbers than bytes, or than `preprocess` makes of them.

    Example:

    >>> teacher = EfficientNetLite0(weights="imagenet")
    >>> made = synthesize(teacher, 64, "pictures", classes=range(0, 992, 31), rounds=2, steps=500)
    >>> pictures, classes = made.arrays()
    """
    maker = _Maker(teacher, preprocess, teacher_outputs, objective, noise, learning_rate, seed, verbose)
    maker.plan(num_images, classes, rounds, labels, size, steps, stages, canvas, batch_size, class_names)
    maker.make(pathlib.Path(directory))
    made = SyntheticSet(directory)
    made.save_contact_sheet()
    return made


class _Maker:
    """One way to make pictures; the arguments are those of `synthesize`."""

    def __init__(self, teacher, preprocess, teacher_outputs, objective, noise, learning_rate, seed, verbose):
        if noise not in NOISES:
            raise ValueError(f"`noise` must be one of {tuple(NOISES)}. Received: {noise!r}")
        usual_rate, usual_objective = USUAL[noise]
        self.teacher = teacher
        self.preprocess = preprocess
        self.outputs = teacher_outputs
        self.objective = usual_objective if objective is None else objective
        self.noise = noise
        self.learning_rate = usual_rate if learning_rate is None else learning_rate
        self.seed = seed
        self.console = Console(quiet=not verbose)
        self.verbose = resolve_verbose(verbose)
        self.canvases = {}

    def plan(self, num_images, classes, rounds, labels, size, steps, stages, canvas, batch_size, class_names):
        if min(num_images, rounds, 1 if batch_size is None else batch_size, steps) < 1:
            raise ValueError(
                "`num_images`, `rounds`, `batch_size` and `steps` must be 1 or more. Received: "
                f"num_images={num_images}, rounds={rounds}, batch_size={batch_size}, steps={steps}"
            )
        if ClassifierView(self.teacher, "teacher", self.outputs).classes is None:
            raise ValueError(f"`teacher` must be a Functional or Sequential model. Received: {self.teacher!r}")
        if labels not in LABELS:
            raise ValueError(f"`labels` must be one of {LABELS}. Received: {labels!r}")
        if rounds > num_images:
            raise ValueError(
                f"`rounds` must be at most the number of pictures. Received: rounds={rounds}, num_images={num_images}"
            )
        channels = _channels_of(self.teacher)
        if self.preprocess is None and channels not in (3, None):
            raise ValueError(
                f"`teacher` takes pictures of {channels} channels, and those that are made have 3: give a `preprocess` "
                "that makes the former from the latter."
            )
        if stages is None:
            stages, default = default_stages(size or _side_of(self.teacher), steps)
        elif not stages or size is not None:
            raise ValueError(
                "`stages` must be one at least, and say the `size` by themselves. Received: "
                f"stages={stages}, size={size}"
            )
        else:
            default = stages[-1].window
        if stages[-1].pool != 1:  # what is written is what the teacher saw last
            raise ValueError(f"The last of `stages` must have a `pool` of 1. Received: {stages[-1]}")
        self.size = default if canvas is None else canvas
        for stage in stages:
            stage.check_fits(self.size)
        # Made here for its checks: that there are normalisations, that it is clear what comes out.
        probe = Canvas(self.teacher, 1, self.size, stages[0], self.objective, self.preprocess, self.outputs)
        count = probe.labels.shape[-1]
        if count < 2:
            raise ValueError(
                "`teacher` must give the probabilities, or logits, of two classes or more. Received one of a single "
                "output, p: give a model of [1 - p, p]."
            )
        self.classes = list(range(count)) if classes is None else [int(each) for each in classes]
        if not self.classes or not all(0 <= each < count for each in self.classes):
            raise ValueError(f"`classes` must be indices from 0 to {count - 1}. Received: {classes}")
        names = [f"{index:04d}" for index in range(count)] if class_names is None else list(class_names)
        _check_names(names, count)
        if num_images // rounds < len(self.classes):
            warnings.warn(
                f"{num_images} pictures in {rounds} rounds have room for {num_images // rounds} of {len(self.classes)} "
                "classes, the same in each round. Give a larger `num_images`, fewer `rounds`, or the `classes` wanted.",
                stacklevel=3,
            )
        self.warn_of_scale(stages[-1].window)
        self.stages = stages
        self.rounds = [len(part) for part in np.array_split(np.arange(num_images), rounds)]
        self.labels = labels
        self.batch_size = batch_size or (250 if stages[-1].window <= SMALL else 50)
        self.folders = [f"{name}_{index:04d}" if names.count(name) > 1 else name for index, name in enumerate(names)]
        self.written = {
            "num_images": num_images,
            "classes": self.classes,
            "rounds": rounds,
            "labels": labels,
            "stages": [dataclasses.asdict(stage) for stage in stages],
            "canvas": self.size,
            "objective": dataclasses.asdict(self.objective),
            "noise": self.noise,
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "preprocess": None if self.preprocess is None else fingerprint([self.preprocess_ramp()]),
            "seed": self.seed,
            "class_names": names,
            "teacher": fingerprint(weight.numpy() for weight in self.teacher.weights),
            "teacher_outputs": self.outputs,
        }

    def warn_of_scale(self, size):
        """Warns if the teacher was plainly trained on other numbers than it is to be shown."""
        noise = natural_noise(np.random.default_rng(0), 8, size)
        view = ClassifierView(self.teacher, "teacher", self.outputs)
        with listening(normalizations_of(self.teacher)) as heard:
            view(as_taken(ops.convert_to_tensor(as_bytes(noise), "float32"), self.preprocess))
        layer, inputs = heard[0]
        _, seen, _, trained = moments(layer, inputs)
        ratio = float(ops.sqrt(ops.median((seen + layer.epsilon) / (trained + layer.epsilon))))
        if max(ratio, 1 / ratio) > ODD_SCALE:
            warnings.warn(
                f"What normalisation `{layer.name}` of the teacher gets from pictures varies {ratio:.2g} times as much "
                f"as what it was trained on: {'bytes, 0 to 255' if self.preprocess is None else '`preprocess`'} may be "
                "what it does not take. Give a `preprocess` that makes of bytes what it takes, or put a "
                "`keras.layers.Rescaling` before it.",
                stacklevel=4,
            )

    def preprocess_ramp(self):
        """What `preprocess` makes of a small picture of all greys, by which it is known again."""
        ramp = np.linspace(0.0, 255.0, 48, dtype="float32").reshape(1, 4, 4, 3)
        return ops.convert_to_numpy(as_taken(ops.convert_to_tensor(ramp), self.preprocess))

    def make(self, directory):
        make_folder(directory)
        if not any(directory.glob(f"{BATCHES}/*.npz")):  # nothing is there that another plan could spoil
            (directory / PLAN).unlink(missing_ok=True)
        check_plan(directory / PLAN, self.written, "pictures")
        (directory / BATCHES).mkdir(exist_ok=True)
        for leftover in (*directory.glob(f"{BATCHES}/.*.npz.*"), *directory.glob(f"{PICTURES}/*/.*.png.*")):
            shutil.rmtree(leftover)  # of a process that was killed
        order = np.random.default_rng(self.seed).permutation(self.classes)
        batches = [
            (turn, start, min(start + self.batch_size, count))
            for turn, count in enumerate(self.rounds)
            for start in range(0, count, self.batch_size)
        ]
        for done, (turn, start, end) in enumerate(batches):
            path = _batch_path(directory, turn, start)
            if path.exists():
                continue
            targets = order[np.arange(start, end) % len(order)]
            self.console.print(f"Batch {done + 1} of {len(batches)}: round {turn + 1}, {end - start} pictures")
            labels = self.labels_of(directory, turn, start, targets)
            painted = self.paint(labels, (self.seed, turn, start))
            self.write(directory, path, turn, start, targets, painted)

    def labels_of(self, directory, turn, start, targets):
        """Probabilities to paint by: one-hot, or what the teacher said a round before."""
        if turn == 0 or self.labels == "one_hot":
            return np.eye(len(self.folders), dtype="float32")[targets]
        logits = np.load(_batch_path(directory, turn - 1, start))["logits"][: len(targets)]
        return ops.convert_to_numpy(ops.softmax(logits))

    def paint(self, labels, seed):
        """Pictures for labels, through all stages."""
        count = len(labels)
        pictures = NOISES[self.noise](np.random.default_rng(seed), count, self.size)
        for place, stage in enumerate(self.stages):
            self.console.print(f"  {stage.steps} steps of {stage.window} pixels")
            canvas = self.canvas_for(count, stage)
            pictures = canvas.paint(pictures, labels, (*seed, place), self.learning_rate, verbose=self.verbose)
        return pictures

    def canvas_for(self, count, stage):
        """The model that paints so many pictures; one that was compiled for them, if there is."""
        if (count, stage) not in self.canvases:
            how = (self.objective, self.preprocess, self.outputs)
            self.canvases[count, stage] = Canvas(self.teacher, count, self.size, stage, *how)
        return self.canvases[count, stage]

    def write(self, directory, path, turn, start, targets, painted):
        """Writes the pictures of a batch, then the file that says that they are there."""
        pictures = as_bytes(painted)
        files = []
        for index, (target, picture) in enumerate(zip(targets, pictures, strict=True)):
            name = f"{self.folders[target]}/{turn:02d}_{start + index:06d}.png"
            files.append(name)
            (directory / PICTURES / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(directory / PICTURES / name, overwrite=True) as temporary:
                Image.fromarray(picture).save(temporary)
        canvas = self.canvas_for(len(targets), self.stages[-1])
        shown = ops.convert_to_tensor(middle(pictures, self.stages[-1].window), "float32")
        logits = ops.convert_to_numpy(canvas.look(shown)["logits"])
        with atomic_file(path) as temporary:
            np.savez(temporary, files=np.array(files), classes=targets.astype("int32"), logits=logits)


def _check_names(names, count):
    """Raises if classes have names that cannot be those of folders, side by side."""
    if len(names) != count:
        raise ValueError(f"`class_names` must be {count} names. Received: {len(names)}")
    odd = [name for name in names if not name or name.startswith(".") or set(name) & set("/\\\0")]
    if odd:
        raise ValueError(f"`class_names` must be names of folders, without `/` and not hidden. Received: {odd[0]!r}")


def _batch_path(directory, turn, start):
    return directory / BATCHES / f"{turn:02d}_{start:06d}.npz"


def _channels_of(teacher):
    """Channels of the pictures that a teacher takes."""
    return teacher.input_shape[1 if keras.config.image_data_format() == "channels_first" else -1]


def _side_of(teacher):
    """Height and width of the pictures that a teacher takes."""
    shape = tuple(teacher.input_shape[1:])
    sides = shape[1:] if keras.config.image_data_format() == "channels_first" else shape[:-1]
    if len(set(sides)) != 1 or None in sides:
        raise ValueError(
            f"`size` must be given for a teacher that takes pictures of any size, or that are not square: {shape}"
        )
    return sides[0]
