"""What plans say of arguments."""

import keras
import pytest
from keras import layers

from keras_mnv4.plans import plan_entry

pytestmark = pytest.mark.once


@pytest.mark.parametrize("first", [(), (keras.Input((8, 8, 3)),)])
def test_models_without_weights_are_known_by_their_layers(first):
    flips, again = (keras.Sequential([*first, layers.RandomFlip("horizontal")]) for _ in range(2))
    turns = keras.Sequential([*first, layers.RandomRotation(0.5)])
    assert plan_entry([flips]) == plan_entry([again]) != plan_entry([turns])


def test_models_are_known_by_their_weights():
    keras.utils.set_random_seed(0)
    one, other = (keras.Sequential([keras.Input((3,)), layers.Dense(2)]) for _ in range(2))
    assert plan_entry(one) != plan_entry(other)
    other.set_weights(one.get_weights())
    assert plan_entry(one) == plan_entry(other)
