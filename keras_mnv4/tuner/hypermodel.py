"""`UIBHyperModel`: a search space for Keras Tuner's own tuners."""

import keras
import keras_tuner
import numpy as np

from keras_mnv4.applications.network import build_network
from keras_mnv4.classifiers.outputs import gives_logits
from keras_mnv4.qat import quantize_model
from keras_mnv4.tuner.costs import CostModel


class UIBHyperModel(keras_tuner.HyperModel):
    """Builds the networks that a tuner asks for, within limits on their cost.

    Tuners know nothing of limits. A candidate beyond them, or one that is no network, is brought within before it is
    built, by `CostModel.bring_within`; its trial then holds the hyperparameters of the network that was built.

    Args:
        space: a `SearchSpace`.
        compile: function that compiles a model; None for AdamW and whole-number labels.
        limits: as for `CostModel`.
        input_shape: `(height, width, channels)`; None for that of the space.
        classes: classes of the classifier.
        seed: seed of the candidate that tuners begin with.
        **kwargs: others of `keras_mnv4.applications.build_network`.

    Example:

    >>> hypermodel = UIBHyperModel(space, limits={"macs": 50e6}, input_shape=(96, 96, 3), classes=10)
    >>> tuner = keras_tuner.RandomSearch(hypermodel, objective="val_accuracy", max_trials=20)
    >>> tuner.search(pictures, labels, validation_split=0.2, epochs=3)
    """

    def __init__(self, space, compile=None, limits=None, input_shape=None, classes=1000, seed=0, **kwargs):
        super().__init__()
        self.space = space
        self.costs = CostModel(space, limits, input_shape, classes)
        self.default = self.costs.sample(np.random.default_rng(seed))
        self._compile = compile or _compile
        self._arguments = {"input_shape": input_shape, "classes": classes, **kwargs}

    def candidate_of(self, hp):
        """The candidate that hyperparameters stand for, brought within the limits; they are changed with it."""
        candidate = self.costs.bring_within(self.space.to_hyperparameters(hp, self.default))
        hp.values.update({name: str(value) for name, value in candidate.items()})
        return candidate

    def build(self, hp):
        candidate = self.candidate_of(hp)
        model = build_network(self.space.architecture_of(candidate), **self._arguments)
        policy = self.space.policy_of(candidate)
        if policy is not None:
            model = quantize_model(model, policy)
        self._compile(model)
        model.optimizer.build(model.trainable_variables)  # else `get_best_models` could not load its state
        return model


def _compile(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits(model))
    model.compile("adamw", loss, metrics=["accuracy"])
