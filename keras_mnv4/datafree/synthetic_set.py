"""`SyntheticSet`: a folder of pictures that a teacher made up, to use in place of real ones."""

import json
import pathlib

import numpy as np
from PIL import Image

from keras_mnv4.data import PictureData
from keras_mnv4.data import PictureSet
from keras_mnv4.files import atomic_file

PLAN = "plan.json"
PICTURES = "pictures"
BATCHES = "batches"
SHEET = "contact_sheet.png"


class SyntheticSet:
    """Pictures that `synthesize` made, with their labels.

    The folder has the pictures in `pictures/CLASS/`, as `mnv4 train` and others take them, and what belongs to them,
    batch by batch, in `batches/`.

    Args:
        directory: folder of `synthesize`. Batches that are not there yet are left out.

    Attributes:
        files: paths of the pictures.
        classes: int32 array, the class that each was to be.
        logits: float32 array `(count, classes of the teacher)`, what the teacher says of the middle of each.

    Raises:
        ValueError: if there is no such folder, or no finished batch in it.

    Example:

    >>> made = SyntheticSet("pictures_of_lite0")
    >>> pictures, classes = made.arrays(size=224)
    >>> qat.calibrate(quantized, pictures)
    """

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        if not (self.directory / PLAN).is_file():
            raise ValueError(f"`directory` must be a folder that `synthesize` made. Received: {str(directory)!r}")
        self.plan = json.loads((self.directory / PLAN).read_text())
        batches = [_read_batch(path) for path in sorted((self.directory / BATCHES).glob("*.npz"))]
        if not batches:
            raise ValueError(f"There is no finished batch in '{directory}': call `synthesize` again.")
        self.files = [self.directory / PICTURES / name for batch in batches for name in batch["files"]]
        self.classes = np.concatenate([batch["classes"] for batch in batches])
        self.logits = np.concatenate([batch["logits"] for batch in batches])

    def __len__(self):
        return len(self.files)

    @property
    def class_names(self):
        """Names of the teacher's classes."""
        return tuple(self.plan["class_names"])

    @property
    def size(self):
        """Height and width in pixels of what the teacher was shown last."""
        return self.plan["stages"][-1]["window"]

    def probabilities(self, temperature=1.0):
        """The teacher's probabilities, float32 `(count, classes)`, of its logits divided by a temperature."""
        scaled = self.logits / temperature
        powers = np.exp(scaled - scaled.max(-1, keepdims=True))
        return (powers / powers.sum(-1, keepdims=True)).astype("float32")

    def arrays(self, size=None):
        """The pictures as uint8 `(count, size, size, 3)`, and their classes.

        Args:
            size: height and width in pixels, to which the middle of each, what the teacher's logits are of, is scaled;
                None for the size that this has.
        """
        side = self.size
        size = side if size is None else size
        return np.stack([_read(path, side, size) for path in self.files]), self.classes

    def tf_data(self, size=None, batch_size=32, soft=False, seed=0):
        """A `tf.data.Dataset`, which takes TensorFlow: batches of pictures, float32 0 to 255, and their labels.

        Args:
            size: height and width in pixels, as for `arrays`.
            batch_size: pictures a batch.
            soft: whether labels are the teacher's probabilities, `(batch, classes)`, and not classes, `(batch,)`.
            seed: of the order.
        """
        import tensorflow as tf

        pictures, classes = self.arrays(size)
        labels = self.probabilities() if soft else classes
        pictures, labels = tf.constant(pictures), tf.constant(labels)
        places = tf.data.Dataset.range(len(labels)).shuffle(len(labels), seed=seed)  # a buffer of numbers, not pictures
        return places.batch(batch_size).map(
            lambda chosen: (tf.cast(tf.gather(pictures, chosen), tf.float32), tf.gather(labels, chosen))
        )

    def picture_data(self, size=None, batch_size=32, shares=(0.8, 0.1, 0.1), soft=False, seed=0):
        """The pictures as training, validation and test set, for all that takes a `keras_mnv4.data.PictureData`.

        Only the training set has soft labels.

        Args:
            size: height and width in pixels, as for `arrays`.
            batch_size: pictures a batch.
            shares: of the three sets, drawn by chance; each has a picture at least.
            soft: whether labels of the training set are the teacher's probabilities.
            seed: of the split and the order in training.

        Raises:
            ValueError: if there are too few pictures for that.
        """
        pictures, classes = self.arrays(size)
        order = np.random.default_rng(seed).permutation(len(pictures))
        small = [max(1, round(share / sum(shares) * len(order))) for share in shares[1:]]
        if sum(small) >= len(order):
            raise ValueError(f"{len(order)} pictures leave none to train on. Received: shares={shares}")
        ends = np.cumsum([len(order) - sum(small), *small])[:-1]
        parts = np.split(order, ends)
        labels = [self.probabilities() if soft else classes, classes, classes]
        sets = [
            PictureSet(pictures[part], label[part], pictures.shape[1], batch_size, shuffle=not place, seed=seed)
            for place, (part, label) in enumerate(zip(parts, labels, strict=True))
        ]
        return PictureData(self.class_names, *sets)

    def contact_sheet(self, columns=8, limit=64, size=None):
        """A `PIL.Image` of `limit` pictures side by side, evenly spread over the classes."""
        order = np.argsort(self.classes, kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(limit, len(order))).astype(int)]
        side = self.size
        size = side if size is None else size
        sheet = Image.new("RGB", (columns * size, -(-len(chosen) // columns) * size))
        for place, index in enumerate(chosen):
            picture = Image.fromarray(_read(self.files[index], side, size))
            sheet.paste(picture, (place % columns * size, place // columns * size))
        return sheet

    def save_contact_sheet(self):
        """Writes `contact_sheet.png` into the folder; returns its path."""
        path = self.directory / SHEET
        with atomic_file(path, overwrite=True) as temporary:
            self.contact_sheet().save(temporary)
        return path


def _read_batch(path):
    with np.load(path) as arrays:
        return dict(arrays)


def _read(path, side, size):
    """The middle `side` by `side` pixels of a picture, scaled to `size`."""
    with Image.open(path) as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        picture = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(picture if side == size else picture.resize((size, size), Image.Resampling.BICUBIC))
