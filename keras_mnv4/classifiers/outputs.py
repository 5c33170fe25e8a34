"""What a classifier gives: probabilities or logits, the one of the other, and the loss that goes with it."""

import keras
from keras import layers
from keras import ops

from keras_mnv4.qat import FakeQuantize
from keras_mnv4.qat import QuantizeWrapper

LEAST_PROBABILITY = 1e-12  # what a probability of 0 counts as when its logarithm is taken
# Layers behind which probabilities are still probabilities, and logits still logits.
KEEPING = (
    FakeQuantize,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Permute,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
SOFTMAX, SIGMOID = (
    type(function(keras.KerasTensor((1, 2)))._keras_history.operation) for function in (ops.softmax, ops.sigmoid)
)


def ends_in_softmax(model):
    """Whether a Functional model gives probabilities; None if that is not clear.

    The last layer with an activation says so, poolings and the like behind it aside; or `Activation("linear")`, of
    what is behind a layer that has none.
    """
    operation, is_linear = _last_meaning(model)
    if isinstance(operation, keras.Model):
        return ends_in_softmax(operation) if getattr(operation, "outputs", None) else None
    if isinstance(operation, (layers.Softmax, SOFTMAX)):
        return True
    activation = getattr(operation, "activation", None)
    if activation is None and not isinstance(operation, SIGMOID):
        return False if is_linear else None
    return {keras.activations.softmax: True, keras.activations.linear: False}.get(activation)


def gives_logits(model):
    """Whether a model plainly gives logits."""
    return bool(getattr(model, "inputs", None)) and ends_in_softmax(model) is False


def trains_on_logits(model):
    """Whether the loss of a classifier is one of logits, and not of probabilities.

    Sigmoids count as probabilities, and so does what a model without `inputs` gives.

    Raises:
        ValueError: if it is not clear which the model gives.
    """
    if getattr(model, "inputs", None) and ends_in_softmax(model) is None and not _ends_in_sigmoid(model):
        raise ValueError(
            f"It is not clear from the last layer of model `{model.name}` whether it gives probabilities or logits: "
            'give `fit_classifier` a `loss`; or end the model in `Activation("softmax")`, or in `Activation("linear")` '
            "if these are logits."
        )
    return gives_logits(model)


def cross_entropy_of(model, labels):
    """The loss for what a classifier gives, and for how pictures are labelled: class indices or probabilities.

    Raises:
        ValueError: if it is not clear what the model gives.
    """
    kind = keras.losses.SparseCategoricalCrossentropy if labels.ndim == 1 else keras.losses.CategoricalCrossentropy
    return kind(from_logits=trains_on_logits(model))


def log_probabilities(probabilities):
    """The logarithms of probabilities, in float32."""
    return ops.log(ops.maximum(ops.cast(probabilities, "float32"), LEAST_PROBABILITY))


def last_operation(model):
    """What computes the output of a Functional model, fake-quantisers aside."""
    operation = model.outputs[0]._keras_history.operation
    while isinstance(operation, FakeQuantize):
        operation = operation.input._keras_history.operation
    return operation


def _last_meaning(model):
    """What gives the outputs of a Functional model their meaning, and whether `Activation("linear")` is behind it."""
    tensor, is_linear = model.outputs[0], False
    while True:
        operation, node, _ = tensor._keras_history
        linear = isinstance(operation, layers.Activation) and operation.activation is keras.activations.linear
        if not linear and not isinstance(operation, KEEPING):
            return operation.layer if isinstance(operation, QuantizeWrapper) else operation, is_linear
        is_linear = is_linear or linear
        tensor = operation._inbound_nodes[node].input_tensors[0]


def _ends_in_sigmoid(model):
    operation, _ = _last_meaning(model)
    if isinstance(operation, keras.Model):
        return bool(getattr(operation, "outputs", None)) and _ends_in_sigmoid(operation)
    return isinstance(operation, SIGMOID) or getattr(operation, "activation", None) is keras.activations.sigmoid
