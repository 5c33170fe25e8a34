"""Gradients of any function, inside of a training step and outside."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_mnv4.gradients import value_and_gradients


def test_by_hand():
    value, gradients = value_and_gradients(
        lambda values: values[0] ** 2 * ops.sum(values[1]), [np.float32(3), np.array([1, 2], "float32"), np.float32(5)]
    )
    assert float(value) == 27.0
    assert [ops.convert_to_numpy(each).tolist() for each in gradients] == [18.0, [9.0, 9.0], 0.0]


class Learner(keras.Model):
    """Its loss is `weight * d(weight ** 3)`: the gradient of a step is that of the first factor alone."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(name="weight", shape=(), initializer="ones")
        self.built = True

    def call(self, inputs):
        return inputs

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        _, (gradient,) = value_and_gradients(lambda values: values[0] ** 3, [ops.convert_to_tensor(self.weight)])
        return self.weight * gradient


def test_in_a_step_it_counts_as_a_number():
    learner = Learner()
    learner.compile(keras.optimizers.SGD(0.1))
    learner.fit(np.zeros((1, 1)), np.zeros(1), verbose=0)
    assert float(learner.weight) == pytest.approx(1.0 - 0.1 * 3.0)
