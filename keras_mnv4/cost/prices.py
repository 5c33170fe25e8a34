"""Price tables: what one operation costs, by its kind and the formats of its operands.

Counts are facts about a network; prices are assumptions about hardware. They meet only in `Profile`.
"""

import dataclasses
import math
import types

REFERENCE_45NM = 0.003125  # pJ of one bit of an adder at 45 nm: the unit of ACEv2
REFERENCE_7NM = 0.00125  # likewise at 7 nm


@dataclasses.dataclass(frozen=True, eq=False)
class PriceTable:
    """What operations cost.

    Integers are priced by formulas of their bits: a product of i and j bits like an array of i x j one-bit
    multipliers, a sum like a chain of one-bit adders. Floats are priced by a list.

    Args:
        name: what reports call it.
        unit: what its prices count.
        multiply: from `(i, j)` bits to the price of an integer product.
        add: from bits to the price of an integer sum; that of a comparison too, which is a subtraction.
        float_multiply: prices of products by format, such as `"float32"`. If none is listed, floats are priced as
            integers of their bits.
        float_add: prices of sums, likewise.
        counts_sums: whether a MAC costs its sum as well as its product. ACE leaves it out.
        shifter: `"word"`, a shift costs what a sum of the same bits does; `"barrel"`, as much for each bit of the
            distance.
        polynomial_degree: a function of a float is evaluated as a polynomial of this degree: so many products and sums.
            Of an integer it is read from a table, at the price of a sum.

    A product with a power of two is a shift of the other operand.

    Raises:
        ValueError: if there is no such `shifter`.

    Example:

    >>> from keras_mnv4.cost.formats import FLOAT32
    >>> from keras_mnv4.cost.records import Operation
    >>> PRICES["energy45"].price(Operation("add", "residual", 1, (FLOAT32, FLOAT32)))
    288.0
    """

    name: str
    unit: str
    multiply: object
    add: object
    float_multiply: object = dataclasses.field(default_factory=dict)
    float_add: object = dataclasses.field(default_factory=dict)
    counts_sums: bool = True
    shifter: str = "word"
    polynomial_degree: int = 4

    def __post_init__(self):
        if self.shifter not in ("word", "barrel"):
            raise ValueError(f'`shifter` must be "word" or "barrel". Received: {self.shifter!r}')
        for field in ("float_multiply", "float_add"):
            object.__setattr__(self, field, types.MappingProxyType(dict(getattr(self, field))))

    def price(self, operation):
        """The price of doing `operation` once.

        Raises:
            ValueError: if the table lists prices of floats, but not of the operation's.
        """
        for each in operation.formats if self.float_add else ():
            if each.is_float and not (str(each) in self.float_add and str(each) in self.float_multiply):
                raise ValueError(f"Price table `{self.name}` has no price for {each}. It lists {list(self.float_add)}.")
        return float(getattr(self, f"_{operation.kind}")(*operation.formats))

    def _mac(self, weights, activations, total):
        return self._multiply(weights, activations) + (self._add(total) if self.counts_sums else 0)

    def _multiply(self, one, other):
        floats = [self.float_multiply[str(each)] for each in (one, other) if str(each) in self.float_multiply]
        if floats:
            return max(floats)
        for each, shifted in ((one, other), (other, one)):
            if each.kind == "po2":
                return self._shift(shifted, positions=2 ** (each.bits - 1))
        return self.multiply(one.bits, other.bits)

    def _add(self, *operands):
        floats = [self.float_add[str(each)] for each in operands if str(each) in self.float_add]
        return max(floats) if floats else self.add(max(each.bits for each in operands))

    _compare = _add

    def _shift(self, operand, positions=32):
        return self.add(operand.bits) * (math.ceil(math.log2(positions)) if self.shifter == "barrel" else 1)

    def _lookup(self, operand):
        if str(operand) in self.float_add:
            return self.polynomial_degree * (self._multiply(operand, operand) + self._add(operand))
        return self.add(operand.bits)


def _through(small, large):
    """The power law `price(bits)` through two known `(bits, price)`."""
    exponent = math.log(large[1] / small[1]) / math.log(large[0] / small[0])
    return lambda bits: small[1] * (bits / small[0]) ** exponent


# Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014; its integer prices as QKeras fits
# them. It has no bfloat16: that is priced as its float16.
FLOAT_MULTIPLY_45NM = {"float32": 3.7, "float16": 1.1, "bfloat16": 1.1}
FLOAT_ADD_45NM = {"float32": 0.9, "float16": 0.4, "bfloat16": 0.4}
# Jouppi et al., "Ten Lessons From Three Generations Shaped Google's TPUv4i", ISCA 2021; from memory, of which bfloat16
# and the sum of 32-bit integers were found again in other sources.
FLOAT_MULTIPLY_7NM = {"float32": 1.31, "float16": 0.34, "bfloat16": 0.21}
FLOAT_ADD_7NM = {"float32": 0.38, "float16": 0.16, "bfloat16": 0.11}
_MULTIPLY_7NM = _through((8, 0.07), (32, 1.48))
_ADD_7NM = _through((8, 0.007), (32, 0.03))


def _bits(name, float_multiply=(), float_add=(), unit_energy=1.0):
    """Integers by their bits, floats by their energy in units of one bit's."""
    return PriceTable(
        name,
        "bit operations",
        multiply=lambda i, j: i * j,
        add=lambda bits: bits,
        float_multiply={format: energy / unit_energy for format, energy in dict(float_multiply).items()},
        float_add={format: energy / unit_energy for format, energy in dict(float_add).items()},
    )


PRICES = {
    "bitwidth": _bits("bitwidth"),
    "energy45": _bits("energy45", FLOAT_MULTIPLY_45NM, FLOAT_ADD_45NM, REFERENCE_45NM),
    "energy7": _bits("energy7", FLOAT_MULTIPLY_7NM, FLOAT_ADD_7NM, REFERENCE_7NM),
}
ENERGIES = {
    "45nm": PriceTable(
        "45nm",
        "pJ",
        multiply=lambda i, j: 0.002994791667 * i * j + 0.001041666667 * math.sqrt(i * j),
        add=lambda bits: 0.003125 * bits,
        float_multiply=FLOAT_MULTIPLY_45NM,
        float_add=FLOAT_ADD_45NM,
    ),
    "7nm": PriceTable(
        "7nm",
        "pJ",
        multiply=lambda i, j: _MULTIPLY_7NM(math.sqrt(i * j)),
        add=_ADD_7NM,
        float_multiply=FLOAT_MULTIPLY_7NM,
        float_add=FLOAT_ADD_7NM,
    ),
}


def find_prices(identifier, tables, argument):
    """The table called `identifier`, or `identifier` itself if it is a `PriceTable`.

    Raises:
        ValueError: if there is none of that name.
    """
    if isinstance(identifier, PriceTable):
        return identifier
    if identifier not in tables:
        raise ValueError(f"`{argument}` must be a `PriceTable` or one of {sorted(tables)}. Received: {identifier!r}")
    return tables[identifier]
