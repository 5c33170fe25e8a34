import family
import keras
import numpy as np
import pytest
from conftest import tiny_network

from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import build_network
from keras_mnv4.applications import feature_pyramid


@pytest.mark.once
@pytest.mark.no_cover
@pytest.mark.parametrize("name", family.MODEL_GARDEN)
def test_maps_are_the_model_gardens(name):
    """Channels of its endpoints, by tf-models-official 2.20.0; for detectors, without a fixed size."""
    build, channels, _ = family.MODEL_GARDEN[name]
    pyramid = feature_pyramid(build(weights=None, include_top=False, definition="model_garden"))
    assert list(pyramid.output) == ["C2", "C3", "C4", "C5"]
    assert tuple(each.shape[-1] for each in pyramid.output.values()) == channels


@pytest.mark.once
def test_sizes_halve_and_a_classifier_will_do():
    model = MobileNetV4ConvSmall(weights=None, input_shape=(64, 96, 3), classes=3)
    pyramid = feature_pyramid(model, (1, 3, 5), c5="conv")
    maps = pyramid(np.zeros((2, 64, 96, 3), "float32"))
    assert {name: tuple(each.shape) for name, each in maps.items()} == {
        "C1": (2, 32, 48, 32),
        "C3": (2, 8, 12, 64),
        "C5": (2, 2, 3, 960),
    }


@pytest.mark.once
def test_a_stride_of_four_leaves_out_a_level():
    rows = (Conv(8, kernel=5, stride=4), UIB(16, expand=2, middle=3, stride=2))
    backbone = build_network(Architecture("four", rows), include_top=False, input_shape=(32, 32, 3))
    other = keras.Model(backbone.input, keras.layers.Conv2D(4, 1, name="block_head")(backbone.output))
    assert {name: each.shape[1] for name, each in feature_pyramid(other, [2, 3]).output.items()} == {"C2": 8, "C3": 4}


@pytest.mark.parametrize("arguments", [{"levels": (5,)}, {"levels": ()}, {"levels": 3}, {"c5": "head"}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=r"must be (of|a list)"):
        feature_pyramid(tiny_network(), **{"levels": (1,), **arguments})
