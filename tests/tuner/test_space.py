"""Search spaces: what they hold, by hand and by property, and what candidates cost."""

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
from conftest import flat_layers
from hypothesis import strategies

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4 import tuner
from keras_mnv4.applications import MQA
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import build_network
from keras_mnv4.applications import choice

pytestmark = pytest.mark.once
STEM = Conv(8, kernel=3, stride=2)
EXAMPLE = tuner.SearchSpace(
    Architecture(
        "example",
        (
            STEM,
            UIB(choice(8, 16, name="filters"), expand=choice(2, 4), start=choice(0, 3), middle=3, stride=2),
            choice(
                None, UIB(choice(8, 16, name="filters"), expand=2, middle=choice(3, 5)), MQA(16, heads=2, key_dim=8)
            ),
            UIB(24, expand=2, start=choice(0, 5), middle=choice(0, 5), stride=2),
        ),
        head_filters=None,
    ),
    weight_bits=(4, 8),
)
SPACES = {
    "example": EXAMPLE,
    "coarse": tuner.coarse_space(),
    "fine": tuner.fine_space(
        Architecture("base", (STEM, UIB(16, expand=4, middle=3, stride=2), *[UIB(16, expand=4)] * 2))
    ),
    "small": tuner.small_space((4, 8)),
    "tiny": tuner.tiny_space(),
}


def test_decisions_by_hand():
    assert EXAMPLE.decisions == {
        "filters": (8, 16),
        "block_1/expand": (2, 4),
        "block_1/start": (0, 3),
        "block_1/weight_bits": (4, 8),
        "block_2": ("none", "UIB", "MQA"),
        "block_2/middle": (3, 5),
        "block_2/weight_bits": (4, 8),
        "block_3/start": (0, 5),
        "block_3/middle": (0, 5),
        "block_3/weight_bits": (4, 8),
    }
    assert EXAMPLE.size == 2**9 * 3
    assert SPACES["fine"].decisions.keys() == {
        *("block_1/start", "block_1/middle"),
        *(f"block_{block}{part}" for block in (2, 3) for part in ("", "/start", "/middle")),
    }
    assert SPACES["fine"].size == 9 * 18**2


def candidate(**changes):
    names = {name.replace("/", "_"): name for name in EXAMPLE.decisions}
    first = EXAMPLE.decode((0,) * len(EXAMPLE.decisions))
    return {**first, "block_3/middle": 5, **{names[name]: value for name, value in changes.items()}}


def test_a_candidate_is_a_table():
    table = EXAMPLE.architecture_of(candidate(filters=16, block_2="UIB", block_2_middle=5))
    assert table.blocks == (
        STEM,
        UIB(16, expand=2, middle=3, stride=2),
        UIB(16, expand=2, middle=5),
        UIB(24, expand=2, middle=5, stride=2),
    )
    assert table.head_filters is None
    assert len(EXAMPLE.architecture_of(candidate(block_2="none")).blocks) == 3


def test_a_stride_without_a_convolution_is_no_network():
    assert not EXAMPLE.is_network(candidate(block_3_middle=0))
    with pytest.raises(ValueError, match="cannot take a stride"):
        EXAMPLE.architecture_of(candidate(block_3_middle=0))
    assert all(each["block_3/start"] or each["block_3/middle"] for each in EXAMPLE.neighbors(candidate()))


def test_mending_changes_what_is_no_block():
    assert EXAMPLE.mend(candidate(block_3_middle=0)) == candidate(block_3_start=5, block_3_middle=0)
    assert EXAMPLE.mend(candidate()) == candidate()


def test_a_choice_with_a_name_is_mended_too():
    rows = Conv(8, kernel=3, stride=2), UIB(16, expand=2, start=choice(0, 3, name="kernels"), stride=2)
    space = tuner.SearchSpace(Architecture("named", rows))
    assert space.mend({"kernels": 0}) == {"kernels": 3}


def test_the_largest_has_all_rows_and_numbers():
    block = UIB(8, expand=choice(None, 2), middle=3)
    space = tuner.SearchSpace(Architecture("last", (Conv(8, kernel=3, stride=2), choice(block, None))))
    assert space.largest == {"block_1": "UIB", "block_1/expand": 2}


def test_neighbours_differ_in_one_decision():
    here = candidate()
    found = EXAMPLE.neighbors(here)
    assert [sum(each[name] != here[name] for name in here) for each in found] == [1] * len(found)
    assert len(found) == sum(len(values) - 1 for values in EXAMPLE.decisions.values()) - 1  # one has no convolution
    assert len({EXAMPLE.encode(each) for each in found}) == len(found)


@pytest.mark.parametrize("name", SPACES)
@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(seed=strategies.integers(0, 2**32 - 1))
def test_codes_and_texts_say_all(name, seed):
    space = SPACES[name]
    sampled = space.sample(np.random.default_rng(seed))
    assert space.is_network(sampled)
    assert space.decode(space.encode(sampled)) == sampled
    again = tuner.SearchSpace.from_json(space.to_json())
    assert again == space
    assert again.architecture_of(json.loads(json.dumps(sampled))) == space.architecture_of(sampled)


def test_samples_are_spread():
    random = np.random.default_rng(0)
    counts = [EXAMPLE.sample(random)["block_2"] for _ in range(600)]
    assert all(150 < counts.count(label) < 250 for label in EXAMPLE.decisions["block_2"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((STEM,), "must have a `Choice`"),
        ((STEM, choice(None, UIB(8, expand=2, middle=3, stride=2))), "cannot be left out"),
        ((STEM, choice(UIB(8, expand=2), UIB(8, expand=4))), "must differ in kind"),
        ((Conv(choice(8, 16, name="f"), kernel=3), Conv(choice(8, 24, name="f"), kernel=3)), "the same values"),
    ],
)
def test_bad_spaces(rows, message):
    with pytest.raises(ValueError, match=message):
        tuner.SearchSpace(Architecture("bad", rows))


def test_bad_candidates():
    with pytest.raises(ValueError, match="policy='w3a8'"):
        tuner.SearchSpace(EXAMPLE.architecture, weight_bits=(3, 8))
    with pytest.raises(ValueError, match=r"'block_1/expand' must be one of \(2, 4\). Received: 3"):
        EXAMPLE.architecture_of(candidate(block_1_expand=3))
    with pytest.raises(ValueError, match="A code has 10 numbers"):
        EXAMPLE.decode((0,) * 9)
    with pytest.raises(ValueError, match="two different values"):
        choice(3, 3)
    with pytest.raises(ValueError, match=r"`limits` must be of .*Received: \['watts'\]"):
        tuner.CostModel(EXAMPLE, {"watts": 1})


@pytest.mark.once
@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(seed=strategies.integers(0, 2**32 - 1))
def test_candidates_cost_what_their_models_do(seed):
    sampled = EXAMPLE.sample(np.random.default_rng(seed))
    model = build_network(EXAMPLE.architecture_of(sampled), classes=5, input_shape=(32, 32, 3))
    quantized = qat.quantize_model(model, EXAMPLE.policy_of(sampled))
    found = tuner.CostModel(EXAMPLE, input_shape=(32, 32, 3), classes=5).profile(sampled)
    assert found.layers == cost.profile(quantized).layers


@pytest.mark.parametrize("bits", [4, 8])
def test_networks_of_a_space_without_bits_are_priced_as_if_quantised(bits):
    space, mixed = dataclasses.replace(EXAMPLE, weight_bits=()), dataclasses.replace(EXAMPLE, weight_bits=(4, 8))
    sampled = space.sample(np.random.default_rng(0))
    uniform = sampled | {name: bits for name in mixed.decisions if name not in space.decisions}
    found = tuner.CostModel(space, None, (32, 32, 3), 5, bits).profile(sampled)
    assert found.layers == tuner.CostModel(mixed, None, (32, 32, 3), 5).profile(uniform).layers
    with pytest.raises(ValueError, match="without `weight_bits`"):
        tuner.CostModel(mixed, bits=8)


def test_bits_go_to_the_blocks_that_are_there():
    sampled = candidate(block_1_weight_bits=8, block_2_weight_bits=8, block_3_weight_bits=4)
    assert EXAMPLE.bits_of(sampled) == {"block_1": 8, "block_2": 4}
    model = build_network(EXAMPLE.architecture_of(sampled), classes=5, input_shape=(32, 32, 3))
    quantized = qat.quantize_model(model, EXAMPLE.policy_of(sampled))
    convolutions = [layer for layer in quantized._flatten_layers() if getattr(layer, "kernel_quantizer", None)]
    bits = {layer.path: layer.kernel_quantizer.quantizer.num_bits for layer in convolutions}
    assert {4 if path.startswith("block_2/") else 8 for path in bits} == {4, 8}
    assert all(found == (4 if path.startswith("block_2/") else 8) for path, found in bits.items())
    assert all(
        layer.quantizer.num_bits == 8
        for layer in flat_layers(quantized, qat.FakeQuantize)
        if layer.name == "output_quantizer"
    )


def test_limits():
    random = np.random.default_rng(0)
    free = tuner.CostModel(EXAMPLE, input_shape=(32, 32, 3), classes=5)
    prices = [free.cost(EXAMPLE.sample(random), "macs") for _ in range(40)]
    limit = float(np.median(prices))
    limited = tuner.CostModel(EXAMPLE, {"macs": limit, "parameters": 1e6}, (32, 32, 3), 5)
    for _ in range(10):
        sampled = limited.sample(random)
        assert limited.allows(sampled)
        assert limited.cost(sampled, "macs") <= limit
    assert limited.excess(candidate(filters=16, block_2="MQA", block_1_expand=4)) > 0
    tight = tuner.CostModel(EXAMPLE, {"macs": min(prices)}, (32, 32, 3), 5)
    assert all(tight.allows(tight.sample(random, tries=1)) for _ in range(10))
    with pytest.raises(ValueError, match="None of 1000 random candidates"):
        tuner.CostModel(EXAMPLE, {"macs": 1000}, (32, 32, 3), 5).sample(random)
    for _ in range(10):
        start = EXAMPLE.decode([random.integers(len(values)) for values in EXAMPLE.decisions.values()])
        brought = limited.bring_within(start)
        assert limited.allows(brought)
        assert (brought == start) == (EXAMPLE.is_network(start) and limited.allows(start))
    with pytest.raises(ValueError, match="no network within"):
        tuner.CostModel(EXAMPLE, {"macs": 1000}, (32, 32, 3), 5).bring_within(start)
    by_function = tuner.CostModel(EXAMPLE, {lambda profile: profile.macs: limit}, (32, 32, 3), 5)
    assert by_function.allows(sampled)


def test_the_first_stage_leads_to_the_second():
    coarse = tuner.coarse_space()
    found = coarse.architecture_of(coarse.sample(np.random.default_rng(3)))
    fine = tuner.fine_space(found, weight_bits=(4, 8))
    start = [len(values) for name, values in fine.decisions.items() if name.endswith("/start")]
    assert start == [3] * sum(isinstance(row, UIB) for row in found.blocks)
    rebuilt = fine.architecture_of(fine.sample(np.random.default_rng(0)))
    assert dataclasses.replace(rebuilt, blocks=()) == dataclasses.replace(found, blocks=())


@pytest.mark.once
@pytest.mark.parametrize("most", [0, -5, float("nan"), float("inf")])
def test_limits_that_make_no_sense_are_refused(most):
    with pytest.raises(ValueError, match="`limits` must be numbers above 0"):
        tuner.CostModel(EXAMPLE, {"macs": most})
