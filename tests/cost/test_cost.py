import keras
import pytest

from keras_mnv4 import cost
from keras_mnv4.applications import MobileNetV4ConvSmall


def test_unknown_size_is_an_error():
    with pytest.raises(ValueError, match="fixed input size"):
        cost.count_macs(MobileNetV4ConvSmall(weights=None, include_top=False))


def test_foreign_layers_are_an_error_not_a_zero():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="foreign")])
    with pytest.raises(ValueError, match="foreign"):
        cost.count_macs(model)
