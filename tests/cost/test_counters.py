"""Counters of stock layers, held against a pencil."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.layers import Classifier
from keras_mnv4.qat.stock.up_sampling import QuantizedUpSampling2D

pytestmark = pytest.mark.once
MAP = (8, 8, 4)
SIZE = 8 * 8 * 4


def counted(model, **arguments):
    """`{(kind, role): count}` of a model."""
    found = {}
    for each in cost.profile(model, **arguments).operations:
        found[each.kind, each.role] = found.get((each.kind, each.role), 0) + each.count
    return found


def of_one(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def products(count, outputs=None):
    """The operations of a layer of sums of products, and of its bias if it has one."""
    bias = {("add", "bias"): outputs} if outputs else {}
    return {("mac", "convolution"): count, **bias}


def relu(count, kind="compare"):
    return {(kind, "activation"): count}


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Conv2D(6, 3, groups=2, use_bias=False), MAP, products(6 * 6 * 6 * 9 * 2)),
        (layers.Conv2D(6, 3, dilation_rate=2), MAP, products(4 * 4 * 6 * 9 * 4, 4 * 4 * 6)),
        (layers.Conv2D(6, 5, strides=2), MAP, products(2 * 2 * 6 * 25 * 4, 2 * 2 * 6)),
        (layers.Conv2D(6, 1, padding="same", activation="relu"), MAP, {**products(64 * 24, 64 * 6), **relu(64 * 6)}),
        (layers.Conv1D(6, 3, padding="causal"), (10, 4), products(10 * 6 * 12, 60)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), MAP, products(2 * SIZE * 9, 2 * SIZE)),
        (layers.SeparableConv2D(6, 3, padding="same"), MAP, products(SIZE * 9 + 64 * 24, 64 * 6)),
        (layers.Dense(5), (7, 4), products(7 * 5 * 4, 35)),
        (layers.ReLU(), MAP, relu(SIZE)),
        (layers.ReLU(6), MAP, relu(2 * SIZE)),
        (layers.ReLU(negative_slope=0.1), MAP, {**relu(SIZE), **relu(SIZE, "multiply")}),
        (layers.PReLU(shared_axes=[1, 2]), MAP, {**relu(SIZE), **relu(SIZE, "multiply")}),
        (layers.Activation("sigmoid"), MAP, relu(SIZE, "lookup")),
        (layers.Activation("silu"), MAP, {**relu(SIZE, "lookup"), **relu(SIZE, "multiply")}),
        (layers.BatchNormalization(), MAP, {("multiply", "norm"): SIZE, ("add", "norm"): SIZE}),
        (
            layers.LayerNormalization(),
            MAP,
            {("add", "norm"): 4 * SIZE, ("multiply", "norm"): 3 * SIZE, ("lookup", "norm"): 64},
        ),
        (layers.MaxPooling2D(2), MAP, {("compare", "pooling"): 16 * 4 * 3}),
        (layers.AveragePooling2D(2), MAP, {("add", "pooling"): 16 * 4 * 3, ("multiply", "pooling"): 64}),
        (layers.GlobalAveragePooling2D(), MAP, {("add", "pooling"): 63 * 4, ("multiply", "pooling"): 4}),
        (layers.GlobalMaxPooling2D(), MAP, {("compare", "pooling"): 63 * 4}),
        (layers.UpSampling2D(), MAP, {}),
        (QuantizedUpSampling2D(), MAP, {}),
        (
            layers.UpSampling2D(interpolation="bilinear"),
            MAP,
            {("multiply", "pooling"): 2 * (2 + 4) * SIZE, ("add", "pooling"): (2 + 4) * SIZE},
        ),
        (layers.ZeroPadding2D(), MAP, {}),
        (layers.Dropout(0.5), MAP, {}),
        (layers.Rescaling(1 / 255), MAP, {("multiply", "preprocessing"): SIZE}),
        (layers.Rescaling(1.0, -3.0), MAP, {("add", "preprocessing"): SIZE}),
    ],
)  # fmt: skip
def test_operations(layer, shape, expected):
    model = of_one(layer, shape)
    assert counted(model) == expected
    expected_weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert cost.profile(model).parameters == expected_weights


def test_a_classifier_may_have_a_layer_for_its_activation():
    by_name, by_layer = (of_one(Classifier(5, each, name="top"), (1, 1, 4)) for each in ("softmax", layers.Softmax()))
    assert cost.profile(by_layer).layers == cost.profile(by_name).layers


def test_softmax_runs_along_its_axis():
    inputs = keras.Input((3, 5))
    for axis, length in ((-1, 5), (1, 3)):
        found = counted(keras.Model(inputs, layers.Softmax(axis)(inputs)))
        rows = 15 // length
        assert found == {
            ("compare", "activation"): 15 - rows,
            ("add", "activation"): 15 + 15 - rows,
            ("lookup", "activation"): 15 + rows,
            ("multiply", "activation"): 15,
        }


@pytest.mark.parametrize(
    ("join", "kind"),
    [(layers.Add(), "add"), (layers.Subtract(), "add"), (layers.Multiply(), "multiply"), (layers.Maximum(), "compare")],
)
def test_two_maps_are_joined_number_by_number(join, kind):
    one, other = keras.Input(MAP), keras.Input((1, 1, 4))
    assert counted(keras.Model([one, other], join([one, other]))) == {(kind, "residual"): SIZE}


def test_maps_of_other_ranks_are_broadcast():
    one, other = keras.Input(MAP), keras.Input((4,))
    assert counted(keras.Model([one, other], one * other)) == {("multiply", "residual"): SIZE}


@pytest.mark.parametrize(
    ("scale_bits", "multiplications"),
    [
        # Both codes by a scale behind ReLU, by their own before the sum; the sum, of 32 bits, by that of the result.
        (8, {("int8", "int8"): 4 * SIZE, ("int32", "int8"): SIZE}),
        (None, {}),  # powers of two: shifts
        ("float", {("float32", "float32"): 5 * SIZE}),
    ],
)
def test_sums_of_codes_whose_scales_are_quantised_need_no_floats(scale_bits, multiplications):
    assert multiplications_of_a_sum(qat.pikelpn_policy(scale_bits=scale_bits)) == multiplications


def test_sums_with_codes_of_a_scale_in_float_are_in_float():
    of_one = qat.Rule("one", outputs=qat.MovingAverageQuantizer(8))
    policy = qat.Policy((of_one, *qat.pikelpn_policy().rules))
    # The other's codes by a scale behind ReLU; the one's, both before the sum and the sum itself in float.
    assert multiplications_of_a_sum(policy) == {("int8", "int8"): SIZE, ("float32", "float32"): 4 * SIZE}


def multiplications_of_a_sum(policy):
    """How often which formats are multiplied in the sum of two maps behind ReLU6, its scales in float by default."""
    inputs = [keras.Input(MAP), keras.Input(MAP)]
    maps = [layers.ReLU(6, name=name)(each) for name, each in zip(("one", "other"), inputs, strict=True)]
    model = qat.quantize_model(keras.Model(inputs, layers.Add()(maps)), policy)
    found = {}
    for each in cost.profile(model, arithmetic=cost.Arithmetic(norms="float", rescaling="float")).operations:
        if each.kind == "multiply":
            formats = tuple(map(str, each.formats))
            found[formats] = found.get(formats, 0) + each.count
    return found


def test_operators_of_python_cost_what_their_layers_do():
    inputs = keras.Input(MAP)
    x = layers.Conv2D(4, 1, use_bias=False)(inputs)
    model = keras.Model(inputs, keras.ops.relu6(x + 3.0) * (1 / 6))
    expected = {**products(64 * 16), ("add", "residual"): SIZE, **relu(2 * SIZE), ("multiply", "residual"): SIZE}
    assert counted(model) == expected
    integer = counted(qat.quantize_model(model, "w8a8"))
    assert integer["add", "residual"] == integer["multiply", "residual"] == SIZE
    assert ("multiply", "preprocessing") not in integer


def test_a_layer_called_twice_is_stored_once():
    inputs = keras.Input(MAP)
    shared = layers.Conv2D(4, 1, use_bias=False)
    model = keras.Model(inputs, shared(shared(inputs)))
    costs = cost.profile(model)
    assert (costs.macs, costs.parameters, costs.weight_bytes) == (2 * 64 * 16, 16, 16 * 4)
    inner = keras.Model(inputs, shared(inputs))
    one, other = keras.Input(MAP), keras.Input(MAP)
    twins = cost.profile(keras.Model([one, other], layers.Concatenate()([inner(one), inner(other)])))
    assert (twins.macs, twins.parameters) == (2 * 64 * 16, 16)


def test_bytes_of_a_picture_become_floats_where_they_are_rescaled():
    inputs = keras.Input(MAP, dtype="uint8")
    costs = cost.profile(keras.Model(inputs, layers.Conv2D(4, 1)(layers.Rescaling(1 / 255)(inputs))))
    assert costs.ace() == costs.macs * 32 * 32


def test_keyword_arguments_and_named_inputs_are_followed():
    inputs = {"picture": keras.Input(MAP, name="picture"), "other": keras.Input(MAP, name="other")}
    x = layers.Conv2D(4, 1)(inputs=inputs["picture"])
    assert cost.profile(keras.Model(inputs, x + inputs["other"])).macs == 64 * 16


def test_what_stands_between_is_written_only_where_it_is_needed():
    """A convolution with its norm and relu is one operator: it reads its input and writes the relu's output."""
    inputs = keras.Input(MAP)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 1, use_bias=False)(inputs)))
    conv, norm, activation = cost.profile(keras.Model(inputs, x)).layers
    assert (sum(count for count, _ in conv.inputs), sum(count for count, _ in conv.outputs)) == (SIZE, 64 * 6)
    assert norm.inputs == norm.outputs == activation.inputs == activation.outputs == ()
    branched = keras.Model(inputs, layers.Concatenate()([x, layers.ReLU()(x)]))
    assert cost.profile(branched).layers[-1].inputs != ()


def test_unknown_ways_are_errors():
    for model in (
        of_one(layers.UpSampling2D(interpolation="bicubic"), MAP),
        of_one(layers.Activation(keras.ops.sin), MAP),
        of_one(layers.Conv3D(1, 1), (2, 2, 2, 1)),
    ):
        with pytest.raises(ValueError, match="not known"):
            cost.profile(model)


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8), (8, None, 4)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="input_shape"):
        cost.profile(of_one(layers.Conv2D(4, 1), (None, None, 4)), shape)
