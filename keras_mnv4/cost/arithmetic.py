"""The arithmetic of inference, operation by operation: what counters of layers are written in."""

import dataclasses
import math

from keras_mnv4.cost.formats import INT8
from keras_mnv4.cost.formats import POWER_OF_TWO
from keras_mnv4.cost.formats import Format
from keras_mnv4.cost.records import LayerCost
from keras_mnv4.cost.records import Operation
from keras_mnv4.cost.records import Weights
from keras_mnv4.qat.stock.wrapper import FUSED_ACTIVATIONS

# What an activation takes for each number, in float. Of integers, all but relu and relu6 are read from a table.
ACTIVATIONS = {
    "linear": (),
    "relu": ("compare",),
    "relu6": ("compare", "compare"),
    "leaky_relu": ("compare", "multiply"),
    "hard_sigmoid": ("multiply", "add", "compare", "compare"),
    "hard_silu": ("multiply", "add", "compare", "compare", "multiply"),
    "sigmoid": ("lookup",),
    "silu": ("lookup", "multiply"),
    "elu": ("compare", "lookup"),
    **dict.fromkeys(("exponential", "gelu", "mish", "selu", "softplus", "softsign", "tanh"), ("lookup",)),
}
CLAMPS = tuple(activation.__name__ for activation in FUSED_ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """What an engine does that a model does not say: the assumptions of a count.

    The defaults are those of integer engines such as LiteRT's: a normalisation behind a convolution costs a bias, and
    sums are brought to the scale of the result by a product with an integer.

    Args:
        norms: `"folded"`: a normalisation behind a convolution, and a layer scale, become part of kernel and bias;
            `"float"`: they are computed, in floating point.
        rescaling: how sums of integer products get the scale of the result: `"fixed"`, a product of two integers and
            a shift; `"float"`, a product of two floats; `"shift"`, only a shift, for scales that are powers of two.
        sum_bits: bits of the integer sums.
        float_format: name of the format of everything that is not quantised, such as `"bfloat16"`; None for the dtype
            that each layer computes in.

    Raises:
        ValueError: if there are no such `norms`, or no such `rescaling`.

    Example:

    >>> UNFOLDED = Arithmetic(norms="float", rescaling="float")  # the networks that PikeLPN compares itself with
    """

    norms: str = "folded"
    rescaling: str = "fixed"
    sum_bits: int = 32
    float_format: str | None = None

    def __post_init__(self):
        for argument, known in (("norms", ("folded", "float")), ("rescaling", ("fixed", "float", "shift"))):
            if getattr(self, argument) not in known:
                raise ValueError(f"`{argument}` must be one of {known}. Received: {getattr(self, argument)!r}")


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor on its way through a network: not its numbers, only what they cost.

    Args:
        shape: its shape, with a batch of one.
        format: the format of its numbers.
        is_sum: whether they are sums, or results of some, that have not got the scale of the result yet.
        takes_grid: whether what computed it gives out codes of any scale at no cost, as a table does.
        is_picture: whether it is an input of the model.
        scale: the `Format` of the scale of its codes, if that is quantised: sums of such codes need no floats.
        writer: the `Row` of the layer that writes it to memory.

    Example:

    >>> Value((1, 8, 8, 16), Format("int", 8)).size
    1024
    """

    shape: tuple[int, ...]
    format: Format
    is_sum: bool = False
    takes_grid: bool = False
    is_picture: bool = False
    scale: Format | None = None
    writer: object = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def size(self):
        """How many numbers it has."""
        return math.prod(self.shape)

    def to(self, shape):
        """The same numbers, or as many of their kind as fill another shape."""
        return dataclasses.replace(self, shape=tuple(shape))


class Row:
    """Takes down what one layer computes. Counters get one, and call its methods in the order of the computation.

    Every method takes a `Value` and returns what becomes of it.

    Args:
        path: the layer's path.
        layer: name of its class.
        arithmetic: an `Arithmetic`.
        float_format: the `Format` of its floats.
        is_fused: whether it is computed together with the layer before: then it reads and writes no maps of its own.
        is_repeated: whether the layer was called before, and its weights are stored already.

    Example:

    >>> row = Row("gate", "MyGate", Arithmetic(), Format("float", 32))
    >>> row.do("multiply", "scale", 1024, row.float_format, row.float_format)
    """

    def __init__(self, path, layer, arithmetic, float_format, is_fused=False, is_repeated=False):
        self.path = path
        self.layer = layer
        self.arithmetic = arithmetic
        self.float_format = float_format
        self.is_fused = is_fused
        self.is_repeated = is_repeated
        self.parts = []
        self._operations = []
        self._weights = []
        self._parameters = 0
        self._inputs = ()
        self._output = None

    @property
    def sum_format(self):
        """The format of integer sums."""
        return Format("int", self.arithmetic.sum_bits)

    @property
    def operations(self):
        """What was taken down so far."""
        return tuple(self._operations)

    def part(self, name, layer):
        """The row of a part of this layer."""
        row = Row(f"{self.path}/{name}", layer, self.arithmetic, self.float_format, is_repeated=self.is_repeated)
        self.parts.append(row)
        return row

    def do(self, kind, role, count, *formats, terms=1):
        """Takes down an operation; none if `count` is 0."""
        if count:
            self._operations.append(Operation(kind, role, int(count), formats, terms))

    def store(self, role, count, format, parameters=None):
        """Takes down constants, and how many of the trainable parameters are in them: as a rule, each is one."""
        if count:
            self._weights.append(Weights(role, count, format, is_stored=not self.is_repeated))
        if not self.is_repeated:
            self._parameters += count if parameters is None else parameters

    def reads(self, *values):
        self._inputs = values

    def writes(self, value):
        """Makes this row the one that writes `value` to memory."""
        self._output = value
        return dataclasses.replace(value, writer=self)

    def continues(self, before, value):
        """Says that the layer that would have written `before` writes `value` instead."""
        return value if before.writer is None else before.writer.writes(value)

    def costs(self):
        """The `LayerCost` records of this row and its parts, those that cost anything."""
        outputs = () if self._output is None else (self._output,)
        own = LayerCost(
            self.path,
            self.layer,
            self.operations,
            tuple(self._weights),
            self._parameters,
            *(tuple((value.size, value.format) for value in values) for values in (self._inputs, outputs)),
        )
        has_any = own.operations or own.weights or own.inputs or own.outputs or own.parameters
        inner = [cost for part in self.parts for cost in part.costs()]
        return [own, *inner] if has_any else inner

    def convolve(self, value, shape, terms, weights, role="convolution"):
        """Sums of products with a kernel, or with another feature map.

        Args:
            value: the `Value` that is read.
            shape: shape of the result.
            terms: products a sum.
            weights: `Format` of the kernel.
            role: `"convolution"` or `"attention"`.
        """
        if value.is_sum:
            value = self.to_float(value)
        floats = [each for each in (weights, value.format) if each.is_float]
        total = max(floats, key=lambda each: each.bits) if floats else self.sum_format
        result = Value(tuple(shape), total, is_sum=not floats)
        self.do("mac", role, result.size * terms, weights, value.format, total, terms=terms)
        return result

    def add_bias(self, value):
        self.do("add", "bias", value.size, value.format, value.format)
        return value

    def normalize(self, value, has_bias=False, how=None):
        """A factor and a sum for each channel of what a convolution gives.

        Args:
            value: the `Value` that is read.
            has_bias: whether the convolution has added a bias.
            how: the `keras_mnv4.qat.NormQuantization` of the normalisation, or None.
        """
        if how is not None:
            factors = POWER_OF_TWO if how.power_of_two else Format("int", how.scale_bits)
            self.do("multiply", "norm", value.size, factors, value.format)
            self.do("add", "norm", value.size, value.format, Format("int", how.offset_bits))
            return value
        if self.arithmetic.norms == "folded":
            return value if has_bias else self.add_bias(value)
        value = self.to_float(value)
        self.do("multiply", "norm", value.size, value.format, value.format)
        self.do("add", "norm", value.size, value.format, value.format)
        return value

    def scale_and_shift(self, value, channels, role="norm", parameters=None):
        """A factor and a sum for each channel of any feature map: of integers, a factor of 8 bits.

        Args:
            value: the `Value` that is read.
            channels: how many factors and summands are stored.
            role: what for.
            parameters: how many of them are trainable; None for all.
        """
        if value.is_sum:
            value = self.to_float(value)
        factors, total = (value.format,) * 2 if value.format.is_float else (INT8, self.sum_format)
        self.store("kernel", channels, factors, 0)
        self.store("bias", channels, total, 2 * channels if parameters is None else parameters)
        self.do("multiply", role, value.size, factors, value.format)
        self.do("add", role, value.size, total, total)
        return Value(value.shape, total, is_sum=not total.is_float)

    def scale(self, value):
        """A learned factor for each channel of what a convolution or a normalisation gives."""
        if self.arithmetic.norms == "folded":
            return value
        value = self.to_float(value)
        self.do("multiply", "scale", value.size, value.format, value.format)
        return value

    def activate(self, value, activation):
        """An activation, a softmax over the last axis among them.

        Raises:
            ValueError: if it is none of `ACTIVATIONS`.
        """
        name = getattr(activation, "__name__", activation)
        if name in ("softmax", "log_softmax"):
            return self.softmax(value)
        if name not in ACTIVATIONS:
            raise ValueError(
                f"What activation {name!r} of `{self.path}` costs is not known. Known are {sorted(ACTIVATIONS)}; add "
                "it to `keras_mnv4.cost.arithmetic.ACTIVATIONS`, or write a counter for the layer."
            )
        if name not in CLAMPS and not value.format.is_float:
            if value.is_sum:
                value = self.quantize(value, INT8)
            self.do("lookup", "activation", value.size, value.format)
            return dataclasses.replace(value, takes_grid=True)
        for kind in ACTIVATIONS[name]:
            self.do(kind, "activation", value.size, *[value.format] * (1 if kind == "lookup" else 2))
        return value

    def softmax(self, value, axis=-1):
        """A softmax: the largest is subtracted, then come exponentials, their sum and quotients."""
        if value.is_sum:
            value = self.quantize(value, INT8)
        total = value.format if value.format.is_float else self.sum_format
        rows = value.size // value.shape[axis]
        self.do("compare", "activation", value.size - rows, value.format, value.format)
        self.do("add", "activation", value.size, value.format, value.format)
        self.do("lookup", "activation", value.size, value.format)
        self.do("add", "activation", value.size - rows, total, total)
        self.do("lookup", "activation", rows, total)
        self.do("multiply", "activation", value.size, value.format, total)
        return dataclasses.replace(value, takes_grid=True)

    def combine(self, kind, *values):
        """Sums, products or comparisons of feature maps, number by number."""
        rank = max(len(value.shape) for value in values)
        shapes = [(1,) * (rank - len(value.shape)) + value.shape for value in values]
        shape = tuple(max(sides) for sides in zip(*shapes, strict=True))
        is_float = any(value.format.is_float for value in values)
        if kind != "multiply" and self.arithmetic.rescaling == "float":
            is_float |= any(not value.is_sum and value.scale is None for value in values)
        if is_float:
            values = [self.to_float(value) for value in values]
        elif kind != "multiply":
            values = [value if value.is_sum else self.rescale(value, value.scale) for value in values]
        result = max((value.format for value in values), key=lambda each: (each.is_float, each.bits))
        if kind == "multiply" and not result.is_float:
            result = self.sum_format
        count = math.prod(shape) * (len(values) - 1)
        self.do(kind, "residual", count, *(value.format for value in values[:2]))
        return Value(shape, result, is_sum=not result.is_float)

    def pool(self, value, shape, pixels, average):
        """Means, or the largest, of `pixels` numbers each."""
        size = math.prod(shape)
        if not average or pixels == 1:
            self.do("compare", "pooling", size * (pixels - 1), value.format, value.format)
            return Value(tuple(shape), value.format, value.is_sum, scale=value.scale)
        if value.is_sum:
            value = self.to_float(value)
        total = value.format if value.format.is_float else self.sum_format
        self.do("add", "pooling", size * (pixels - 1), total, total)
        if total.is_float:
            self.do("multiply", "pooling", size, total, total)
        return Value(tuple(shape), total, is_sum=not total.is_float)

    def rescale(self, value, scale=None):
        """Codes, or sums of integer products, brought to another scale; `scale` is the format of one that is quantised.

        Codes that are to be added are multiplied by their own scale, sums by that of the result.
        """
        if scale is not None:
            if scale.kind != "po2":
                self.do("multiply", "rescaling", value.size, self.sum_format if value.is_sum else value.format, scale)
            self.do("shift", "rescaling", value.size, self.sum_format)
            return Value(value.shape, self.sum_format, is_sum=True)
        if self.arithmetic.rescaling == "float":
            return self.to_float(value)
        if self.arithmetic.rescaling == "fixed":
            self.do("multiply", "rescaling", value.size, self.sum_format, self.sum_format)
        self.do("shift", "rescaling", value.size, self.sum_format)
        return Value(value.shape, self.sum_format, is_sum=True)

    def to_float(self, value):
        """Integers as the floats that they stand for."""
        if value.format.is_float:
            return value
        self.do("multiply", "rescaling", value.size, self.float_format, self.float_format)
        return Value(value.shape, self.float_format)

    def quantize(self, value, format, scale=None):
        """Rounds to the codes of `format`, with a scale whose own format is `scale`.

        That is for nothing with pictures, whose bytes are the codes, and with what tables give.
        """
        if value.takes_grid or value.is_picture:
            return dataclasses.replace(
                value, format=format, is_sum=False, takes_grid=False, is_picture=False, scale=scale
            )
        if value.format.is_float:
            self.do("multiply", "rounding", value.size, value.format, value.format)
        else:
            value = self.rescale(value, scale)
        for _ in range(2):  # saturation, below and above
            self.do("compare", "rounding", value.size, value.format, value.format)
        return Value(value.shape, format, scale=scale)
