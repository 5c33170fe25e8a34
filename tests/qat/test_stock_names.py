"""What policies know the layers of stock networks by."""

import keras
import pytest
from keras import layers

from keras_mnv4 import qat
from keras_mnv4.qat.stock.names import stock_names


def stock(first="Conv1", last="dense", separable=False):
    """A convolution, a depthwise one, a residual sum, a normalisation by itself and a dense layer."""
    pictures = keras.Input((32, 32, 3))
    kind = layers.SeparableConv2D if separable else layers.Conv2D
    x = layers.Rescaling(1 / 127.5, -1.0)(layers.RandomFlip()(pictures))
    x = kind(8, 3, 2, use_bias=False, name=first)(x)
    x = layers.ReLU(6.0, name="relu_1")(layers.BatchNormalization(name="bn_1")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="conv_dw_1")(x)
    x = layers.ReLU(6.0, name="relu_2")(layers.BatchNormalization(name="bn_2")(x))
    x = layers.BatchNormalization(name="bn_3")(layers.Add(name="sum")([x, layers.Conv2D(8, 1, name="inner")(x)]))
    x = layers.Dense(4, activation="softmax", name=last)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pictures, x)


def test_layers_that_play_the_parts_of_this_packages_are_called_alike():
    ends = {"Conv1": "stem", "bn_1": "stem", "relu_1": "stem", "dense": "predictions"}
    inside = {"conv_dw_1": "conv_dw_1/depthwise", "bn_3": "bn_3/norm"}
    assert stock_names(stock()) == {**ends, **inside}
    assert stock_names(stock(separable=True))["Conv1_depthwise"] == "stem"


def test_layers_of_those_names_are_what_is_called_so():
    assert stock_names(stock("inner_1", "stem")) == {
        "stem": "predictions",
        "conv_dw_1": "conv_dw_1/depthwise",
        "bn_3": "bn_3/norm",
    }
    assert "dense" not in stock_names(stock("predictions"))


def test_a_body_whose_last_is_a_sum_has_no_predictions():
    model = stock()
    body = keras.Model(model.input, model.get_layer("sum").output)
    assert "predictions" not in stock_names(body).values()
    assert stock_names(keras.Model(model.input, model.get_layer("relu_2").output))["relu_2"] == "predictions"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("w4a4_first_last_8", {"Conv1": "8", "conv_dw_1": "4", "inner": "4", "dense": "8"}),
        ("aqt_w4a4_first_last_8", {"Conv1": "8", "conv_dw_1": "4", "inner": "4", "dense": "8"}),
        (qat.pikelpn_policy(norm=None), {"Conv1": "8", "conv_dw_1": "8", "inner": "4", "dense": "8"}),
    ],
)
def test_named_policies_spare_the_ends_of_any_network(policy, expected):
    parts = {part.path: part for part in qat.quantization_report(qat.quantize_model(stock(), policy)).parts}
    assert {name: parts[name].weights[0] for name in expected} == expected
    assert parts["inner"].weights.endswith("PowerOfTwo") == (not isinstance(policy, str))
    if policy == "w4a4_first_last_8":
        assert [parts[name].outputs[0] for name in ("relu_1", "relu_2", "dense")] == ["8", "4", "8"]


def test_stock_normalisations_that_a_policy_would_round_are_warned_of():
    with pytest.raises(UserWarning, match="folded into kernels: 3, the first `bn_1`"):
        qat.quantize_model(stock(), "pikelpn")
