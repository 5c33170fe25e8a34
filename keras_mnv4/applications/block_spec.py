"""`BlockSpec`: one row of an architecture table.

Its kinds are `Conv`, `MaxPool`, `Separable`, `FusedIB`, `UIB`, `MQA`, `Basic` and `Bottleneck`.
"""

import dataclasses
import functools
import numbers
import re

from keras_mnv4 import layers
from keras_mnv4.layers.inverted_bottleneck import round_channels

BLOCK = "block_"  # what the names of a network's blocks begin with, numbers from 1 behind it


def blocks_of(model):
    """The layers that a table's rows have become in a model, in order, without the stem."""
    return [layer for layer in model.layers if re.fullmatch(rf"{BLOCK}\d+", layer.name)]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Several values where a row has one, or several rows where a table has one: what search spaces are made of.

    Args:
        values: what there is to choose from.
        name: choices of one name are one decision; None for a decision of its own.

    Raises:
        ValueError: if there are fewer than two values, or one is there twice.

    Example:

    >>> choice(0, 3, 5) == Choice((0, 3, 5))
    True
    """

    values: tuple
    name: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) < 2 or any(self.values.count(value) > 1 for value in self.values):
            raise ValueError(f"A choice needs two different values at least. Received: {self.values}")


def choice(*values, name=None):
    """A `Choice` between `values`.

    Example:

    >>> UIB(choice(48, 64, 80), expand=4, start=choice(0, 3, 5), middle=choice(0, 3, 5))
    """
    return Choice(values, name)


def from_fields(kind, fields):
    """A dataclass made of a dictionary, as from a JSON file.

    Raises:
        ValueError: if a field is missing, or not known.
    """
    try:
        return kind(**fields)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(kind) if field.init and field.name != "_")
        raise ValueError(f"`{kind.__name__}` has the fields {known}. Received: {fields}") from error


def row_to_dict(row):
    """A row of a table as a JSON-ready dictionary; a `Choice` between rows, too."""
    if isinstance(row, Choice):
        return {"choice": [None if each is None else each.to_dict() for each in row.values], "name": row.name}
    return row.to_dict()


def row_from_dict(row):
    """The row that `row_to_dict` wrote."""
    if not isinstance(row, dict) or "choice" not in row:
        return BlockSpec.from_dict(row)
    return Choice(tuple(None if each is None else BlockSpec.from_dict(each) for each in row["choice"]), row["name"])


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One block of a network, as a row of the paper's table says it. A row is one of the subclasses.

    Where a number stands, there may be a `Choice`: a row of a search space (`keras_mnv4.tuner.SearchSpace`).

    Args:
        filters: output channels at width 1.

    Raises:
        ValueError: if the row does not describe a block.

    Example:

    >>> BlockSpec.from_dict({"kind": "Conv", "filters": 32, "kernel": 3, "stride": 2}).scaled(0.5)
    Conv(filters=16, kernel=3, stride=2)
    """

    filters: int

    KERNELS = ()  # fields that are kernel sizes
    OPTIONAL = ()  # fields that may be 0 or None, for a part that is left out

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, Choice):  # checked once it is made
                continue
            if name in self.OPTIONAL and not value:
                continue
            if hasattr(value, "item"):  # NumPy's, which JSON does not know
                value = value.item()
                object.__setattr__(self, name, value)
            is_number = isinstance(value, numbers.Real if name == "expand" else numbers.Integral)
            if not is_number or value <= 0:
                raise ValueError(f"`{name}` must be a positive number. Received: {self}")
            if name in self.KERNELS and value % 2 == 0:
                raise ValueError(f"`{name}` must be odd, a kernel size. Received: {self}")

    @functools.cached_property
    def choices(self):
        """A dictionary from field to `Choice`."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if isinstance(getattr(self, name), Choice)}

    def scaled(self, alpha):
        """The same block with its output channels scaled by `alpha`, rounded to a multiple of 8; at 1 as it is."""
        return self if alpha == 1 else dataclasses.replace(self, filters=round_channels(self.filters * alpha))

    def to_dict(self):
        """The row as a JSON-ready dictionary, which `BlockSpec.from_dict` reads."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}

    @staticmethod
    def from_dict(row):
        """The row that `to_dict` wrote.

        Raises:
            ValueError: if there is no such kind of row, or its fields are not those of that kind.
        """
        kinds = {kind.__name__: kind for kind in BlockSpec.__subclasses__()}
        fields = dict(row) if isinstance(row, dict) else {}
        kind = fields.pop("kind", None)
        if kind not in kinds:
            raise ValueError(f"`kind` must be one of {sorted(kinds)}. Received: {row}")
        choices = {name: from_fields(Choice, value) for name, value in fields.items() if isinstance(value, dict)}
        return from_fields(kinds[kind], {**fields, **choices})

    def make_layer(self, style, name, drop_path_rate=0.0):
        """The block as a Keras layer.

        Args:
            style: the `keras_mnv4.applications.network.Style` of the whole network.
            name: name of the layer.
            drop_path_rate: rate of stochastic depth, for blocks with a branch to leave out.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `make_layer`")


@dataclasses.dataclass(frozen=True)
class Conv(BlockSpec):
    """A convolution with normalisation and activation.

    Example:

    >>> Conv(32, kernel=3, stride=2).to_dict()
    {'kind': 'Conv', 'filters': 32, 'kernel': 3, 'stride': 2}
    """

    _: dataclasses.KW_ONLY
    kernel: int
    stride: int = 1

    KERNELS = ("kernel",)

    def make_layer(self, style, name, drop_path_rate=0.0):
        return layers.ConvNormAct(
            self.filters,
            self.kernel,
            self.stride,
            name=name,
            activation=style.activation,
            anti_aliasing=style.anti_aliasing,
            **style.common,
        )


@dataclasses.dataclass(frozen=True)
class MaxPool(BlockSpec):
    """Max pooling. It keeps the channels: `filters` is None.

    Example:

    >>> MaxPool()
    MaxPool(filters=None, kernel=3, stride=2)
    """

    filters: None = None
    _: dataclasses.KW_ONLY
    kernel: int = 3
    stride: int = 2

    KERNELS = ("kernel",)
    OPTIONAL = ("filters",)

    def scaled(self, alpha):
        return self

    def make_layer(self, style, name, drop_path_rate=0.0):
        return layers.MaxPool(self.kernel, self.stride, padding=style.definition.padding, name=name)


@dataclasses.dataclass(frozen=True)
class Separable(BlockSpec):
    """A depthwise convolution and a 1x1 convolution, each with normalisation and activation: MobileNetV1's block.

    Example:

    >>> Separable(64, stride=2)
    Separable(filters=64, kernel=3, stride=2)
    """

    _: dataclasses.KW_ONLY
    kernel: int = 3
    stride: int = 1

    KERNELS = ("kernel",)

    def make_layer(self, style, name, drop_path_rate=0.0):
        return layers.DepthwiseSeparable(
            self.filters,
            self.kernel,
            self.stride,
            name=name,
            activation=style.activation,
            anti_aliasing=style.anti_aliasing,
            **style.common,
        )


@dataclasses.dataclass(frozen=True)
class FusedIB(BlockSpec):
    """A fused inverted bottleneck; `expand` is the ratio of expanded to input channels.

    Example:

    >>> FusedIB(48, kernel=3, expand=4, stride=2)
    FusedIB(filters=48, kernel=3, expand=4, stride=2)
    """

    _: dataclasses.KW_ONLY
    kernel: int
    expand: float
    stride: int = 1

    KERNELS = ("kernel",)

    def make_layer(self, style, name, drop_path_rate=0.0):
        return layers.FusedInvertedBottleneck(
            self.filters,
            self.expand,
            self.kernel,
            self.stride,
            name=name,
            activation=style.activation,
            anti_aliasing=style.anti_aliasing,
            drop_path_rate=drop_path_rate,
            **style.common,
        )


@dataclasses.dataclass(frozen=True)
class UIB(BlockSpec):
    """A universal inverted bottleneck: IB, ConvNext-like, ExtraDW or FFN, by which of `start` and `middle` is there.

    `expand` None, or 0, leaves out the expansion: a depthwise separable convolution.

    Raises:
        ValueError: if a number is out of its range, or a stride has no depthwise convolution to take it.

    Example:

    >>> UIB(96, expand=3, start=5, middle=5, stride=2)  # ExtraDW
    UIB(filters=96, expand=3, start=5, middle=5, stride=2)
    """

    _: dataclasses.KW_ONLY
    expand: float | None
    start: int = 0
    middle: int = 0
    stride: int = 1

    KERNELS = ("start", "middle")
    OPTIONAL = ("expand", "start", "middle")

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "expand", self.expand or None)
        if not self.choices and self.stride > 1 and not (self.start or self.middle):
            raise ValueError(f"A block without depthwise convolutions cannot take a stride. Received: {self}")

    def make_layer(self, style, name, drop_path_rate=0.0):
        return layers.UniversalInvertedBottleneck(
            self.filters,
            self.expand,
            self.start,
            self.middle,
            self.stride,
            name=name,
            activation=style.activation,
            anti_aliasing=style.anti_aliasing,
            layer_scale=style.layer_scale,
            drop_path_rate=drop_path_rate,
            **style.common,
        )


@dataclasses.dataclass(frozen=True)
class MQA(BlockSpec):
    """Mobile MQA. Heads and their channels stay as they are at other widths.

    Example:

    >>> MQA(160, heads=4, key_dim=64, kv_stride=2)
    MQA(filters=160, heads=4, key_dim=64, kv_stride=2)
    """

    _: dataclasses.KW_ONLY
    heads: int
    key_dim: int
    kv_stride: int = 1

    stride = 1

    def make_layer(self, style, name, drop_path_rate=0.0):
        return layers.MobileMQA(
            self.filters,
            self.heads,
            self.key_dim,
            kv_strides=self.kv_stride,
            name=name,
            layer_scale=style.layer_scale,
            drop_path_rate=drop_path_rate,
            **style.common,
        )


@dataclasses.dataclass(frozen=True)
class Basic(BlockSpec):
    """A residual unit of two 3x3 convolutions.

    Example:

    >>> Basic(64)
    Basic(filters=64, stride=1)
    """

    _: dataclasses.KW_ONLY
    stride: int = 1

    reduction = None

    def make_layer(self, style, name, drop_path_rate=0.0):
        return _residual_unit(self, style, name, drop_path_rate)


@dataclasses.dataclass(frozen=True)
class Bottleneck(BlockSpec):
    """A residual unit of a 3x3 convolution between two 1x1; `reduction` is the ratio of output to inner channels.

    Example:

    >>> Bottleneck(256, stride=2)
    Bottleneck(filters=256, reduction=4, stride=2)
    """

    _: dataclasses.KW_ONLY
    reduction: int = 4
    stride: int = 1

    def make_layer(self, style, name, drop_path_rate=0.0):
        return _residual_unit(self, style, name, drop_path_rate)


def _residual_unit(block, style, name, drop_path_rate):
    return layers.ResidualUnit(
        block.filters,
        block.stride,
        reduction=block.reduction,
        name=name,
        activation=style.activation,
        anti_aliasing=style.anti_aliasing,
        drop_path_rate=drop_path_rate,
        **style.common,
    )
