"""`measure_quality`: how good made-up pictures are, seen by their teacher, by a stranger, and against real ones."""

import dataclasses

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.datafree.canvas import as_taken
from keras_mnv4.datafree.listening import listening
from keras_mnv4.datafree.listening import normalizations_of
from keras_mnv4.datafree.objective import moments

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Quality:
    """What `measure_quality` found.

    Args:
        pictures: how many.
        teacher_top1: share of which the teacher says what they were to be.
        judge_top1: share of which another model does; None without one.
        judge_top5: likewise, among its five likeliest.
        diversity: mean distance between the features of two pictures, over their mean length: near 0 where all look
            alike, about 1.4 where they have nothing in common.
        statistics_distance: difference of the inputs of the teacher's normalisations from what it was trained on:
            squared difference of means in trained variances, plus that of the variances' logarithms, on average.
        frechet_distance: Fréchet distance of features to those of real pictures, as FID's but of these models; None
            without any.
        real_diversity: `diversity` of the real pictures.

    Example:

    >>> print(Quality(64, teacher_top1=1.0, judge_top1=0.89, judge_top5=0.94, diversity=1.1, statistics_distance=0.07))
    pictures 64, teacher top1 100.0%, judge top1 89.0%, judge top5 94.0%, diversity 1.1, statistics distance 0.07
    """

    pictures: int
    teacher_top1: float
    judge_top1: float | None
    judge_top5: float | None
    diversity: float
    statistics_distance: float
    frechet_distance: float | None = None
    real_diversity: float | None = None

    def __str__(self):
        found = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        return ", ".join(
            f"{key.replace('_', ' ')} {value:{'.1%' if 'top' in key else ',' if key == 'pictures' else ',.3g'}}"
            for key, value in found.items()
        )


def measure_quality(
    made,
    teacher,
    judge=None,
    real=None,
    preprocess=None,
    judge_preprocess=None,
    teacher_outputs=None,
    judge_outputs=None,
):
    """Measures pictures that were made from a teacher.

    Features are the judge's, or else the teacher's: the averages of the last maps of the network, or what its last
    layer reads where these are inside another. A judge that had no part in the pictures is what tells pictures from
    patterns that please the teacher alone.

    Args:
        made: a `SyntheticSet`, or a pair of uint8 pictures `(count, size, size, 3)` and classes.
        teacher: the model that they were made from.
        judge: another Functional model of the same classes; None for none.
        real: uint8 pictures to compare with, any number of at least two; None for none.
        preprocess: as for `synthesize`.
        judge_preprocess: the same for the judge.
        teacher_outputs: as for `synthesize`.
        judge_outputs: the same for the judge.

    Returns:
        A `Quality`.

    Raises:
        ValueError: if there are fewer than two pictures, or if it is not clear what a model gives.

    Example:

    >>> print(measure_quality(made, EfficientNetLite0(weights="imagenet"), EfficientNetLite2(weights="imagenet")))
    """
    pictures, classes = made if isinstance(made, tuple) else made.arrays()
    if len(pictures) < 2 or (real is not None and len(real) < 2):
        raise ValueError(f"Quality takes two pictures or more, of each kind. Received: {len(pictures)}")
    eye = ClassifierView(teacher, "teacher", teacher_outputs), preprocess
    by_teacher, features = look(*eye, pictures)
    by_judge = None
    if judge is not None:
        eye = ClassifierView(judge, "judge", judge_outputs), judge_preprocess
        by_judge, features = look(*eye, pictures)
    real_features = None if real is None else look(*eye, real)[1]
    return Quality(
        pictures=len(pictures),
        teacher_top1=top_share(by_teacher, classes, 1),
        judge_top1=None if judge is None else top_share(by_judge, classes, 1),
        judge_top5=None if judge is None else top_share(by_judge, classes, 5),
        diversity=diversity(features),
        statistics_distance=statistics_distance(teacher, pictures, preprocess, teacher_outputs),
        frechet_distance=None if real is None else frechet_distance(features, real_features),
        real_diversity=None if real is None else diversity(real_features),
    )


def look(view, preprocess, pictures):
    """Logits that the model of a `ClassifierView` gives, and the features inside it: two NumPy arrays."""
    inner = keras.Model(view.model.inputs[0], _features_of(view.model))
    logits, features = [], []
    for batch in _batches(pictures):
        taken = view.resize(as_taken(batch, preprocess))
        logits.append(ops.convert_to_numpy(view(taken)["logits"]))
        features.append(ops.convert_to_numpy(inner(taken, training=False)))
    return np.concatenate(logits), np.concatenate(features)


def top_share(logits, classes, count):
    """Share of rows whose class is among the `count` likeliest."""
    return float((np.argsort(-logits, axis=-1)[:, :count] == np.asarray(classes)[:, None]).any(-1).mean())


def diversity(features):
    """Mean distance of two rows, over their mean length."""
    squares = (features.astype("float64") ** 2).sum(-1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * features.astype("float64") @ features.T, 0))
    count = len(features)
    return float(distances.sum() / (count * (count - 1)) / np.sqrt(squares).mean())


def statistics_distance(teacher, pictures, preprocess=None, outputs=None):
    """`Quality.statistics_distance`, of all pictures together."""
    view = ClassifierView(teacher, "teacher", outputs)
    sums, total = {}, 0
    for batch in _batches(pictures):
        with listening(normalizations_of(teacher)) as heard:
            view(as_taken(batch, preprocess))
        for place, (layer, inputs) in enumerate(heard):
            mean, variance, *trained = (ops.convert_to_numpy(each) for each in moments(layer, inputs))
            first, second, *_ = sums.get(place, (0.0, 0.0))
            weighted = first + len(batch) * mean, second + len(batch) * (variance + mean**2)
            sums[place] = (*weighted, *trained, layer.epsilon)
        total += len(batch)
    return float(np.mean([_distance(total, *each) for each in sums.values()]))


def _distance(total, first, second, trained_mean, trained_variance, epsilon):
    mean = first / total
    variance, trained_variance = second / total - mean**2 + epsilon, trained_variance + epsilon
    return np.mean((mean - trained_mean) ** 2 / trained_variance + np.log(variance / trained_variance) ** 2)


def frechet_distance(first, second):
    """Fréchet distance of two sets of rows, each taken for a normal distribution.

    Source: Heusel et al. (arXiv 1706.08500).
    """
    means, covariances = zip(*[(rows.mean(0), np.cov(rows, rowvar=False)) for rows in (first, second)], strict=True)
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * between)


def _features_of(model):
    """The averages of the last maps that are made with weights; where there are none, what the last weights read.

    If these are a whole network, such as one behind a scaling, it is asked for its own.
    """
    maps = _maps_of(model)
    if maps:
        axes = (2, 3) if keras.config.image_data_format() == "channels_first" else (1, 2)
        return ops.mean(maps[-1], axis=axes)
    operation, (read,) = _made_by(model.outputs[0])
    while not getattr(operation, "weights", ()):
        operation, (read,) = _made_by(read)
    if isinstance(operation, keras.Model) and getattr(operation, "inputs", None):
        return keras.Model(operation.inputs, _features_of(operation))(read)
    if len(read.shape) != 2:
        raise ValueError(f"`{model.name}` has no maps to take features from.")
    return read


def _maps_of(model):
    """Tensors of four axes of a model's own graph, in its order, from the first weights on."""
    maps, is_weighted = [], False
    nodes = keras.Model(model.inputs, model.outputs)._nodes_by_depth  # a Sequential has none of its own
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            operation = node.operation
            is_weighted |= bool(getattr(operation, "weights", ())) and not isinstance(operation, layers.Normalization)
            maps += [tensor for tensor in node.outputs if is_weighted and tensor.ndim == 4]
    return maps


def _made_by(tensor):
    """The operation that a tensor of a Functional model is made by, and what it is made of."""
    operation, place, _ = tensor._keras_history
    return operation, operation._inbound_nodes[place].input_tensors


def _batches(pictures):
    for start in range(0, len(pictures), BATCH):
        yield ops.convert_to_tensor(np.asarray(pictures[start : start + BATCH], "float32"))
