"""Candidates as vectors, tables of what depends on them, and costs that gradients pass through."""

import numpy as np
import pytest
from keras import ops
from test_space import EXAMPLE
from test_space import SPACES
from test_space import candidate

from keras_mnv4 import tuner
from keras_mnv4.tuner.cost_table import CostTable
from keras_mnv4.tuner.gates import Gates
from keras_mnv4.tuner.gates import Table
from keras_mnv4.tuner.gates import channels_along

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", SPACES)
def test_a_vector_stands_for_a_candidate(name):
    gates, random = Gates(SPACES[name]), np.random.default_rng(0)
    for _ in range(20):
        chosen = SPACES[name].sample(random)
        vector = gates.of(chosen)
        assert vector.sum() == len(chosen)
        assert gates.candidate_of(vector) == chosen
        parts = gates.split(vector)
        assert parts.keys() == chosen.keys()
        np.testing.assert_array_equal(ops.convert_to_numpy(gates.join(parts)), vector)


def test_a_vector_by_hand():
    vector = Gates(EXAMPLE).of(candidate(filters=16, block_2="MQA"))
    assert vector.astype(int).tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0]


def test_decisions_on_rows_that_are_left_out_do_not_matter():
    gates = Gates(EXAMPLE)
    parts = gates.split(gates.of(candidate(block_2="none")))
    idle = {name for name, share in gates.activity(parts).items() if float(share) == 0.0}
    assert idle == {"block_2/middle", "block_2/weight_bits"}  # the first row, too, has the filters
    mixed = {**parts, "block_2": np.array([0.25, 0.5, 0.25], "float32")}
    activity = gates.activity(mixed)
    assert float(activity["block_2/middle"]) == 0.5  # attention has no such kernel
    assert float(activity["block_2/weight_bits"]) == 0.75


def test_tables_by_hand():
    sizes = Table(("a",), np.array([8, 16]))
    factors = Table(("b",), np.array([1, 2, 3]))
    products = Table.combine(np.multiply, sizes, factors)
    assert products.names == ("a", "b")
    assert products.values.tolist() == [[8, 16, 24], [16, 32, 48]]
    assert products.most == 48
    assert not products.is_fixed
    assert float(products.expect({"a": np.array([0, 1]), "b": np.array([0, 0, 1])})) == 48
    assert float(products.expect({"a": np.array([0.5, 0.5]), "b": np.array([0.5, 0, 0.5])})) == 24
    masks = ops.convert_to_numpy(sizes.mask(16).expect({"a": np.array([0.25, 0.75])}))
    assert masks.tolist() == [1.0] * 8 + [0.75] * 8
    is_equal = Table.combine(np.equal, sizes, Table(("a",), np.array([8, 32])))
    assert is_equal.values.tolist() == [True, False]
    assert Table.combine(np.equal, sizes, sizes).is_fixed  # it does not matter what is decided


def test_channels_by_hand():
    tables = channels_along(EXAMPLE, 3)
    assert [table.names for table in tables] == [(), (), ("filters",), ("block_2", "filters"), ()]
    assert tables[2].values.tolist() == [8, 16]
    assert tables[3].values.tolist() == [[8, 16], [8, 16], [16, 16]]
    assert tables[4].values == 24


@pytest.mark.parametrize(
    ("name", "measure"),
    [*((name, "ace_v2") for name in SPACES), ("example", "macs"), ("example", "parameters"), ("tiny", "energy")],
)
def test_costs_are_those_of_the_networks(name, measure):
    space = SPACES[name]
    costs = tuner.CostModel(space, input_shape=(40, 48, 3), classes=7)
    table, gates, random = CostTable(costs, measure), Gates(space), np.random.default_rng(0)
    for _ in range(20):
        chosen = space.sample(random)
        found = float(table.expect(gates.split(gates.of(chosen))))
        assert found == pytest.approx(costs.cost(chosen, measure), rel=1e-6)


def test_mixed_gates_give_the_mean_cost():
    space = tuner.tiny_space()
    costs = tuner.CostModel(space, classes=7)
    gates, random = Gates(space), np.random.default_rng(0)
    shares = {name: random.dirichlet(np.ones(len(values))) for name, values in space.decisions.items()}
    shares["block_1/middle"] = shares["block_2/middle"] = np.array([0.0, 1.0])  # all that is drawn is a network
    mean = 0.0
    for code in np.ndindex(*gates.sizes.values()):
        chance = np.prod([shares[name][place] for name, place in zip(gates.sizes, code, strict=True)])
        if chance:
            mean += chance * costs.cost(space.decode(code), "macs")
    assert float(CostTable(costs, "macs").expect(shares)) == pytest.approx(mean, rel=1e-5)


def test_what_is_no_block_is_dear():
    space = tuner.tiny_space()
    costs = tuner.CostModel(space, classes=7)
    table, gates = CostTable(costs, "macs"), Gates(space)
    best = {**space.largest, "block_2/start": 0}
    nothing = gates.of({**best, "block_2/middle": 0})
    assert float(table.expect(gates.split(nothing))) > float(table.expect(gates.split(gates.of(best))))
