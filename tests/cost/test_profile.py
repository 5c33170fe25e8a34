"""Counts held against numbers from elsewhere: the papers' code, timm, QKeras, and a pencil."""

import functools
import importlib.util
import json
import pathlib
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import tiny_hybrid
from conftest import tiny_network
from keras import layers
from networks import EIGHT_BITS
from networks import qkeras_twin
from networks import quantized_mobilenet
from networks import resnet50

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.layers import SpatialAttention

pytestmark = pytest.mark.once
POLICIES = (None, "w8a8", "w4a8", "w4a4_first_last_8")
UNFOLDED = cost.Arithmetic(norms="float", rescaling="float")


def quantized(model, policy):
    return model if policy is None else qat.quantize_model(model, policy)


@functools.cache
def resnet_costs(policy=None):
    if policy == "w4a4_first_last_8":
        ends = qat.Rule("conv_init|pool|dense", EIGHT_BITS.weights, EIGHT_BITS.outputs)
        policy = qat.Policy((ends, *qat.get_policy("w4a4").rules))
    return cost.profile(quantized(resnet50(), policy))


def test_resnet50_costs_what_aqt_says():
    costs = resnet_costs()
    assert costs.macs == 4_089_184_256
    assert costs.aqt_cost("quadratic") == 1_046_831_169_536
    assert costs.aqt_cost("memory") == 16 * 25_502_912


def test_numbers_wider_than_any_multiplier_cost_their_width():
    pictures = keras.Input((8, 8, 3), dtype="int32")
    costs = cost.profile(keras.Model(pictures, layers.Conv2D(4, 3)(pictures)))
    assert costs.aqt_cost("linear") == 32 * costs.macs == 32 * 6 * 6 * 4 * 27


@pytest.mark.parametrize(
    ("policy", "ratios"),
    [
        ("w8a8", {"quadratic": 0.25, "linear": 0.5, "memory": 0.5}),
        ("w4a4_first_last_8", {"quadratic": 0.0680, "linear": 0.2573}),
    ],
)
def test_quantized_resnet50_saves_what_aqt_says(policy, ratios):
    costs = resnet_costs(policy)
    for kind, ratio in ratios.items():
        assert costs.aqt_cost(kind) / resnet_costs().aqt_cost(kind) == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize(("bits", "ratio"), [(4, 0.0625), pytest.param(8, 0.25, marks=pytest.mark.slow)])
def test_bits_everywhere_save_what_aqt_says(bits, ratio):
    """The picture's bits as well: this package's own policies leave it 8."""
    policy = qat.get_policy(f"w{bits}a{bits}")
    policy = qat.Policy((qat.Rule("input", outputs=policy.rule_for("any").outputs), *policy.rules))
    costs = cost.profile(qat.quantize_model(resnet50(), policy))
    assert costs.aqt_cost("quadratic") == ratio * resnet_costs().aqt_cost("quadratic")


@pytest.mark.parametrize(("bits", "ratio"), [(4, 0.25), pytest.param(8, 0.5, marks=pytest.mark.slow)])
def test_weights_alone_save_what_aqt_says(bits, ratio):
    weights = qat.get_policy(f"w{bits}a8").rule_for("any").weights
    policy = qat.Policy((qat.Rule("input"), qat.Rule(".*", weights=weights)))
    costs = cost.profile(qat.quantize_model(resnet50(), policy))
    assert costs.aqt_cost("quadratic") == ratio * resnet_costs().aqt_cost("quadratic")


def test_mobilenet_has_the_macs_and_parameters_of_its_paper():
    costs = cost.profile(keras.applications.MobileNet(weights=None))
    assert (costs.macs, costs.parameters) == (568_740_352, 4_231_976)


@pytest.mark.parametrize(("activation_bits", "ace"), [(4, 9.947e9), (8, 19.136e9)])
def test_mobilenet_of_mixed_bits_costs_what_was_computed_by_hand(activation_bits, ace):
    """Products by hand: stem 10.84 M and classifier 1.02 M of 8 x 8 bits, depthwise 17.39 M, pointwise 539.49 M."""
    costs = cost.profile(quantized_mobilenet(activation_bits), arithmetic=UNFOLDED)
    assert costs.ace() == pytest.approx(ace, rel=1e-4)
    roles = costs.by_role("energy45")
    normalized = 5_043_000  # outputs, each with a product of 1184 and a sum of 288
    assert roles["norm"] == pytest.approx(normalized * (1184 + 288), rel=1e-3)
    assert roles["rescaling"] == pytest.approx(normalized * 1184, rel=1e-3)


def test_elementwise_work_weighs_more_the_fewer_the_bits():
    """PikeLPN's claim: norms and scales in float come to rival the products of a network in few bits."""
    model = keras.applications.MobileNet(weights=None)
    shares = [
        cost.profile(each, arithmetic=UNFOLDED).elementwise_share()
        for each in (model, quantized_mobilenet(8), quantized_mobilenet(4))
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.45


def test_ace_is_that_of_qkeras():
    """Recorded from `qkeras_reference.py`, which the next test runs: products, bits of weights, bits of inputs."""
    recorded = {
        "stem": (110_592, 8, 8),
        "depthwise": (36_864, 4, 8),
        "pointwise": (131_072, 4, 4),
        "dense": (81_920, 8, 4),
    }
    costs = cost.profile(qkeras_twin())
    assert costs.ace() == sum(products * weights * inputs for products, weights, inputs in recorded.values())
    for layer in costs.layers:
        if layer.macs:
            products, weights, inputs = recorded[layer.path]
            assert (layer.macs, layer.ace) == (products, products * weights * inputs)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("qkeras") is None, reason="QKeras is not installed: pip install qkeras")
def test_ace_is_that_of_qkeras_itself():
    script = pathlib.Path(__file__).with_name("qkeras_reference.py")
    output = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    assert cost.profile(qkeras_twin()).ace() == sum(np.prod(each) for each in found.values())


def test_macs_of_attention_are_those_of_projections_and_products():
    inputs = keras.Input((8, 8, 32))
    model = keras.Model(inputs, SpatialAttention(32, num_heads=4, key_dim=8, kv_strides=2)(inputs))
    queries, keys = 64, 16
    projections = queries * 32 * 32 * 2 + 2 * keys * 32 * 8 + 2 * keys * 32 * 9
    assert cost.profile(model).macs == projections + 2 * queries * keys * 32


def test_strided_queries_cost_a_pool_and_an_interpolation():
    inputs = keras.Input((8, 8, 32))
    model = keras.Model(inputs, SpatialAttention(32, num_heads=4, key_dim=8, query_strides=2)(inputs))
    queries, keys = 16, 64
    projections = (queries + keys) * 32 * 32 + 2 * keys * 32 * 8
    costs = cost.profile(model)
    assert costs.macs == projections + 2 * queries * keys * 32
    assert {layer.path.rpartition("/")[2] for layer in costs.layers} >= {"query_norm", "scale_up"}


def test_every_operation_of_a_convolution_by_hand():
    """3 x 3, 3 to 4 channels, strides 2, on 8 x 8 pixels: 64 outputs of 27 products."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, 2, "same", use_bias=False, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )

    def counted(costs):
        return {(each.kind, each.role): each.count for each in costs.operations}

    products = {("mac", "convolution"): 64 * 27}
    relu = {("compare", "activation"): 64}
    assert counted(cost.profile(model)) == {**products, **relu, ("add", "bias"): 64}
    norm = {("multiply", "norm"): 64, ("add", "norm"): 64}
    assert counted(cost.profile(model, arithmetic=UNFOLDED)) == {**products, **relu, **norm}
    integer = qat.quantize_model(model, "w4a8")
    saturation = {("multiply", "rescaling"): 64, ("shift", "rescaling"): 64, ("compare", "rounding"): 64}
    assert counted(cost.profile(integer)) == {**products, **relu, ("add", "bias"): 64, **saturation}
    shifts = cost.profile(integer, arithmetic=cost.Arithmetic(rescaling="shift"))
    assert ("multiply", "rescaling") not in counted(shifts)
    (conv,) = [layer for layer in cost.profile(integer).layers if layer.macs]
    assert [str(format) for format in conv.operations[0].formats] == ["int4", "int8", "int32"]
    assert [(weights.count, str(weights.format)) for weights in conv.weights] == [(108, "int4")]
    assert conv.outputs == ((64, cost.Format("int", 8)),)  # what the relu behind gives, rounded


@pytest.mark.parametrize("policy", POLICIES)
def test_saved_models_cost_the_same(policy, tmp_path):
    model = quantized(tiny_hybrid(), policy)
    model.save(tmp_path / "model.keras")
    assert cost.profile(keras.models.load_model(tmp_path / "model.keras")) == cost.profile(model)


@pytest.mark.parametrize("policy", POLICIES)
def test_costs_are_the_sums_over_layers(policy):
    costs = cost.profile(quantized(tiny_hybrid(), policy))
    singles = [cost.Profile(layer.path, (layer,)) for layer in costs.layers]
    for figure in ("ace", "ace_v2", "bops", "energy", "aqt_cost"):
        assert getattr(costs, figure)() == pytest.approx(sum(getattr(each, figure)() for each in singles))
    assert costs.ace_v2() == pytest.approx(sum(costs.by_role().values()))


@pytest.mark.parametrize("build", [tiny_network, tiny_hybrid])
def test_fewer_bits_never_cost_more(build):
    costs = [cost.profile(quantized(build(), policy)) for policy in (None, "w8a8", "w4a8", "w4a4")]
    for figure in ("ace", "ace_v2", "bops", "energy", "aqt_cost"):
        values = [getattr(each, figure)() for each in costs]
        assert values == sorted(values, reverse=True)
    assert len({each.macs for each in costs}) == len({each.parameters for each in costs}) == 1


def test_trainable_parameters_are_those_of_keras():
    for model in (tiny_network(), tiny_hybrid(), keras.applications.MobileNetV2(weights=None)):
        expected = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        assert cost.profile(model).parameters == expected


def test_size_can_be_given_where_the_model_leaves_it_open():
    model = tiny_network(input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="input_shape"):
        cost.profile(model)
    assert cost.profile(model, (32, 32, 3)).macs == cost.profile(tiny_network()).macs
    assert cost.profile(tiny_network(include_top=False, input_shape=(None, None, 3)), (64, 48, 3)).macs > 0


def test_inner_models_are_looked_into():
    inner = tiny_network(include_top=False, pooling="avg")
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, layers.Dense(5)(inner(inputs)))
    costs = cost.profile(model)
    assert costs.macs == cost.profile(inner).macs + 24 * 5
    assert f"{inner.name}/stem" in [layer.path for layer in costs.layers]


def test_mixed_precision_is_seen():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        costs = cost.profile(tiny_network())
    finally:
        keras.config.set_dtype_policy("float32")
    assert costs.ace() == 256 * costs.macs
    assert costs == cost.profile(tiny_network(), arithmetic=cost.Arithmetic(float_format="bfloat16"))


def test_unknown_layers_are_an_error_until_they_have_a_counter():
    class Gate(layers.Layer):
        def call(self, inputs):
            return inputs * 0.5

        def compute_output_shape(self, input_shape):
            return input_shape

    model = keras.Sequential([keras.Input((4, 4, 2)), Gate(name="gate")])
    with pytest.raises(ValueError, match=r"`gate` \(Gate\).*register_counter"):
        cost.profile(model)

    @cost.register_counter(Gate)
    def count_gate(layer, row, value):
        row.do("multiply", "scale", value.size, value.format, value.format)
        return value

    assert [each.count for each in cost.profile(model).operations] == [32]


def test_other_models_are_refused():
    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="Functional"):
        cost.profile(Own())
    with pytest.raises(ValueError, match="Input"):
        cost.profile(keras.Sequential([layers.Dense(3)]))


# Multiply-accumulates at 224 pixels as their papers give them.
PUBLISHED = {
    "MobileNetV2": 300e6,
    "MobileNetV3Small": 56e6,
    "MobileNetV3Large": 219e6,
    "EfficientNetB0": 0.39e9,
    "NASNetMobile": 564e6,
}


@pytest.mark.parametrize(
    "name",
    ["MobileNetV2", "MobileNetV3Small", *(pytest.param(each, marks=pytest.mark.slow) for each in list(PUBLISHED)[2:])],
)
def test_keras_applications_cost_what_their_papers_say(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    costs = cost.profile(model)
    assert costs.parameters == sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert costs.macs == pytest.approx(PUBLISHED[name], rel=0.035)


def test_reports_can_be_read_back(tmp_path):
    costs = cost.profile(tiny_network())
    with pytest.raises(ValueError, match=r"\.csv"):
        costs.save(tmp_path / "costs.txt")
    costs.save(tmp_path / "costs.csv")
    assert (tmp_path / "costs.csv").read_text() == costs.to_csv()
    with pytest.raises(FileExistsError):
        costs.save(tmp_path / "costs.csv")
    lines = costs.to_csv().splitlines()
    assert len(lines) == 1 + len(costs.layers)
    assert sum(int(line.split(",")[3]) for line in lines[1:]) == costs.macs
    assert json.loads(costs.to_json())["layers"][0]["path"] == "preprocessing"
    assert "<html>" in costs.to_html()
    assert f"{costs.macs:,}" in str(costs)


@pytest.mark.parametrize(
    "call",
    [
        lambda costs: costs.ace_v2("gold"),
        lambda costs: costs.aqt_cost("cubic"),
        lambda costs: costs.ace_v2(roles="norms"),
        lambda costs: cost.Row("layer", "", cost.Arithmetic(), None).do("mul", "norm", 1),
        lambda costs: cost.Arithmetic(norms="none"),
    ],
)
def test_unknown_names_are_refused(call):
    with pytest.raises(ValueError, match="Received"):
        call(cost.profile(tiny_network()))


def test_one_role_may_be_given_by_its_name():
    costs = cost.profile(tiny_network())
    assert costs.ace_v2(roles="bias") == costs.ace_v2(roles=("bias",)) == costs.by_role()["bias"]


def test_profiles_can_be_sent_to_other_processes():
    costs = cost.profile(tiny_network())
    before = costs.ace_v2()
    again = pickle.loads(pickle.dumps(costs))
    assert again == costs
    assert again.ace_v2() == before


def test_a_model_without_arithmetic_costs_nothing():
    costs = cost.profile(keras.Sequential([keras.Input((4,)), layers.Flatten()]))
    assert costs.macs == costs.ace_v2() == costs.elementwise_share() == 0
    assert cost.roofline(costs, 10).memory_bound_share == 0
    assert "total" in str(costs)


def test_conv_small_costs_stay_what_they_are():
    """186,005,568 products of 32 x 32 bits, less what 8 and 4 save; the images enter in 8 bits."""
    model = MobileNetV4ConvSmall(weights=None)
    float_costs, integer_costs = cost.profile(model), cost.profile(qat.quantize_model(model, "w4a8"))
    assert float_costs.ace() == 186_005_568 * 1024
    assert integer_costs.ace() == 186_005_568 * 32
    assert integer_costs.weight_bytes < 0.56 * cost.profile(qat.quantize_model(model, "w8a8")).weight_bytes


@pytest.mark.once
def test_sequential_models_inside_of_others_are_walked_through():
    head = keras.Sequential([layers.Flatten(), layers.Dense(3, name="fc")], name="head")
    inputs = keras.Input((4, 4, 2))
    costs = cost.profile(keras.Model(inputs, head(keras.Sequential([layers.RandomFlip()])(inputs))))
    assert costs.macs == 4 * 4 * 2 * 3
    assert costs.layers[-1].path == "head/fc"
    assert cost.profile(keras.Sequential([inputs, head])).macs == costs.macs


@pytest.mark.once
def test_sizes_that_a_dense_layer_does_not_take_are_refused():
    model = keras.Sequential([keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(3, name="fc")])
    with pytest.raises(ValueError, match="`fc` takes 32 numbers, and would get 50"):
        cost.profile(model, (5, 5, 2))
