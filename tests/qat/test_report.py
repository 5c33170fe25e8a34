import keras
import pytest
from conftest import tiny_hybrid
from conftest import tiny_network
from keras import layers

from keras_mnv4 import qat


def found(model):
    report = qat.quantization_report(model)
    return {part.path: part for part in report.parts}, report


def test_every_part_is_listed_with_its_bits():
    parts, report = found(qat.quantize_model(tiny_hybrid(), "w4a8_first_last_8"))
    assert parts["preprocessing"].outputs == "8 bits, Fixed"
    assert parts["stem"].weights == "8 bits a channel, LastValue"
    assert parts["block_2/start_depthwise"].weights == "4 bits a channel, LastValue"
    assert parts["block_3/attention/query"].weights == "4 bits a channel, LastValue"
    assert parts["block_3/attention/softmax"].outputs == "8 bits, Fixed"
    assert parts["block_3/attention/softmax"].weights == ""
    assert parts["block_1/add"].outputs == "8 bits, MovingAverage"
    assert parts["avg_pool"].outputs == "8 bits, MovingAverage"
    assert all(part.outputs != "float" or part.why for part in report.parts)
    assert "block_3/attention/logits" in str(report)


@pytest.mark.once
def test_what_stays_in_float_says_why():
    rules = (qat.Rule("predictions/.*"), *qat.get_policy("w8a8").rules)
    parts, report = found(qat.quantize_model(tiny_network(), qat.Policy(rules)))
    assert parts["predictions/conv"].weights == parts["predictions/conv"].outputs == "float"
    assert parts["predictions/conv"].why == "left in float by the policy"
    assert qat.Policy((*rules, qat.Rule("steem"))).unused_rules(report.paths)[-1].pattern == "steem"


@pytest.mark.once
def test_stock_layers_say_where_they_are_rounded():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    outputs = layers.Dense(2, name="dense")(layers.Flatten(name="flatten")(x))
    parts, _ = found(qat.quantize_model(keras.Model(inputs, outputs)))
    assert parts["conv"].weights == "8 bits a channel, LastValue"
    assert parts["conv"].why == "rounded behind norm"
    assert parts["norm"].why == "rounded behind relu"
    assert parts["relu"].outputs == "8 bits, MovingAverage"
    assert parts["flatten"].why == "hands on what is rounded already"
    assert parts["dense"].outputs == "8 bits, MovingAverage"


@pytest.mark.once
def test_float_models_are_float_throughout():
    parts, _ = found(tiny_network())
    assert {part.outputs for part in parts.values()} == {"float"}


@pytest.mark.once
def test_sequential_models_are_reported_as_they_are_quantised():
    stack = [layers.Conv2D(4, 3, name="conv"), layers.Flatten(name="flatten"), layers.Dense(2, name="dense")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack], name="stacked")
    parts, report = found(model)
    assert (report.name, list(parts)) == ("stacked", ["input", "conv", "flatten", "dense"])
    assert {part.outputs for part in parts.values()} == {"float"}
    with pytest.raises(ValueError, match=r"must be a Functional `keras.Model`, or a built Sequential"):
        qat.quantization_report(keras.Sequential(stack))
