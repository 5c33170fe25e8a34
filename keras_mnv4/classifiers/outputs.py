"""What a classifier gives: probabilities or logits, the one of the other, and the loss that goes with it."""

import keras
from keras import ops

from keras_mnv4.qat import FakeQuantize
from keras_mnv4.qat import QuantizeWrapper

LEAST_PROBABILITY = 1e-12  # what a probability of 0 counts as when its logarithm is taken


def ends_in_softmax(model):
    """Whether a Functional model gives probabilities; None if that is not clear."""
    operation = last_operation(model)
    if isinstance(operation, keras.Model):
        return ends_in_softmax(operation) if getattr(operation, "outputs", None) else None
    operation = operation.layer if isinstance(operation, QuantizeWrapper) else operation
    if isinstance(operation, keras.layers.Softmax):
        return True
    activation = getattr(operation, "activation", None)
    return {keras.activations.softmax: True, keras.activations.linear: False}.get(activation)


def gives_logits(model):
    """Whether a model plainly gives logits."""
    return bool(getattr(model, "inputs", None)) and ends_in_softmax(model) is False


def cross_entropy_of(model, labels):
    """The loss for what a classifier gives, and for how pictures are labelled: class indices or probabilities."""
    kind = keras.losses.SparseCategoricalCrossentropy if labels.ndim == 1 else keras.losses.CategoricalCrossentropy
    return kind(from_logits=gives_logits(model))


def log_probabilities(probabilities):
    """The logarithms of probabilities, in float32."""
    return ops.log(ops.maximum(ops.cast(probabilities, "float32"), LEAST_PROBABILITY))


def last_operation(model):
    """What computes the output of a Functional model, fake-quantisers aside."""
    operation = model.outputs[0]._keras_history.operation
    while isinstance(operation, FakeQuantize):
        operation = operation.input._keras_history.operation
    return operation
