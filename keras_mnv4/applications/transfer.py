"""`replace_classifier`: a pretrained network for other classes."""

import keras

from keras_mnv4.applications.arguments import check_classes
from keras_mnv4.layers import Classifier


def replace_classifier(model, classes, classifier_activation="softmax"):
    """A model with the layers of another one, and a new classifier in place of the last.

    Args:
        model: a classifier made by a constructor of this package. It shares its layers, and so its weights, with the
            result.
        classes: number of classes.
        classifier_activation: activation of the new classifier, None for logits.

    Returns:
        A Functional model. Its classifier has random weights: `keras_mnv4.training.fine_tune` trains it.

    Raises:
        ValueError: if `model` has no classifier of this package, or is fake-quantised.

    Example:

    >>> model = replace_classifier(EfficientNetLite0(weights="imagenet"), classes=10)
    >>> model.output_shape
    (None, 10)
    """
    old = model.layers[-1]
    if not isinstance(old, Classifier):
        raise ValueError(
            "`model` must end in the classifier of a constructor of this package (`include_top=True`). Received: a "
            f"model that ends in {old.name} ({type(old).__name__})"
        )
    if old.quantization is not None:
        raise ValueError(
            "`model` is fake-quantised, and a new classifier would stay in float: replace that of the float model, "
            "then quantise."
        )
    check_classes(classes)
    new = Classifier(classes, classifier_activation, data_format=old.data_format, dtype=old.dtype_policy, name=old.name)
    return keras.Model(model.input, new(old.input), name=model.name)
