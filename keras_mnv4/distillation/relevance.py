"""`select_relevant`: a class-balanced set out of pictures that nobody labelled."""

import warnings

import numpy as np

TOLERANCE = 1e-2  # of the sum of probabilities, which may be rounded


def select_relevant(probabilities, per_class, threshold=0.3, seed=0):
    """Chooses as many pictures of each class, by what a trained network says they are.

    A picture's class is the most probable one, and its relevance that probability. Of each class, those above the
    threshold are kept, the most relevant first; a class of too few has them repeated.

    Source: the selection of D3 in MobileNetV4 (arXiv 2404.10518), appendix H, which follows Noisy Student (arXiv
    1911.04252): relevance from EfficientNet-B0 above 0.3, 130,000 pictures a class, repeated where a class is rare. A
    reconstruction in two points: that relevance is the largest probability, and that a picture counts for its most
    probable class only.

    Args:
        probabilities: array `(pictures, classes)`, a network's for the unlabelled pictures.
        per_class: pictures of each class to choose.
        threshold: least relevance, itself left out.
        seed: seed of which pictures are repeated once more than others.

    Returns:
        Indices of the chosen pictures, class by class, the most relevant first.

    Raises:
        ValueError: if `probabilities` is no table, if its rows are not probabilities, or if no picture is relevant.

    Warns:
        UserWarning: if a class has no relevant picture, and is left out.

    Example:

    >>> chosen = select_relevant(labeller.predict(pool), per_class=1000)
    >>> source = Source(pool[chosen], augmentation=D3)
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2:
        raise ValueError(f"`probabilities` must be (pictures, classes). Received the shape {probabilities.shape}")
    are_probabilities = (probabilities >= 0).all(-1) & (abs(probabilities.sum(-1, dtype="float64") - 1) <= TOLERANCE)
    if not are_probabilities.all():
        row = np.flatnonzero(~are_probabilities)[0]
        raise ValueError(
            f"Rows of `probabilities` must be 0 or more and add up to 1; logits want a softmax. Received in row {row}: "
            f"{probabilities[row]}"
        )
    if per_class < 1:
        raise ValueError(f"`per_class` must be 1 or more. Received: {per_class}")
    classes, relevance = probabilities.argmax(-1), probabilities.max(-1)
    random = np.random.default_rng(seed)
    chosen, empty = [], []
    for label in range(probabilities.shape[-1]):
        members = np.flatnonzero((classes == label) & (relevance > threshold))
        members = members[np.argsort(-relevance[members], kind="stable")][:per_class]
        if not len(members):
            empty.append(label)
            continue
        copies, more = divmod(per_class, len(members))
        again = np.sort(random.choice(len(members), more, replace=False))
        chosen.append(np.concatenate([np.tile(members, copies), members[again]]))
    if not chosen:
        raise ValueError(f"No picture is more relevant than threshold={threshold}. The most is {relevance.max():.3f}.")
    if empty:
        warnings.warn(f"No picture is relevant to {len(empty)} classes, which are left out: {empty}", stacklevel=2)
    return np.concatenate(chosen)
