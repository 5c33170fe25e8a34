"""What a profile is made of: `Operation`, `Weights`, and the `LayerCost` that holds them."""

import dataclasses
import functools

from keras_mnv4.cost.formats import Format

KINDS = ("mac", "multiply", "add", "compare", "shift", "lookup")
ROLES = (
    "convolution",  # products with kernels, dense ones as well
    "attention",  # products of two activations
    "bias",
    "norm",
    "scale",  # a learned factor for each channel
    "activation",
    "residual",  # and every other sum or product of two feature maps
    "pooling",
    "preprocessing",
    "rescaling",  # from sums of products to the scale of the result
    "rounding",  # to the codes of the result, and saturation
)
MAC_ROLES = ("convolution", "attention")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One kind of arithmetic that a layer does, and how often.

    Args:
        kind: `"mac"` a product added to a sum, `"multiply"`, `"add"`, `"compare"`, `"shift"`, or `"lookup"`: a function
            of one number, read from a table (integers) or evaluated (floats).
        role: what for: one of `ROLES`.
        count: how often, for one picture.
        formats: of the operands: for a MAC of the weights, the activations and the sum.
        terms: of a MAC, how many products one sum has.
    """

    kind: str
    role: str
    count: int
    formats: tuple[Format, ...]
    terms: int = 1

    def __post_init__(self):
        for field, known in (("kind", KINDS), ("role", ROLES)):
            if getattr(self, field) not in known:
                raise ValueError(f"`{field}` must be one of {known}. Received: {getattr(self, field)!r}")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Constants that a layer reads.

    Args:
        role: `"kernel"` or `"bias"`.
        count: how many.
        format: their format.
        is_stored: False where a layer that is called several times has stored them before.
    """

    role: str
    count: int
    format: Format
    is_stored: bool = True

    @property
    def bits(self):
        return self.count * self.format.bits


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one layer costs, for one picture.

    Args:
        path: the layer's path, as policies have it.
        layer: its class.
        operations: a tuple of `Operation`.
        weights: a tuple of `Weights`, as stored for inference: of a normalisation that is folded, a bias is left.
        parameters: trainable parameters.
        inputs: numbers read from feature maps, as a tuple of `(count, format)`.
        outputs: numbers written, likewise. Nothing is read or written for what is computed together with the layer
            before.
    """

    path: str
    layer: str
    operations: tuple[Operation, ...] = ()
    weights: tuple[Weights, ...] = ()
    parameters: int = 0
    inputs: tuple[tuple[int, Format], ...] = ()
    outputs: tuple[tuple[int, Format], ...] = ()

    @functools.cached_property
    def macs(self):
        """Multiply-accumulates."""
        return sum(operation.count for operation in self.operations if operation.kind == "mac")

    @functools.cached_property
    def ace(self):
        """Multiply-accumulates, each times the widths of its two operands."""
        macs = [each for each in self.operations if each.kind == "mac"]
        return sum(each.count * each.formats[0].bits * each.formats[1].bits for each in macs)

    def price(self, prices, roles=None):
        """What all operations cost together.

        Args:
            prices: a `PriceTable`.
            roles: tuple of the roles to count; None for all.
        """
        key = (prices, roles if roles is None else tuple(roles))
        if key not in self._prices:
            counted = [each for each in self.operations if roles is None or each.role in roles]
            self._prices[key] = sum(each.count * prices.price(each) for each in counted)
        return self._prices[key]

    @functools.cached_property
    def _prices(self):  # searches ask for them again and again
        return {}

    def __getstate__(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def bits_moved(self):
        """Bits of weights, inputs and outputs."""
        maps = sum(count * format.bits for count, format in (*self.inputs, *self.outputs))
        return maps + sum(weights.bits for weights in self.weights)

    @property
    def numbers_moved(self):
        """Weights, inputs and outputs, counted."""
        maps = sum(count for count, _ in (*self.inputs, *self.outputs))
        return maps + sum(weights.count for weights in self.weights)
