"""`freeze_statistics`, `FreezeStatistics`: batch normalisations that normalise in training as at inference."""

import keras
from keras import layers


def freeze_statistics(model, scales=True):
    """Freezes the batch normalisations of a model: from here on they normalise in training as they do at inference.

    Worth doing before the last epochs of quantisation-aware training at the latest: an integer file has one fixed scale
    and shift for each channel, and this is what the weights should be trained for. Call it before `compile`; while
    `fit` runs, `FreezeStatistics` does it.

    `.keras` files remember it for the layers of this package. Of a stock normalisation, and in clones of a model,
    scales are taken for frozen where statistics are. In twins that `quantize_model` makes, those in
    layers of this package start unfrozen, and those of Keras as they were.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (arXiv 1806.08342),
    section 3.2.2.

    Args:
        model: any Keras model or layer. Changed in place.
        scales: whether to freeze the learned scales and shifts, too.

    Example:

    >>> freeze_statistics(quantized)
    >>> quantized.compile("adam", "sparse_categorical_crossentropy")
    """
    for norm in _norms(model):
        norm.trainable = False
        for weight in (norm.gamma, norm.beta):
            if weight is not None:
                weight.trainable = not scales


def frozen_statistics(layer):
    """The arguments of `freeze_statistics` that the normalisations in `layer` were frozen with; None if they were not.

    Args:
        layer: a built Keras layer.
    """
    norms = _norms(layer)
    if not norms or any(norm.trainable for norm in norms):
        return None
    return {"scales": not any(weight.trainable for norm in norms for weight in norm.weights)}


def _norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]


class FreezeStatistics(keras.callbacks.Callback):
    """Freezes the statistics of batch normalisations once `fit` has come to a step.

    Scales and shifts train on: the optimizer holds on to the variables that it began with. The step is the optimizer's
    count, so that a run that was stopped and goes on freezes at the same one, or stays frozen.

    Args:
        step: number of training steps before the freeze; 0 freezes from the start.

    Raises:
        ValueError: if `step` is not a whole number from 0 on.

    Example:

    >>> quantized.fit(data.train, epochs=10, callbacks=[FreezeStatistics(step=8 * len(data.train))])
    """

    def __init__(self, step):
        super().__init__()
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"`step` must be a whole number from 0 on. Received: step={step!r}")
        self.step = step

    def on_train_begin(self, logs=None):
        self._is_done = False

    def on_epoch_begin(self, epoch, logs=None):
        self._steps_before = int(self.model.optimizer.iterations)

    def on_train_batch_begin(self, batch, logs=None):
        if not self._is_done and self._steps_before + batch >= self.step:
            if frozen_statistics(self.model) is None:
                freeze_statistics(self.model, scales=False)
                self.model.make_train_function(force=True)  # the one in use was traced with batch statistics
            self._is_done = True
