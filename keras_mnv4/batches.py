"""Batches of pictures, out of whatever holds them."""

import keras
import numpy as np

NUMBERS = "fiub"  # kinds of NumPy's types


def batches_of(data, batch_size, is_mixed=False):
    """Pairs of a batch of pictures and its labels, or None for labels.

    Args:
        data: an array of pictures, or a pair of it and labels; or a `tf.data.Dataset` or `keras.utils.PyDataset` of
            batches of either.
        batch_size: pictures at a time, of arrays.
        is_mixed: whether arrays are mixed by chance, always in the same way.

    Raises:
        ValueError: if `data` is none of these, or `batch_size` below 1.

    Example:

    >>> [len(shown) for shown, _ in batches_of(np.zeros((5, 32, 32, 3)), batch_size=2)]
    [2, 2, 1]
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be 1 or more. Received: {batch_size}")
    if isinstance(data, keras.utils.PyDataset):
        batches = (data[place] for place in range(len(data)))
    elif hasattr(data, "element_spec"):
        batches = data.as_numpy_iterator()
    else:
        batches = _slices(*_arrays(data), batch_size, is_mixed)
    for each in batches:
        shown, *others = each if isinstance(each, (tuple, list)) else (each,)
        yield shown, others[0] if others else None


def pictures_of(data):
    """All pictures of what `batches_of` takes, as one array.

    Example:

    >>> pictures_of((np.zeros((5, 32, 32, 3)), np.arange(5))).shape
    (5, 32, 32, 3)
    """
    if hasattr(data, "element_spec") or isinstance(data, keras.utils.PyDataset):
        batches = [np.asarray(shown) for shown, _ in batches_of(data, 1)]
        return np.concatenate(batches) if batches else np.empty(0)
    return _arrays(data)[0]


def _arrays(data):
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2 and np.ndim(data[0]) != np.ndim(data[1])
    pictures, labels = data if is_pair else (data, None)
    pictures = np.asarray(pictures)
    if pictures.dtype.kind not in NUMBERS or not pictures.ndim:
        raise ValueError(
            "`data` must be an array of pictures, a pair of it and labels, or a `tf.data.Dataset` or "
            f"`keras.utils.PyDataset` of batches. Received: {type(data).__name__} of {pictures.dtype}"
        )
    return pictures, labels


def _slices(pictures, labels, batch_size, is_mixed):
    if is_mixed:
        order = np.random.default_rng(0).permutation(len(pictures))
        pictures, labels = pictures[order], None if labels is None else np.asarray(labels)[order]
    for start in range(0, len(pictures), batch_size):
        part = slice(start, start + batch_size)
        yield pictures[part], None if labels is None else labels[part]
