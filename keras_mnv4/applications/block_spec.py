"""`BlockSpec`: one row of an architecture table."""

import dataclasses

from keras_mnv4 import layers
from keras_mnv4.layers.inverted_bottleneck import round_channels

KINDS = ("conv", "fused_ib", "uib")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One block of a network, as a row of the paper's table says it.

    Make it with `conv`, `fused_ib` or `uib`, which ask for what each kind has.

    Args:
        kind: `"conv"`, `"fused_ib"` or `"uib"`.
        filters: output channels at width 1.
        stride: step in both directions.
        kernel: kernel size of a `conv` or of the expansion of a `fused_ib`; 0 for `uib`.
        expand: ratio of expanded to input channels; 0 for `conv`.
        start: kernel size of the starting depthwise convolution of a `uib`, 0 for none.
        middle: kernel size of its middle depthwise convolution, 0 for none.

    Raises:
        ValueError: if the row does not describe a block.
    """

    kind: str
    filters: int
    stride: int = 1
    kernel: int = 0
    expand: float = 0
    start: int = 0
    middle: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {KINDS}. Received: kind={self.kind!r}")
        if self.filters < 1 or self.stride < 1:
            raise ValueError(f"`filters` and `stride` must be positive. Received: {self}")
        if (self.kind == "uib") == bool(self.kernel):
            raise ValueError(f"`kernel` belongs to `conv` and `fused_ib`, and must be given there. Received: {self}")
        if (self.kind == "conv") == bool(self.expand):
            raise ValueError(f"`expand` belongs to `fused_ib` and `uib`, and must be given there. Received: {self}")
        if self.kind != "uib" and (self.start or self.middle):
            raise ValueError(f"`start` and `middle` belong to `uib`. Received: {self}")
        if any(size and size % 2 == 0 for size in (self.kernel, self.start, self.middle)):
            raise ValueError(f"Kernel sizes must be odd. Received: {self}")
        if self.kind == "uib" and self.stride > 1 and not (self.start or self.middle):
            raise ValueError(f"A `uib` without depthwise convolutions cannot take a stride. Received: {self}")

    def scaled(self, alpha):
        """The same block with its output channels scaled by `alpha`, rounded to a multiple of 8."""
        return dataclasses.replace(self, filters=round_channels(self.filters * alpha))

    def to_dict(self):
        """The fields as a JSON-ready dictionary; `BlockSpec(**spec.to_dict()) == spec`."""
        return dataclasses.asdict(self)

    def make_layer(self, **arguments):
        """The block as a Keras layer.

        Args:
            **arguments: what a table does not say: `name`, `activation`, `padding`, `norm_momentum`, `norm_epsilon`,
                `drop_path_rate`.
        """
        if self.kind == "conv":
            arguments.pop("drop_path_rate", None)  # a plain convolution has no branch to leave out
            return layers.ConvNormAct(self.filters, self.kernel, self.stride, **arguments)
        if self.kind == "fused_ib":
            return layers.FusedInvertedBottleneck(self.filters, self.expand, self.kernel, self.stride, **arguments)
        return layers.UniversalInvertedBottleneck(
            self.filters, self.expand, self.start, self.middle, self.stride, **arguments
        )


def conv(filters, *, kernel, stride=1):
    """A convolution with normalisation and activation."""
    return BlockSpec(kind="conv", filters=filters, kernel=kernel, stride=stride)


def fused_ib(filters, *, kernel, expand, stride=1):
    """A fused inverted bottleneck."""
    return BlockSpec(kind="fused_ib", filters=filters, kernel=kernel, expand=expand, stride=stride)


def uib(filters, *, expand, start=0, middle=0, stride=1):
    """A universal inverted bottleneck: IB, ConvNext-like, ExtraDW or FFN, by which of `start` and `middle` is there."""
    return BlockSpec(kind="uib", filters=filters, expand=expand, start=start, middle=middle, stride=stride)
