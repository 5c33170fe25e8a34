"""`TableProfiler`: the profile of a network from its table alone, without a Keras model."""

import dataclasses

import keras

from keras_mnv4.applications.block_spec import BLOCK
from keras_mnv4.applications.block_spec import MQA
from keras_mnv4.applications.block_spec import UIB
from keras_mnv4.applications.block_spec import Basic
from keras_mnv4.applications.block_spec import Bottleneck
from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.block_spec import FusedIB
from keras_mnv4.applications.block_spec import MaxPool
from keras_mnv4.applications.block_spec import Separable
from keras_mnv4.applications.network import resolve_definition
from keras_mnv4.cost.arithmetic import Arithmetic
from keras_mnv4.cost.arithmetic import Row
from keras_mnv4.cost.arithmetic import Value
from keras_mnv4.cost.counters import FLOAT
from keras_mnv4.cost.counters import count_attention
from keras_mnv4.cost.counters import count_conv
from keras_mnv4.cost.counters import count_part
from keras_mnv4.cost.counters import count_sum
from keras_mnv4.cost.counters import quantize
from keras_mnv4.cost.formats import INT8
from keras_mnv4.cost.formats import Format
from keras_mnv4.cost.profile import Profile
from keras_mnv4.layers.attention import DOWN_KERNEL
from keras_mnv4.layers.inverted_bottleneck import bottleneck_convolutions
from keras_mnv4.layers.inverted_bottleneck import fused_bottleneck_convolutions
from keras_mnv4.layers.inverted_bottleneck import round_channels
from keras_mnv4.layers.inverted_bottleneck import separable_convolutions
from keras_mnv4.layers.residual_unit import residual_convolutions
from keras_mnv4.qat.policies import get_policy


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """What counters need to know of a `ConvNormAct`, whose arguments these are."""

    filters: int | None = None
    kernel_size: int = 1
    strides: int = 1
    depthwise: bool = False
    use_norm: bool = True
    use_bias: bool = False
    layer_scale: float | None = None
    activation: object = None
    anti_aliasing: str | None = None
    quantization: object = None

    channel_axis = -1

    def __post_init__(self):
        object.__setattr__(self, "activation", keras.activations.get(self.activation))

    @property
    def conv_strides(self):
        return self.strides if self.anti_aliasing is None else 1


class TableProfiler:
    """Profiles networks from their tables: what `profile` says of the model, without the model.

    Networks are those of the architecture's own `definition`. What a row costs is worked out once for each place and
    input that it is met with, then looked up.

    Args:
        input_shape: `(height, width, channels)`; None for each architecture's default size.
        classes: classes of the classifier.
        policy: name of a policy, a `keras_mnv4.qat.Policy`, or None for float networks.
        include_preprocessing: whether the network takes bytes and scales them, as the constructors' default is.
        arithmetic: an `Arithmetic`; None for the default.

    Example:

    >>> profiler = TableProfiler(policy="w8a8")
    >>> profiler.profile(applications.mobilenet_v4.ARCHITECTURES["MobileNetV4ConvSmall"]).macs
    186005568
    """

    def __init__(self, input_shape=None, classes=1000, policy=None, include_preprocessing=True, arithmetic=None):
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.classes = classes
        self.policy = None if policy is None else get_policy(policy)
        self.include_preprocessing = include_preprocessing
        self.arithmetic = arithmetic or Arithmetic()
        self.float_format = Format.named(self.arithmetic.float_format or keras.config.dtype_policy().compute_dtype)
        self._known = {}

    def profile(self, architecture, alpha=1.0, of_blocks=None):
        """The `Profile` of an architecture's network with a classifier.

        Args:
            architecture: a `keras_mnv4.applications.network.Architecture`.
            alpha: width multiplier, as for the constructors.
            of_blocks: a dictionary from the names of blocks to other profilers, for those under other policies.
        """
        of_blocks = of_blocks or {}
        size = architecture.default_size
        value, costs = self._look_up(self._enter, self.input_shape or (size, size, 3))
        stem = architecture.stem(alpha, resolve_definition(architecture.definition).narrows_stem)
        blocks = [("stem", stem, None)]
        _, *body = architecture.blocks
        for index, block in enumerate(body):
            blocks.append(
                (f"{BLOCK}{index + 1}", block if alpha == 1 else block.scaled(alpha), architecture.anti_aliasing)
            )
        for name, block, anti_aliasing in blocks:
            how = architecture.activation, architecture.layer_scale, anti_aliasing
            profiler = of_blocks.get(name, self)
            value, more = profiler._look_up(profiler._block, name, block, value, *how)
            costs += more
        head_filters = architecture.head_filters
        if head_filters is not None:
            head_filters = round_channels(head_filters * max(alpha, 1.0))
        _, more = self._look_up(self._head, value, head_filters, architecture.activation)
        return Profile(architecture.name, costs + more)

    def _look_up(self, counter, *arguments):
        """What `counter` gives: a `Value` and a tuple of `LayerCost`, worked out at the first time."""
        key = (counter.__name__, *arguments)
        if key not in self._known:
            self._known[key] = counter(*arguments)
        return self._known[key]

    def _enter(self, shape):
        value = Value((1, *shape), self.float_format, is_picture=True)
        row = self._row("preprocessing", "Rescaling")
        rule = None if self.policy is None else self._quantization("input").outputs
        if rule is not None:
            value = row.quantize(value, INT8) if self.include_preprocessing else quantize(row, value, rule)
        elif self.include_preprocessing:
            row.reads(value)
            for kind in ("multiply", "add"):
                row.do(kind, "preprocessing", value.size, value.format, value.format)
            value = row.writes(Value(value.shape, value.format))
        return value, tuple(row.costs())

    def _block(self, name, block, value, activation, layer_scale, anti_aliasing):
        if type(block) not in _BLOCKS:
            raise ValueError(f"What a block of kind {type(block).__name__} costs is not known: {name}.")
        row = self._row(name, "")
        result = _BLOCKS[type(block)](self, row, block, value, activation, layer_scale, anti_aliasing)
        return result, tuple(row.costs())

    def _conv(self, row, block, value, activation, layer_scale, anti_aliasing):
        how = {"activation": activation, "anti_aliasing": anti_aliasing, "quantization": self._quantization(row.path)}
        conv = ConvSpec(block.filters, block.kernel, block.stride, **how)
        row.layer = "ConvNormAct"
        row.reads(value)
        return row.writes(count_conv(row, value, conv))

    def _max_pool(self, row, block, value, activation, layer_scale, anti_aliasing):
        row.layer = "MaxPool"
        row.reads(value)
        _, *sides, channels = value.shape
        shape = (1, *[-(-side // block.stride) for side in sides], channels)
        return row.writes(row.pool(value, shape, block.kernel**2, average=False))

    def _separable(self, row, block, value, activation, layer_scale, anti_aliasing):
        convolutions = separable_convolutions(block.filters, block.kernel, block.stride, activation=activation)
        return self._chain(row, value, convolutions, anti_aliasing)

    def _fused(self, row, block, value, activation, layer_scale, anti_aliasing):
        convolutions = fused_bottleneck_convolutions(
            value.shape[-1], block.filters, block.expand, block.kernel, block.stride, activation=activation
        )
        return self._sum(row, block, value, self._chain(row, value, convolutions, anti_aliasing))

    def _uib(self, row, block, value, activation, layer_scale, anti_aliasing):
        kernels = block.start, block.middle
        how = {"activation": activation, "layer_scale": layer_scale}
        convolutions = bottleneck_convolutions(
            value.shape[-1], block.filters, block.expand, *kernels, block.stride, **how
        )
        return self._sum(row, block, value, self._chain(row, value, convolutions, anti_aliasing))

    def _residual_unit(self, row, block, value, activation, layer_scale, anti_aliasing):
        convolutions = residual_convolutions(block.filters, block.reduction, block.stride, activation=activation)
        result = self._chain(row, value, convolutions, anti_aliasing)
        if block.stride > 1 or value.shape[-1] != block.filters:
            shortcut = {"shortcut": {"filters": block.filters, "strides": block.stride}}
            value = self._chain(row, value, shortcut, anti_aliasing)
        return count_sum(row, value, result, self._quantization(f"{row.path}/add"), activation)

    def _chain(self, row, value, convolutions, anti_aliasing):
        for name, how in convolutions.items():
            conv = ConvSpec(**how, anti_aliasing=anti_aliasing, quantization=self._quantization(f"{row.path}/{name}"))
            value = self._part(row, name, conv, value)
        return value

    def _attention(self, row, block, value, activation, layer_scale, anti_aliasing):
        norm = self._quantization(f"{row.path}/norm")

        def normalize(part, value):
            return quantize(part, part.scale_and_shift(value, value.shape[-1]), norm.outputs)

        result = count_part(row, "norm", "BatchNorm", normalize, value)
        attention = _AttentionSpec(block, layer_scale, lambda name: self._quantization(f"{row.path}/attention/{name}"))
        result = count_attention(attention, row.part("attention", "SpatialAttention"), result)
        return self._sum(row, block, value, result)

    def _sum(self, row, block, value, result):
        if block.stride > 1 or value.shape[-1] != block.filters:
            return result
        return count_sum(row, value, result, self._quantization(f"{row.path}/add"))

    def _head(self, value, head_filters, activation):
        top = self._row("avg_pool", "GlobalAveragePooling2D")
        _, *sides, channels = value.shape
        pixels = sides[0] * sides[1]
        top.reads(value)
        value = top.writes(top.pool(value, (1, 1, 1, channels), pixels, average=True))
        how = self._quantization("avg_pool").outputs
        quantizer = self._row("avg_pool_quantizer", "FakeQuantize")
        if how is not None and pixels > 1:
            value = quantizer.continues(value, quantize(quantizer, value, how))
        rows = [top, quantizer]
        if head_filters is not None:
            head = self._row("head", "ConvNormAct")
            head.reads(value)
            conv = ConvSpec(head_filters, activation=activation, quantization=self._quantization("head"))
            value = head.writes(count_conv(head, value, conv))
            rows.append(head)
        classifier = self._row("predictions", "Classifier")
        how = {"use_norm": False, "use_bias": True, "quantization": self._quantization("predictions/conv")}
        logits = self._part(classifier, "conv", ConvSpec(self.classes, **how), value).to((1, self.classes))

        def softmax(part, logits):
            outputs = self._quantization("predictions/softmax").outputs
            return quantize(part, part.softmax(logits), outputs)

        value = count_part(classifier, "softmax", "Activation", softmax, logits)
        return value, tuple(cost for row in (*rows, classifier) for cost in row.costs())

    def _part(self, row, name, conv, value):
        return count_part(row, name, "ConvNormAct", lambda part, value: count_conv(part, value, conv), value)

    def _row(self, path, layer):
        return Row(path, layer, self.arithmetic, self.float_format)

    def _quantization(self, path):
        if self.policy is None:
            return FLOAT
        rule = self.policy.rule_for(path)
        if rule is None:
            raise ValueError(f"No rule of policy `{self.policy.name}` matches `{path}`.")
        return rule.quantization


_BLOCKS = {
    Conv: TableProfiler._conv,
    MaxPool: TableProfiler._max_pool,
    Separable: TableProfiler._separable,
    FusedIB: TableProfiler._fused,
    UIB: TableProfiler._uib,
    MQA: TableProfiler._attention,
    Basic: TableProfiler._residual_unit,
    Bottleneck: TableProfiler._residual_unit,
}


class _AttentionSpec:
    """What counters need to know of a `SpatialAttention`."""

    query_strides = 1

    def __init__(self, block, layer_scale, part_quantization):
        self.num_heads = block.heads
        self.key_dim = block.key_dim
        self.kv_strides = block.kv_stride
        self.part_quantization = part_quantization
        self.query = self._project("query", block.heads * block.key_dim)
        self.key = self._project("key", block.key_dim)
        self.value = self._project("value", block.key_dim)
        self.output_projection = self._project("output", block.filters, layer_scale)
        self.key_down, self.value_down = (
            ConvSpec(None, DOWN_KERNEL, block.kv_stride, depthwise=True, quantization=part_quantization(name))
            for name in ("key_down", "value_down")
        )

    def _project(self, name, filters, layer_scale=None):
        how = self.part_quantization(name)
        return ConvSpec(filters, use_norm=False, layer_scale=layer_scale, quantization=how)
