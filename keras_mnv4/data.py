"""Pictures to train on: folders of images, or the handwritten digits that scikit-learn carries.

Nothing here needs TensorFlow: the sets are `keras.utils.PyDataset`s of NumPy arrays and feed every backend.
"""

import dataclasses
import os
import pathlib

import keras
import numpy as np
from rich.progress import track

from keras_mnv4.batches import NUMBERS

# Pillow reads some of these with a plug-in only; without it they are listed as not readable, not passed over.
SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png")
SUFFIXES += (".tif", ".tiff", ".webp")
CACHE_BYTES = 2**30  # decoded pictures are kept in memory while a set is no larger than this
SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {  # in any case
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
SHARES = (0.6, 0.1, 0.3)  # of a folder without splits of its own


class PictureSet(keras.utils.PyDataset):
    """Labelled pictures, in batches of `(pictures, labels)`: float32 0 to 255, `(batch, size, size, 3)`, and int32.

    Labels may be probabilities instead: float32, `(batch, classes)`.

    Args:
        pictures: array of bytes, `(count, size, size, 3)`, or a list of image files. Of another type than uint8, it is
            rounded to that.
        labels: class index of each, `(count,)` or a column, `(count, 1)`; or an array of probabilities,
            `(count, classes)`.
        size: height and width in pixels that files are scaled and cropped to.
        batch_size: pictures a batch.
        shuffle: whether each epoch has another order.
        seed: seed of those orders.

    Raises:
        ValueError: if there are not as many labels as pictures, `labels` has another shape, a class index is not whole
            or below 0, or `pictures` is neither an array of that shape, of bytes and not of fractions up to 1, nor a
            list of files.

    Example:

    >>> shown, classes = PictureSet(photos, labels, size=32, batch_size=4)[0]
    >>> shown.shape, shown.dtype
    ((4, 32, 32, 3), dtype('float32'))
    """

    def __init__(self, pictures, labels, size, batch_size=32, shuffle=False, seed=0):
        super().__init__(workers=2, max_queue_size=8)
        _check_pictures(pictures, size)
        self.pictures = _as_bytes(pictures) if isinstance(pictures, np.ndarray) else pictures
        self.labels = _checked_labels(labels, len(pictures))
        self.size = size
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.reseed(seed)

    @property
    def num_pictures(self):
        return len(self.labels)

    def __len__(self):
        return -(-self.num_pictures // self.batch_size)

    def __getitem__(self, index):
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return self._decoded(chosen).astype("float32"), self.labels[chosen]

    def on_epoch_end(self):
        if self.shuffle:
            self._random.shuffle(self._order)

    def reseed(self, seed):
        """Begins anew, with the orders of a seed."""
        self.seed = seed
        self._random = np.random.default_rng(seed)
        self._order = np.arange(len(self.labels))
        self.on_epoch_end()

    def turn_to(self, epoch):
        """Gives the pictures the order that they have in an epoch, from 0, by the seed."""
        self.reseed(self.seed)
        for _ in range(epoch):
            self.on_epoch_end()

    def arrays(self, limit=None):
        """`limit` pictures as uint8, evenly spread over the set, and their labels; all of them by default."""
        count = self.num_pictures if limit is None else min(limit, self.num_pictures)
        chosen = np.linspace(0, self.num_pictures - 1, count).astype(int)
        return self._decoded(chosen), self.labels[chosen]

    def _decoded(self, chosen):
        if isinstance(self.pictures, np.ndarray):
            return self.pictures[chosen]
        return np.stack([read_picture(self.pictures[index], self.size) for index in chosen])


def _checked_labels(labels, count):
    """Class indices as int32, `(count,)`, or probabilities as float32, `(count, classes)`."""
    labels = np.asarray(labels)
    if labels.shape[:1] != (count,):
        raise ValueError(f"`labels` must be {count}, one a picture. Received: shape {labels.shape}")
    if labels.ndim > 2:
        raise ValueError(
            "`labels` must be the index of each picture's class, or probabilities of the shape (count, classes). "
            f"Received: shape {labels.shape}"
        )
    if labels.shape[1:] not in ((), (1,)):
        return np.asarray(labels, "float32")
    labels = labels.reshape(-1)  # of a column, as `keras.datasets` has them
    labels = labels if labels.dtype.kind in NUMBERS else labels.astype("float64")  # such as objects of pandas
    wrong = labels[(labels != np.round(labels)) | (labels < 0)]
    if len(wrong):
        raise ValueError(
            "`labels` must be whole numbers from 0 on, the index of each picture's class, or probabilities of the "
            f"shape (count, classes). Received: {wrong[0]}"
        )
    return np.asarray(labels, "int32")


def _check_pictures(pictures, size):
    if isinstance(pictures, np.ndarray):
        if pictures.shape[1:] == (size, size, 3):
            return
        received = f"an array of shape {pictures.shape}"
    else:
        strangers = [each for each in pictures[:1] if not isinstance(each, (str, os.PathLike))]
        if not strangers:
            return
        received = f"a {type(pictures).__name__} of {type(strangers[0]).__name__}; `np.stack` makes one array of many"
    raise ValueError(
        f"`pictures` must be an array (count, {size}, {size}, 3), as `size` says, or a list of image files. Received: "
        f"{received}"
    )


def _as_bytes(pictures):
    """An array of bytes of any type as uint8."""
    if pictures.dtype == "uint8" or not pictures.size:
        return pictures.astype("uint8", copy=False)
    low, high = pictures.min(), pictures.max()
    is_fraction = pictures.dtype.kind == "f" and 0 < high <= 1
    if not (low >= 0 and high <= 255) or is_fraction:  # nor where one is no number
        way_out = '. Multiply them by 255 and use `astype("uint8")`' if low >= 0 and is_fraction else ""
        raise ValueError(
            f"`pictures` must be bytes, 0 to 255. Received: {pictures.dtype} from {low:.3g} to {high:.3g}{way_out}"
        )
    return np.rint(pictures).astype("uint8")


@dataclasses.dataclass(frozen=True)
class PictureData:
    """Three sets of pictures of the same classes.

    Args:
        class_names: names in the order of the class indices.
        train: to learn from; shuffled.
        validation: to watch while learning.
        test: to report on.
        skipped: image files that could not be read and were left out.

    Example:

    >>> data = load_image_folder("photos", size=32)
    >>> data.class_names, data.train.num_pictures
    (('china', 'flower'), 14)
    """

    class_names: tuple[str, ...]
    train: PictureSet
    validation: PictureSet
    test: PictureSet
    skipped: tuple[pathlib.Path, ...] = ()


def load_image_folder(directory, size, batch_size=32, seed=0):
    """Loads a folder of images with one sub-folder for each class.

    A folder that has sub-folders `train` and `test`, each with classes in it, is split as it says. A third may be
    called `validation`, `valid` or `val`; else a tenth of `train` is taken. Where there is no `test`, as in ImageNet's
    layout, it is that third that is tested on. Any other folder is split 60 : 10 : 30, class by class.

    Args:
        directory: the folder.
        size: height and width in pixels; pictures are scaled to their shorter side and cropped at the centre.
        batch_size: pictures a batch.
        seed: seed of the split and of the order in training.

    Returns:
        A `PictureData`. Files that are not readable images are left out and listed in `skipped`.

    Raises:
        ValueError: if there is no such folder, fewer than two classes, a class with no picture or too few to split, a
            folder of only one split or two of one, or a name that is not UTF-8.

    Example:

    >>> data = load_image_folder("photos", size=96)
    >>> data.train[0][0].shape[1:]
    (96, 96, 3)
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise ValueError(f"`directory` must be a folder of images. Received: {str(directory)!r}")
    files = {split: _class_files(folder) for split, folder in _split_folders(directory).items()}
    files = files or {"all": _class_files(directory)}
    names = tuple(sorted(next(iter(files.values()))))
    if len(names) < 2:
        raise ValueError(
            f"A classifier needs two classes or more: `{directory}` must have a sub-folder of images for each class. "
            f"Found: {list(names)}"
        )
    for split, classes in files.items():
        if set(classes) != set(names):
            odd = sorted(set(classes) ^ set(names))
            raise ValueError(f"All splits must have the same classes; `{split}` differs in {odd}.")

    skipped = []
    sets = {split: _read_class_files(classes, names, size, skipped, split) for split, classes in files.items()}
    if "all" in sets:
        sets = _split(*sets["all"], SHARES, SPLITS, names, seed)
    elif "validation" not in sets:
        sets.update(_split(*sets["train"], (0.9, 0.1), ("train", "validation"), names, seed))
    return _picture_data(names, sets, size, batch_size, seed, tuple(skipped))


def _split_folders(directory):
    """The folders of the splits, by the names of `SPLITS`; none if `directory` holds classes."""
    found = {
        path.name: path for path in sorted(directory.iterdir()) if path.name.lower() in SPLIT_FOLDERS and path.is_dir()
    }
    folders = {SPLIT_FOLDERS[name.lower()]: folder for name, folder in found.items()}
    if len(folders) < len(found):
        raise ValueError(f"`{directory}` has two folders of one split, of {sorted(found)}: join them, or rename one.")
    if "test" not in folders and "validation" in folders:
        folders["test"] = folders.pop("validation")
    if found and not {"train", "test"} <= folders.keys():
        raise ValueError(
            f"`{directory}` has the folder of a split, {sorted(found)}, but not both of `train` and `test`. Name them "
            "so, or rename a class that is called like a split."
        )
    return {split: folders[split] for split in SPLITS if split in folders}


def load_digits(size=64, batch_size=32, seed=0):
    """Loads scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, scaled up to `size` and made RGB.

    Source: "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.

    Args:
        size: height and width in pixels.
        batch_size: pictures a batch.
        seed: seed of the split (60 : 10 : 30) and of the order in training.

    Returns:
        A `PictureData`.

    Raises:
        ImportError: if scikit-learn is not installed.

    Example:

    >>> digits = load_digits(size=32)
    >>> digits.train.num_pictures, digits.test.num_pictures
    (1079, 539)
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn: pip install 'keras-mnv4[demo]'") from error
    from PIL import Image

    digits = datasets.load_digits()
    pictures = np.empty((len(digits.images), size, size, 3), "uint8")
    for index, digit in enumerate(digits.images):
        picture = Image.fromarray(np.round(digit * 255 / 16).astype("uint8"))
        pictures[index] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))[..., None]
    names = tuple(str(name) for name in digits.target_names)
    sets = _split(pictures, digits.target, SHARES, SPLITS, names, seed)
    return _picture_data(names, sets, size, batch_size, seed)


def read_picture(path, size):
    """Reads an image file as uint8 `(size, size, 3)`: its shorter side scaled to `size`, cropped at the centre.

    Example:

    >>> read_picture("cat.jpg", size=224).shape
    (224, 224, 3)
    """
    from PIL import Image
    from PIL import ImageOps

    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(as_rgb(image), (size, size), Image.Resampling.BICUBIC))


def as_rgb(image):
    """A Pillow image upright, of three channels of a byte.

    Raises:
        ValueError: if its pixels are floats.

    Example:

    >>> as_rgb(PIL.Image.open("cat.jpg")).mode
    'RGB'
    """
    from PIL import Image
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("A picture of floats does not say which of them is white: save it with bytes, or 16 bits.")
    if image.mode.startswith("I;16"):  # which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    return image.convert("RGB")


def _class_files(directory):
    """Image files by class: `{sub-folder name: sorted files}`."""
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and not _is_hidden(path))
    classes = {folder.name: picture_files(folder) for folder in folders}
    for name, files in classes.items():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"A folder's name is that of a class, and {name!r} is not UTF-8: rename it.") from error
        if not files:
            raise ValueError(
                f"Folder {name!r} of `{directory}` holds no picture ({', '.join(SUFFIXES)}), and each is a class: give "
                "it some, or move it elsewhere."
            )
    return classes


def picture_files(directory):
    """The image files in a folder and in its sub-folders, hidden ones left out, sorted.

    Example:

    >>> files = picture_files("unlabelled")
    >>> PictureSet(files, [0] * len(files), size=224)
    """
    directory = pathlib.Path(directory)
    return sorted(
        path
        for path in directory.rglob("*")
        if path.suffix.lower() in SUFFIXES and not any(map(_is_hidden, (path, *path.relative_to(directory).parents)))
    )


def _is_hidden(path):
    return path.name.startswith(".") or path.name == "__MACOSX"


def _read_class_files(classes, names, size, skipped, split):
    """Reads all files once, to find those that cannot be; keeps the pictures if they fit into memory."""
    files = [(path, label) for label, name in enumerate(names) for path in classes[name]]
    keep = len(files) * size * size * 3 <= CACHE_BYTES
    pictures, labels = [], []
    for path, label in track(files, description=f"Reading pictures ({split})", transient=True):
        try:
            picture = read_picture(path, size)
        except Exception:  # of damaged and of huge files, Pillow raises many kinds
            skipped.append(path)
            continue
        pictures.append(picture if keep else path)
        labels.append(label)
    missing = sorted(set(range(len(names))) - set(labels))
    if missing:
        raise ValueError(f"No readable picture of class {names[missing[0]]!r} in {split}.")
    return np.stack(pictures) if keep else pictures, labels


def _split(pictures, labels, shares, splits, names, seed):
    """Splits class by class: `{split: (pictures, labels)}`, at least one picture of each class in each."""
    random = np.random.default_rng(seed)
    labels = np.asarray(labels)
    chosen = {split: [] for split in splits}
    for label, name in enumerate(names):
        members = random.permutation(np.flatnonzero(labels == label))
        if len(members) < len(splits):
            raise ValueError(
                f"Class {name!r} has {len(members)} pictures; it takes {len(splits)} or more to have one in each of "
                f"{', '.join(splits)}."
            )
        rest = [max(1, round(share * len(members))) for share in shares[1:]]
        ends = np.cumsum([len(members) - sum(rest), *rest])
        for split, part in zip(splits, np.split(members, ends[:-1]), strict=True):
            chosen[split].extend(part)
    return {split: _take(pictures, labels, np.asarray(indices)) for split, indices in chosen.items()}


def _take(pictures, labels, indices):
    taken = pictures[indices] if isinstance(pictures, np.ndarray) else [pictures[index] for index in indices]
    return taken, labels[indices]


def _picture_data(names, sets, size, batch_size, seed, skipped=()):
    made = {split: PictureSet(*sets[split], size, batch_size, shuffle=split == "train", seed=seed) for split in SPLITS}
    return PictureData(names, **made, skipped=skipped)
