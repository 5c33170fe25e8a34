"""`write_soft_labels`: a teacher's probabilities, asked for once and written down with the pictures."""

import concurrent.futures
import dataclasses
import io
import json
import pathlib
import shutil
import time

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.progress import Progress

from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.classifiers.view import Probabilities
from keras_mnv4.distillation.offline import PLAN
from keras_mnv4.distillation.offline import SoftLabelStore
from keras_mnv4.distillation.offline import shard_paths
from keras_mnv4.distillation.offline import shard_positions
from keras_mnv4.files import atomic_file
from keras_mnv4.files import make_folder
from keras_mnv4.plans import check_plan
from keras_mnv4.plans import fingerprint

FORMATS = ("jpeg", "png")
RECORD_BYTES = 90  # of a record, apart from the picture and the probabilities
MEASURED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class StoreEstimate:
    """What a store of soft labels will take, from a few of its pictures.

    Args:
        pictures: how many.
        bytes: on disk.
        seconds: to write, on this machine.

    Example:

    >>> print(StoreEstimate(pictures=20_000, bytes=400_000_000, seconds=1200.0))
    20,000 pictures, 400.0 MB, about 20.0 minutes
    """

    pictures: int
    bytes: int
    seconds: float

    def __str__(self):
        minutes = self.seconds / 60
        long = f"{minutes / 60:.1f} hours" if minutes >= 100 else f"{minutes:.1f} minutes"
        return f"{self.pictures:,} pictures, {self.bytes / 1e6:,.1f} MB, about {long}"


def estimate_soft_labels(mix, teacher, replicas=1, top_k=None, image_format="jpeg", quality=95, **kwargs):
    """What `write_soft_labels` with the same arguments will take, measured on two batches of the mix.

    Returns:
        A `StoreEstimate`.

    Example:

    >>> estimate_soft_labels(mix, teacher, replicas=2).pictures == 2 * len(files)
    True
    """
    return _Writer(mix, teacher, replicas, top_k, image_format, quality, **kwargs).estimate()


def write_soft_labels(
    mix,
    teacher,
    directory,
    replicas=1,
    top_k=None,
    image_format="jpeg",
    quality=95,
    shard_pictures=1024,
    teacher_outputs=None,
    verbose=1,
):
    """Writes the pictures of a mix, as changed, with a teacher's probabilities for each.

    Pictures are encoded first and decoded again: the teacher sees what the student will. The store is a folder of
    TFRecord files, each of which is there whole or not at all. If writing is stopped, or killed, the same call goes on
    behind the last finished file; one process at a time. Probabilities are float16.

    Source: MobileNetV4 (arXiv 2404.10518), appendix H. The paper does not say at what quality pictures were encoded,
    nor how probabilities were stored: these are arguments.

    Args:
        mix: a `DatasetMix`.
        teacher: a built Keras model of pictures to probabilities or logits. Pictures are resized to what it takes.
        directory: folder of the store; made if it is not there.
        replicas: epochs of the mix to write, each changed in other ways.
        top_k: probabilities to keep a picture, the largest; None for all. What the others had together is spread evenly
            over them when the store is read.
        image_format: `"jpeg"`, or `"png"`, which loses nothing.
        quality: of JPEG, from 1 to 100; above 95, files grow and pictures hardly gain.
        shard_pictures: pictures a file.
        teacher_outputs: `"probabilities"` or `"logits"`; None to see it from the teacher's last layer.
        verbose: 1 for the estimate and a progress bar, 0 for silence.

    Returns:
        The `SoftLabelStore`.

    Raises:
        ValueError: if the folder holds a store of other pictures, of another teacher or in another form, or if an
            argument is out of range.
        OSError: if the disk has less room than the store is estimated to take.

    Example:

    >>> mix = DatasetMix([Source(files, augmentation=D1), Source(files, augmentation=D2)], size=224)
    >>> print(estimate_soft_labels(mix, teacher, replicas=100))
    >>> store = write_soft_labels(mix, teacher, "soft_labels", replicas=100)
    >>> distiller = Distiller(student)
    >>> distiller.compile("adamw")
    >>> distiller.fit(store.tf_data(batch_size=128), epochs=10, shuffle=False)
    """
    writer = _Writer(mix, teacher, replicas, top_k, image_format, quality, shard_pictures, teacher_outputs)
    writer.write(pathlib.Path(directory), verbose)
    return SoftLabelStore(directory)


class _Writer:
    """One way to write a store; the arguments are those of `write_soft_labels`."""

    def __init__(self, mix, teacher, replicas, top_k, image_format, quality, shard_pictures=1024, teacher_outputs=None):
        self.mix = mix
        view = ClassifierView(teacher, "teacher", teacher_outputs)
        self.teacher, classes = Probabilities(view), view.classes
        if classes is None:
            raise ValueError(f"`teacher` must be a Functional or Sequential model. Received: {teacher!r}")
        if image_format not in FORMATS:
            raise ValueError(f"`image_format` must be one of {', '.join(FORMATS)}. Received: {image_format!r}")
        if not 1 <= quality <= 100:
            raise ValueError(f"`quality` must be from 1 to 100. Received: {quality}")
        if top_k is not None and not 1 <= top_k <= classes:
            raise ValueError(f"`top_k` must be from 1 to {classes}, or None for all. Received: {top_k}")
        if min(replicas, shard_pictures) < 1:
            raise ValueError(
                "`replicas` and `shard_pictures` must be 1 or more. Received: "
                f"replicas={replicas}, shard_pictures={shard_pictures}"
            )
        plan = {
            "pictures": replicas * mix.epoch_size,
            "shard_pictures": shard_pictures,
            "classes": classes,
            "top_k": top_k,
            "image_format": image_format,
            "quality": quality if image_format == "jpeg" else None,
            "mix": mix.get_config(),
            "labels": [
                None if source.labels is None else fingerprint([np.asarray(source.labels, "int64")])
                for source in mix.sources
            ],
            "teacher": fingerprint(weight.numpy() for weight in teacher.weights),
            "teacher_outputs": teacher_outputs,
            "first_pictures": fingerprint(mix.example(position).picture for position in range(2)),
        }
        self.plan = json.loads(json.dumps(plan))

    def write(self, directory, verbose):
        import tensorflow  # noqa: F401  if it is missing, that is to be known before the work

        make_folder(directory)
        check_plan(directory / PLAN, self.plan, "soft labels")
        for leftover in directory.glob(".shard-*"):  # of a writer that was killed
            shutil.rmtree(leftover)
        shards = zip(shard_paths(directory, self.plan), shard_positions(self.plan), strict=True)
        missing = [(path, positions) for path, positions in shards if not path.exists()]
        left = sum(len(positions) for _, positions in missing)
        estimate = self.estimate(left)
        room = shutil.disk_usage(directory).free
        if estimate.bytes > room:
            raise OSError(f"There is too little room for '{directory}': {estimate}, and {room / 1e6:,.1f} MB are free.")
        console = Console(quiet=not verbose)
        if left:
            console.print(f"Soft labels: {estimate}")
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("Pictures", total=self.plan["pictures"], completed=self.plan["pictures"] - left)
            for path, positions in missing:
                self.write_shard(path, positions, lambda count: progress.advance(task, count))

    def write_shard(self, path, positions, advance):
        import tensorflow as tf

        with atomic_file(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
            for examples, encoded, probabilities in self.batches(positions):
                for record in zip(examples, encoded, probabilities, strict=True):
                    writer.write(self.record(*record))
                advance(len(examples))

    def batches(self, positions):
        """Examples, their files' bytes and the teacher's probabilities; the next batch is made while it computes."""
        size = self.mix.batch_size
        parts = [positions[start : start + size] for start in range(0, len(positions), size)]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            coming = [pool.submit(self.encoded, position) for position in parts[0]]
            for following in (*parts[1:], ()):
                examples, encoded, pictures = zip(*(future.result() for future in coming), strict=True)
                coming = [pool.submit(self.encoded, position) for position in following]
                yield examples, encoded, self.ask_teacher(np.stack(pictures))

    def encoded(self, position):
        """The example at a position, its file, and the picture that is in it."""
        example = self.mix.example(position)
        file = io.BytesIO()
        options = {"quality": self.plan["quality"]} if self.plan["quality"] else {}
        Image.fromarray(example.picture).save(file, self.plan["image_format"], **options)
        return example, file.getvalue(), np.asarray(Image.open(file))

    def ask_teacher(self, pictures):
        """Probabilities for a batch; a smaller one is filled up, so that the teacher is compiled for one size."""
        count = len(pictures)
        padded = np.concatenate([pictures, np.repeat(pictures[-1:], self.mix.batch_size - count, axis=0)])
        return self.teacher.predict_on_batch(padded.astype("float32"))[:count]

    def record(self, example, encoded, probabilities):
        import tensorflow as tf

        def integers(values):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

        def raw(value):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

        features = {
            "picture": raw(encoded),
            "classes": integers(example.classes),
            "shares": tf.train.Feature(float_list=tf.train.FloatList(value=example.shares)),
            "position": integers([example.position]),
        }
        if self.plan["top_k"]:
            top = np.argsort(-probabilities, kind="stable")[: self.plan["top_k"]]
            features["top_classes"], probabilities = integers(top), probabilities[top]
        features["probabilities"] = raw(probabilities.astype("<f2").tobytes())
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)

    def estimate(self, pictures=None):
        """What `pictures` of the store take, all of them by default."""
        pictures = self.plan["pictures"] if pictures is None else pictures
        size = self.mix.batch_size
        count = min(self.plan["pictures"], MEASURED_BATCHES * size)
        if not pictures:
            return StoreEstimate(0, 0, 0.0)
        self.ask_teacher(self.mix.example(0).picture[None])  # compiles
        start = time.perf_counter()
        encoded = [len(file) for _, files, _ in self.batches(range(count)) for file in files]
        seconds = (time.perf_counter() - start) / count
        top_k, classes = self.plan["top_k"], self.plan["classes"]
        labels = 2 * classes if top_k is None else 4 * top_k
        return StoreEstimate(pictures, round(pictures * (np.mean(encoded) + labels + RECORD_BYTES)), pictures * seconds)
