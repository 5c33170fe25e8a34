"""`DatasetMix`: pictures of several sources, each changed in its own way, in exact proportions."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Sequence

import keras
import numpy as np

from keras_mnv4.distillation.augmentation import D1
from keras_mnv4.distillation.augmentation import Augmentation

SCHEDULE, ORDER, DRAW = range(3)  # what random numbers are for: each has streams of its own
BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Pictures, and how they are changed.

    Args:
        pictures: uint8 array `(count, height, width, 3)`, or a list of such pictures, image files, or bytes of files.
        labels: class index of each; None if they are not known.
        augmentation: an `Augmentation`.

    Raises:
        ValueError: if there is no picture, or not as many labels.

    Example:

    >>> source = Source(files, augmentation=D2)
    """

    pictures: Sequence
    labels: Sequence | None = None
    augmentation: Augmentation = D1

    def __post_init__(self):
        if not len(self.pictures):
            raise ValueError("`pictures` must hold one picture at least. Received none.")
        if self.labels is not None and len(self.labels) != len(self.pictures):
            raise ValueError(f"`labels` must be {len(self.pictures)}, one a picture. Received: {len(self.labels)}")


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One changed picture of a mix.

    Args:
        picture: uint8 array `(size, size, 3)`.
        position: where it is in the mix, counted over all epochs.
        source: number of the source that it is of.
        classes: class indices of the one or two pictures that it is made of; those of unlabelled ones are 0.
        shares: how much of it each of the two is; zeros where it has no label.
    """

    picture: np.ndarray
    position: int
    source: int
    classes: tuple[int, int]
    shares: tuple[float, float]


class DatasetMix(keras.utils.PyDataset):
    """Pictures of several sources in batches: of each epoch, as many are of a source as the ratio says.

    Every picture is a function of the seed and its position alone. So two mixes of one seed are equal, whether read
    here, on any backend, or through `tf_data`. A source is gone through in a new order each time, without a repeat
    before its end, over all epochs. Where training that was stopped goes on, let the mix `turn_to` that epoch.

    For `fit`, say shuffle=False: else Keras shuffles the batches once more, and none can be prepared ahead. With a
    `steps_per_epoch` that divides `len(mix)`, short epochs go on through the mix.

    Batches are `(pictures,)`, or `(pictures, labels)` where `classes` is given: float32 0 to 255,
    `(batch, size, size, 3)`, and float32 `(batch, classes)`, ones at the labels; two shares where pictures are mixed,
    zeros where there is no label, with which a cross-entropy is 0 and an accuracy says nothing.

    Source: dynamic dataset mixing of MobileNetV4 (arXiv 2404.10518), section 8: D1 and D2 are ImageNet, D3 further
    pictures, 1 : 1 : 2. The paper does not say how batches are drawn. A reconstruction: each epoch is shuffled as a
    whole.

    Args:
        sources: list of `Source`.
        size: height and width of the pictures.
        ratio: one number a source; None for as many of each.
        batch_size: pictures a batch; the last of an epoch may be smaller.
        epoch_size: pictures an epoch; None for the first source once through.
        classes: number of classes, to have labels with the pictures; None for pictures only.
        seed: seed of everything random.
        threads: that prepare a batch's pictures, and those of the next two batches.

    Raises:
        ValueError: if there is no source, another number of ratios, or one that is not positive; or if a label is not
            one of the classes.

    Example:

    >>> mix = DatasetMix([Source(files, augmentation=D1), Source(files, augmentation=D2)], size=224, batch_size=128)
    >>> distiller.fit(mix, shuffle=False, epochs=30)
    """

    def __init__(self, sources, size, ratio=None, batch_size=32, epoch_size=None, classes=None, seed=0, threads=2):
        super().__init__()  # of one worker: with more, Keras reads batches twice where `fit` begins
        self.sources = tuple(sources)
        self.ratio = tuple(map(float, (1,) * len(self.sources) if ratio is None else ratio))
        if not self.sources or len(self.ratio) != len(self.sources) or min(self.ratio) <= 0:
            raise ValueError(
                "`ratio` must hold a positive number for each source, and `sources` one source at least. Received: "
                f"{len(self.sources)} sources and ratio={ratio}"
            )
        self.size = size
        self.batch_size = batch_size
        first = len(self.sources[0].pictures)
        self.epoch_size = round(first * sum(self.ratio) / self.ratio[0]) if epoch_size is None else epoch_size
        if min(size, batch_size, self.epoch_size) < 1:
            raise ValueError(
                "`size`, `batch_size` and `epoch_size` must be 1 or more. Received: "
                f"size={size}, batch_size={batch_size}, epoch_size={self.epoch_size}"
            )
        labels = [label for source in self.sources if source.labels is not None for label in source.labels]
        if classes is not None and labels and not 0 <= min(labels) <= max(labels) < classes:
            raise ValueError(
                f"`classes` must be above all labels of the sources, which must be 0 or more. Received: {classes}, and "
                f"labels from {min(labels)} to {max(labels)}"
            )
        self.classes = classes
        self.seed = seed
        self.threads = threads
        self._coming = {}  # futures of the pictures of batches to come, by step
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self.counts = shares_of(self.epoch_size, self.ratio)
        self._schedule = functools.lru_cache(maxsize=2)(self._make_schedule)
        self._order = functools.lru_cache(maxsize=4 * len(self.sources))(self._make_order)
        self.turn_to(0)

    def __len__(self):
        return -(-self.epoch_size // self.batch_size)

    def __getitem__(self, index):
        step = self.epoch * len(self) + index
        self._unread.discard(index)
        ahead, before = range(step, step + 1 + BATCHES_AHEAD), self._coming
        coming = {
            each: before.get(each) or [self._pool.submit(self.example, position) for position in self._positions(each)]
            for each in (ahead if index in (0, self._last + 1) else ahead[:1])
        }
        futures = coming.pop(step)
        self._coming, self._last = coming, index
        return self._batch_of([future.result() for future in futures])

    def on_epoch_end(self):
        # `fit` says so, too, when it has read some batches before the first epoch, and after each `steps_per_epoch`.
        if not self._unread:
            self.turn_to(self.epoch + 1)

    def turn_to(self, epoch):
        """Begins an epoch, from 0, anew."""
        self.epoch, self._unread, self._last = epoch, set(range(len(self))), -1

    def batch(self, step):
        """The batch of a step, counted over all epochs."""
        return self._batch_of([self.example(position) for position in self._positions(step)])

    def _positions(self, step):
        epoch, index = divmod(step, len(self))
        start = index * self.batch_size
        end = min(start + self.batch_size, self.epoch_size)
        return range(epoch * self.epoch_size + start, epoch * self.epoch_size + end)

    def _batch_of(self, examples):
        pictures = np.stack([example.picture for example in examples]).astype("float32")
        if self.classes is None:
            return (pictures,)
        labels = np.zeros((len(examples), self.classes), "float32")
        rows = np.arange(len(examples))
        for part in range(2):
            columns = [example.classes[part] for example in examples]
            labels[rows, columns] += [example.shares[part] for example in examples]
        return pictures, labels

    def example(self, position):
        """The `Example` at a position, counted over all epochs."""
        epoch, offset = divmod(position, self.epoch_size)
        sources, turns = self._schedule(epoch)
        number = int(sources[offset])
        source = self.sources[number]
        count = len(source.pictures)
        turn, place = divmod(epoch * self.counts[number] + int(turns[offset]), count)
        index = int(self._order(number, turn)[place])
        random = np.random.default_rng([self.seed, DRAW, position])
        picture = source.augmentation(source.pictures[index], self.size, random)
        chosen, shares = (index, index), (1.0, 0.0)
        if source.augmentation.mixup is not None:
            share = float(random.beta(source.augmentation.mixup, source.augmentation.mixup))
            other = int(random.integers(count))
            second = source.augmentation(source.pictures[other], self.size, random)
            picture = np.round(share * picture.astype("float32") + (1 - share) * second).astype("uint8")
            chosen, shares = (index, other), (share, 1 - share)
        if source.labels is None:
            return Example(picture, position, number, (0, 0), (0.0, 0.0))
        classes = tuple(int(source.labels[each]) for each in chosen)
        return Example(picture, position, number, classes, shares)

    def tf_data(self, start=0):
        """The batches as an endless `tf.data.Dataset`; give `fit` a `steps_per_epoch`, `len(mix)` for instance.

        Args:
            start: step to begin with, where training was stopped.
        """
        import tensorflow as tf

        kinds = [tf.float32] * (1 if self.classes is None else 2)
        shapes = [(None, self.size, self.size, 3), (None, self.classes)]

        def read(step):
            tensors = tf.numpy_function(lambda step: self.batch(int(step)), [step], kinds)
            return tuple(tf.ensure_shape(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=False))

        steps = tf.data.Dataset.range(start, tf.int64.max)
        return steps.map(read, num_parallel_calls=self.threads, deterministic=True).prefetch(BATCHES_AHEAD)

    def get_config(self):
        """What decides about the pictures, the pictures of the sources aside."""
        return {
            "size": self.size,
            "ratio": self.ratio,
            "epoch_size": self.epoch_size,
            "seed": self.seed,
            "sources": [
                {"pictures": len(source.pictures), "augmentation": dataclasses.asdict(source.augmentation)}
                for source in self.sources
            ],
        }

    def _make_schedule(self, epoch):
        """For each position of an epoch, the number of its source, and how many of that source come before it."""
        sources = np.repeat(np.arange(len(self.counts)), self.counts)
        np.random.default_rng([self.seed, SCHEDULE, epoch]).shuffle(sources)
        turns = np.empty_like(sources)
        for number, count in enumerate(self.counts):
            turns[sources == number] = np.arange(count)
        return sources, turns

    def _make_order(self, number, turn):
        """The order of a source's pictures when it is gone through for the `turn`th time."""
        return np.random.default_rng([self.seed, ORDER, number, turn]).permutation(len(self.sources[number].pictures))


def shares_of(total, ratio):
    """Whole numbers that add up to `total`, each less than 1 away from its share by the ratio."""
    exact = np.asarray(ratio) * total / np.sum(ratio)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return tuple(int(count) for count in counts)
