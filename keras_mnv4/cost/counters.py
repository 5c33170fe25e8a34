"""Counters: what each kind of layer computes, written in the terms of `Row`. Here those of this package's layers."""

import math

import keras

from keras_mnv4.cost.arithmetic import CLAMPS
from keras_mnv4.cost.arithmetic import Value
from keras_mnv4.cost.formats import INT8
from keras_mnv4.cost.formats import Format
from keras_mnv4.cost.formats import format_of
from keras_mnv4.cost.formats import scale_format_of
from keras_mnv4.layers import Classifier
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers import DepthwiseSeparable
from keras_mnv4.layers import FusedInvertedBottleneck
from keras_mnv4.layers import LayerScale
from keras_mnv4.layers import MaxPool
from keras_mnv4.layers import MobileMQA
from keras_mnv4.layers import ResidualUnit
from keras_mnv4.layers import SpatialAttention
from keras_mnv4.layers import StochasticDepth
from keras_mnv4.layers import UniversalInvertedBottleneck
from keras_mnv4.layers.batch_norm import BatchNorm
from keras_mnv4.layers.conv import BLUR
from keras_mnv4.qat import FakeQuantize
from keras_mnv4.qat import LayerQuantization

_COUNTERS = {}
_IN_PLACE = set()
FLOAT = LayerQuantization()


def register_counter(*kinds, in_place=False):
    """Decorator that makes a function the counter of layers of exactly these classes.

    The function is called with the layer, a `keras_mnv4.cost.Row` to write into, and a `keras_mnv4.cost.Value` for each
    input of the layer. It returns the `Value` of the output.

    Args:
        *kinds: classes of layers.
        in_place: whether the result is not written to memory by itself: the layer does nothing at inference, or is
            computed with the one before.

    Example:

    >>> @register_counter(MyGate)
    ... def count_gate(layer, row, value):
    ...     row.do("multiply", "scale", value.size, value.format, value.format)
    ...     return value
    """

    def register(counter):
        for kind in kinds:
            _COUNTERS[kind] = counter
            _IN_PLACE.discard(kind)
        if in_place:
            _IN_PLACE.update(kinds)
        return counter

    return register


def has_counter(layer):
    """Whether a counter is registered for the class of `layer`."""
    return type(layer) in _COUNTERS


def count(layer, row, *values):
    """Has the counter of `layer` write into `row`; returns the `Value` of the output.

    Raises:
        ValueError: if no counter is registered for its class.
    """
    if not has_counter(layer):
        raise ValueError(
            f"What layer `{row.path}` ({type(layer).__name__}) costs is not known. Write a counter for its class, and "
            "register it with `keras_mnv4.cost.register_counter`."
        )
    result = _COUNTERS[type(layer)](layer, row, *values)
    if type(layer) in _IN_PLACE or row.is_fused:
        return row.continues(values[0], result)
    if row.parts:
        return result
    row.reads(*(value for value in keras.tree.flatten(values) if isinstance(value, Value)))
    return row.writes(result)


def count_part(row, name, kind, counter, *values):
    """Counts a part of a layer in a row of its own, by calling `counter(row, *values)`."""
    part = row.part(name, kind)
    part.reads(*values)
    return part.writes(counter(part, *values))


@register_counter(FakeQuantize, in_place=True)
def count_fake_quantize(layer, row, value):
    return quantize(row, value, layer.quantizer)


@register_counter(StochasticDepth, in_place=True)
def count_nothing(layer, row, value):
    return value


@register_counter(LayerScale)
def count_layer_scale(layer, row, value):
    value = row.to_float(value)
    row.store("bias", value.shape[layer.axis], value.format)
    row.do("multiply", "scale", value.size, value.format, value.format)
    return value


@register_counter(ConvNormAct)
def count_conv_layer(conv, row, value):
    return count_conv(row, value, conv)


def count_conv(row, value, conv):
    """Counts a convolution with all that `ConvNormAct` can have behind it.

    Args:
        row: the `Row` to write into.
        value: the `Value` of the input.
        conv: a `ConvNormAct`, or anything with its attributes.
    """
    how = conv.quantization or FLOAT
    channels = value.shape[conv.channel_axis]
    filters = channels if conv.depthwise else conv.filters
    terms = conv.kernel_size**2 * (1 if conv.depthwise else channels)
    kernel = format_of(how.weights, row.float_format)
    row.store("kernel", terms * filters, kernel)
    value = quantize(row, value, how.inputs)
    value = row.convolve(value, _smaller(value.shape, conv.channel_axis, conv.conv_strides, filters), terms, kernel)
    _store_biases(row, value, filters, conv, how.norm)
    if conv.use_bias:
        value = row.add_bias(value)
    if conv.use_norm:
        value = row.normalize(value, conv.use_bias, how.norm)
    if conv.layer_scale is not None:
        value = row.scale(value)
    is_clamp = getattr(conv.activation, "__name__", conv.activation) in CLAMPS
    if not is_clamp:
        value = quantize(row, value, how.outputs)
    value = quantize(row, row.activate(value, conv.activation), how.outputs)
    if conv.conv_strides != conv.strides:
        value = _downsample(row, value, conv, how)
    return row.to_float(value) if value.is_sum else value


def quantize(row, value, quantizer):
    """Counts the rounding by a quantiser of `keras_mnv4.qat`, or None."""
    return value if quantizer is None else row.quantize(value, format_of(quantizer, None), scale_format_of(quantizer))


def _store_biases(row, value, channels, conv, norm):
    """What is stored beside the kernel: one bias a channel, if everything folds into it."""
    parameters = channels * (conv.use_bias + 2 * conv.use_norm + (conv.layer_scale is not None))
    if norm is not None and conv.use_norm:
        row.store("bias", channels, Format("int", norm.scale_bits), parameters)
        row.store("bias", channels, Format("int", norm.offset_bits), 0)
    elif row.arithmetic.norms == "folded":
        row.store("bias", channels if conv.use_bias or conv.use_norm else 0, value.format, parameters)
    else:
        row.store("bias", channels if conv.use_bias else 0, value.format, 0)
        row.store("bias", parameters - channels * conv.use_bias, row.float_format, parameters)


def _downsample(row, value, conv, how):
    shape = list(_smaller(value.shape, conv.channel_axis, conv.strides, value.shape[conv.channel_axis]))
    if conv.anti_aliasing == "average":
        for axis in _sides(conv.channel_axis):
            shape[axis] = value.shape[axis] // conv.strides
        return quantize(row, row.pool(value, shape, pixels=4, average=True), how.outputs)
    size, taps = math.prod(shape), len(BLUR) ** 2
    total = value.format if value.format.is_float else row.sum_format
    row.do("multiply", "pooling", taps * size, INT8 if how.outputs is not None else row.float_format, value.format)
    row.do("add", "pooling", (taps - 1) * size, total, total)
    return quantize(row, Value(tuple(shape), total, is_sum=not total.is_float), how.outputs)


def _smaller(shape, channel_axis, strides, channels):
    """The shape of a map behind a convolution."""
    shape = list(shape)
    for axis in _sides(channel_axis):
        shape[axis] = -(-shape[axis] // strides)
    shape[channel_axis] = channels
    return tuple(shape)


def _sides(channel_axis):
    return (2, 3) if channel_axis == 1 else (1, 2)


@register_counter(UniversalInvertedBottleneck, FusedInvertedBottleneck, DepthwiseSeparable, MobileMQA, ResidualUnit)
def count_chain(block, row, value):
    """Counts the layers of a `ResidualChain`, and the sum with its input."""
    result = value
    for layer in block.chain:
        result = count(layer, row.part(layer.name, type(layer).__name__), result)
    if not block.has_shortcut:
        return result
    if block.shortcut is not None:
        value = count(block.shortcut, row.part(block.shortcut.name, type(block.shortcut).__name__), value)
    return count_sum(row, value, result, block.part_quantization(block.ADD), block.sum_activation)


def count_sum(row, shortcut, branch, how, activation="linear"):
    """Counts the sum of a residual block, and the activation behind it, in a row of its own."""

    def counter(part, *values):
        total = part.activate(part.combine("add", *values), activation)
        return quantize(part, total, (how or FLOAT).outputs)

    return count_part(row, "add", "Add", counter, shortcut, branch)


@register_counter(MaxPool)
def count_max_pool(layer, row, value):
    return row.pool(value, layer.compute_output_shape(value.shape), layer.pool_size**2, average=False)


@register_counter(SpatialAttention)
def count_attention(attention, row, value):
    """Counts attention: `attention` is a `SpatialAttention`, or anything with its attributes."""

    def project(name, conv, source):
        return count_part(row, name, "ConvNormAct", lambda part, *values: count_conv(part, *values, conv), source)

    def product(name, rows, columns, shape, terms):
        def counter(part, *values):
            result = part.convolve(values[0], shape, terms, values[1].format, role="attention")
            return quantize(part, result, (attention.part_quantization(name) or FLOAT).outputs)

        return count_part(row, name, "Attention", counter, rows, columns)

    def pixels(each):
        return each.size // each.shape[attention.query.channel_axis]

    query_source = value
    if attention.query_strides > 1:
        query_source = count_part(row, "query_norm", "BatchNormalization", _shrink(attention), value)
    queries = project("query", attention.query, query_source)
    key_source = value_source = value
    if attention.kv_strides > 1:
        key_source = project("key_down", attention.key_down, value)
        value_source = project("value_down", attention.value_down, value)
    keys = project("key", attention.key, key_source)
    values = project("value", attention.value, value_source)
    heads = pixels(queries) * attention.num_heads
    logits = product("logits", queries, keys, (1, heads, pixels(keys)), attention.key_dim)
    how = attention.part_quantization("softmax") or FLOAT
    weights = count_part(
        row, "softmax", "Softmax", lambda part, logits: quantize(part, part.softmax(logits), how.outputs), logits
    )
    context = product("context", weights, values, (1, heads, attention.key_dim), pixels(keys)).to(queries.shape)
    if attention.query_strides > 1:
        context = count_part(row, "scale_up", "Resize", _grow(value.shape, attention.query.channel_axis), context)
    return project("output", attention.output_projection, context)


def _shrink(attention):
    def counter(part, value):
        axis, strides = attention.query.channel_axis, attention.query_strides
        channels = value.shape[axis]
        value = part.pool(value, _smaller(value.shape, axis, strides, channels), strides**2, average=True)
        return part.scale_and_shift(value, channels)

    return counter


def _grow(shape, channel_axis):
    """A counter of bilinear interpolation to the sides of `shape`."""

    def counter(part, value):
        grown = list(shape)
        grown[channel_axis] = value.shape[channel_axis]
        return interpolate(part, value, grown, channel_axis)

    return counter


def interpolate(row, value, shape, channel_axis):
    """Counts bilinear interpolation to `shape`, rows first: two products and a sum for each number of both steps."""
    value = row.to_float(value)
    rows, _ = _sides(channel_axis)
    steps = value.size // value.shape[rows] * shape[rows] + math.prod(shape)
    row.do("multiply", "pooling", 2 * steps, value.format, value.format)
    row.do("add", "pooling", steps, value.format, value.format)
    return Value(tuple(shape), value.format)


@register_counter(Classifier)
def count_classifier(layer, row, value):
    conv = layer.conv
    logits = count_part(row, "conv", "ConvNormAct", lambda part, value: count_conv(part, value, conv), value)
    name = layer.activation_part
    if name is None:
        return logits.to((1, layer.classes))
    how = layer.part_quantization(name) or FLOAT
    return count_part(
        row,
        name,
        "Activation",
        lambda part, logits: quantize(part, part.activate(logits, name), how.outputs),
        logits.to((1, layer.classes)),
    )


@register_counter(BatchNorm)
def count_batch_norm(layer, row, value):
    how = layer.quantization or FLOAT
    return quantize(row, count_norm_of_map(layer, row, value), how.outputs)


def count_norm_of_map(norm, row, value):
    """Counts a batch normalisation that stands behind no convolution."""
    channels = value.shape[norm.axis]
    return row.scale_and_shift(value, channels, parameters=channels * (norm.scale + norm.center))
