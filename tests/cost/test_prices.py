"""Price tables held against the published energies that they are made of."""

import hypothesis
import pytest
from hypothesis import strategies

from keras_mnv4 import cost
from keras_mnv4.cost.formats import Format
from keras_mnv4.cost.prices import ENERGIES
from keras_mnv4.cost.prices import PRICES
from keras_mnv4.cost.records import Operation

pytestmark = pytest.mark.once


def price(table, kind, *names, terms=1):
    return table.price(Operation(kind, "convolution", 1, tuple(map(Format.named, names)), terms))


@pytest.mark.parametrize(
    ("table", "kind", "format", "expected"),
    [
        ("energy45", "add", "float32", 288),
        ("energy45", "multiply", "float32", 1184),
        ("energy45", "add", "float16", 128),
        ("energy45", "multiply", "float16", 352),
        ("energy45", "add", "int8", 8),
        ("energy45", "multiply", "int8", 64),
        ("energy7", "add", "bfloat16", 88),
        ("energy7", "multiply", "bfloat16", 168),
        ("energy7", "add", "float32", 304),
        ("energy7", "multiply", "float32", 1048),
        ("bitwidth", "multiply", "float32", 1024),
        ("bitwidth", "add", "float32", 32),
    ],
)
def test_prices_in_bits(table, kind, format, expected):
    assert price(PRICES[table], kind, format, format) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("table", "kind", "format", "picojoules"),
    [
        ("45nm", "add", "int8", 0.025),
        ("45nm", "add", "int32", 0.1),
        ("45nm", "multiply", "int8", 0.2),
        ("45nm", "multiply", "int32", 3.1),
        ("45nm", "multiply", "float16", 1.1),
        ("7nm", "add", "int8", 0.007),
        ("7nm", "add", "int32", 0.03),
        ("7nm", "multiply", "int8", 0.07),
        ("7nm", "multiply", "int32", 1.48),
        ("7nm", "add", "bfloat16", 0.11),
    ],
)
def test_energies(table, kind, format, picojoules):
    assert price(ENERGIES[table], kind, format, format) == pytest.approx(picojoules, rel=1e-3)


@pytest.mark.parametrize("tables", [PRICES, ENERGIES])
@hypothesis.given(bits=strategies.tuples(*[strategies.integers(1, 31)] * 2))
def test_more_bits_never_cost_less(tables, bits):
    few, many = (f"int{each}" for each in sorted(bits))
    for table in tables.values():
        for kind in ("add", "multiply", "compare"):
            assert price(table, kind, few, "int8") <= price(table, kind, many, "int8")
        assert price(table, "lookup", few) <= price(table, "lookup", many)


def test_a_product_with_a_power_of_two_is_a_shift():
    table = PRICES["energy45"]
    assert price(table, "multiply", "po2_4", "int8") == price(table, "shift", "int8") == 8
    assert price(table, "multiply", "int8", "int8") == 64


def test_assumptions_can_be_changed():
    plain = cost.PriceTable("plain", "products", multiply=lambda i, j: 1, add=lambda bits: 0, counts_sums=False)
    assert price(plain, "mac", "int8", "int4", "int32") == 1
    barrel = cost.PriceTable("barrel", "", multiply=lambda i, j: i * j, add=lambda bits: bits, shifter="barrel")
    assert price(barrel, "multiply", "po2_4", "int8") == 3 * 8  # eight distances
    with pytest.raises(ValueError, match="shifter"):
        cost.PriceTable("wrong", "", multiply=None, add=None, shifter="none")


@pytest.mark.parametrize("name", ["float", "int", "8", "complex64", ""])
def test_formats_of_no_sense_are_refused(name):
    with pytest.raises(ValueError, match="format"):
        Format.named(name)
    with pytest.raises(ValueError, match="bits"):
        Format("int", 0)


@pytest.mark.parametrize("name", ["int4", "float16", "bfloat16", "po2_4"])
def test_formats_are_read_as_they_are_written(name):
    assert str(Format.named(name)) == name
