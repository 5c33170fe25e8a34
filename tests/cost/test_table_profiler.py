"""What tables cost without models, held against the profile of the built models."""

import dataclasses

import hypothesis
import pytest
from conftest import TINY
from hypothesis import strategies

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.applications import MQA
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Basic
from keras_mnv4.applications import Bottleneck
from keras_mnv4.applications import Conv
from keras_mnv4.applications import FusedIB
from keras_mnv4.applications import MaxPool
from keras_mnv4.applications import Separable
from keras_mnv4.applications import build_network
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES

pytestmark = pytest.mark.once
POLICIES = (None, "w8a8", "w4a4_first_last_8", "pikelpn", "aqt_w4a4_first_last_8")

filters = strategies.integers(1, 5).map(lambda number: 8 * number)
kernels = strategies.sampled_from([0, 3, 5])
strides = strategies.sampled_from([1, 2])
expansions = strategies.sampled_from([None, 1, 2.5, 4])


@strategies.composite
def uibs(draw):
    start, middle = draw(kernels), draw(kernels)
    stride = draw(strides) if start or middle else 1
    return UIB(draw(filters), expand=draw(expansions), start=start, middle=middle, stride=stride)


rows = strategies.one_of(
    uibs(),
    strategies.builds(Conv, filters, kernel=strategies.sampled_from([1, 3]), stride=strides),
    strategies.builds(Separable, filters, stride=strides),
    strategies.builds(FusedIB, filters, kernel=strategies.just(3), expand=strategies.just(2), stride=strides),
    strategies.builds(Basic, filters, stride=strides),
    strategies.builds(Bottleneck, filters, reduction=strides, stride=strides),
    strategies.builds(MaxPool, stride=strides),
    strategies.builds(MQA, filters, heads=strides, key_dim=strategies.just(8), kv_stride=strides),
)
architectures = strategies.builds(
    Architecture,
    strategies.just("drawn"),
    strategies.lists(rows, min_size=1, max_size=4).map(lambda drawn: (Conv(8, kernel=3, stride=2), *drawn)),
    activation=strategies.sampled_from(["relu", "relu6", "gelu"]),
    layer_scale=strategies.sampled_from([None, 1e-5]),
    anti_aliasing=strategies.sampled_from([None, "average", "blur"]),
    head_filters=strategies.sampled_from([None, 64]),
)


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(architecture=architectures, policy=strategies.sampled_from(POLICIES))
def test_any_table_costs_what_its_model_does(architecture, policy):
    has_units = any(isinstance(row, (Basic, Bottleneck)) for row in architecture.blocks)
    hypothesis.assume(policy is None or architecture.activation != "gelu" or not has_units)  # refused by name
    model = build_network(architecture, classes=7, input_shape=(48, 40, 3))
    if policy is not None:
        model = qat.quantize_model(model, policy)
    assert cost.TableProfiler((48, 40, 3), 7, policy).profile(architecture).layers == cost.profile(model).layers


def uniform(weight_bits, activation_bits):
    weights = qat.LastValueQuantizer(weight_bits, per_axis=True, symmetric=True, narrow_range=True)
    return qat.Policy((qat.Rule(".*", weights, qat.MovingAverageQuantizer(activation_bits)),))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(architecture=architectures, bits=strategies.tuples(*[strategies.integers(2, 16)] * 4))
def test_more_bits_never_cost_less(architecture, bits):
    few, many = (
        cost.TableProfiler((48, 40, 3), 7, uniform(*each), include_preprocessing=False).profile(architecture)
        for each in ([min(pair) for pair in (bits[:2], bits[2:])], [max(pair) for pair in (bits[:2], bits[2:])])
    )
    for figure in ("ace", "ace_v2", "bops", "energy", "aqt_cost"):
        assert getattr(few, figure)() <= getattr(many, figure)()
    for kind in ("linear", "quadratic", "memory"):
        assert few.aqt_cost(kind) <= many.aqt_cost(kind)
    assert few.macs == many.macs
    assert few.weight_bytes <= many.weight_bytes


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(architecture=architectures)
def test_costs_are_the_sums_over_layers(architecture):
    costs = cost.TableProfiler((48, 40, 3), 7, "w4a8").profile(architecture)
    singles = [cost.Profile(layer.path, (layer,)) for layer in costs.layers]
    for figure in ("ace", "ace_v2", "bops", "energy", "aqt_cost"):
        assert getattr(costs, figure)() == pytest.approx(sum(getattr(each, figure)() for each in singles))


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        ("MobileNetV4ConvSmall", 0.5),
        ("MobileNetV4ConvSmall", 1.25),
        ("MobileNetV4HybridMedium", 1.0),
        *(pytest.param(name, 1.0, marks=pytest.mark.slow) for name in ARCHITECTURES),
    ],
)
def test_the_whole_family_costs_what_its_models_do(name, alpha):
    model = build_network(ARCHITECTURES[name], alpha=alpha)
    found = cost.TableProfiler().profile(ARCHITECTURES[name], alpha)
    assert found.layers == cost.profile(model).layers
    assert found.ace_v2() == cost.profile(model).ace_v2()


def test_a_definition_that_narrows_the_stem_is_heeded():
    architecture = dataclasses.replace(ARCHITECTURES["MobileNetV4ConvSmall"], definition="model_garden")
    found = cost.TableProfiler().profile(architecture, alpha=0.5)
    assert found.layers == cost.profile(build_network(architecture, alpha=0.5)).layers


def test_arithmetic_and_input_are_taken_over():
    arithmetic = cost.Arithmetic(norms="float", rescaling="float", float_format="bfloat16")
    profiler = cost.TableProfiler((32, 32, 3), 3, include_preprocessing=False, arithmetic=arithmetic)
    model = build_network(TINY, classes=3, input_shape=(32, 32, 3), include_preprocessing=False)
    assert profiler.profile(TINY).layers == cost.profile(model, arithmetic=arithmetic).layers


def test_a_policy_without_a_rule_is_an_error():
    policy = qat.Policy((qat.Rule("input|stem"),))
    with pytest.raises(ValueError, match="block_1"):
        cost.TableProfiler(policy=policy).profile(TINY)


def test_other_tables_of_the_same_profiler_keep_their_own_costs():
    profiler = cost.TableProfiler((32, 32, 3), 3)
    wider = dataclasses.replace(TINY, blocks=(*TINY.blocks[:-1], Conv(48, kernel=1)))
    assert profiler.profile(wider).macs > profiler.profile(TINY).macs
    assert profiler.profile(TINY) == cost.TableProfiler((32, 32, 3), 3).profile(TINY)
