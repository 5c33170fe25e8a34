"""Counters of stock Keras layers, float or quantised, and of what `keras.ops` leaves in the graph of a model."""

import math

import keras
import numpy as np
from keras import layers

from keras_mnv4.cost.arithmetic import CLAMPS
from keras_mnv4.cost.arithmetic import Value
from keras_mnv4.cost.counters import FLOAT
from keras_mnv4.cost.counters import count_norm_of_map
from keras_mnv4.cost.counters import interpolate
from keras_mnv4.cost.counters import quantize
from keras_mnv4.cost.counters import register_counter
from keras_mnv4.cost.formats import format_of
from keras_mnv4.qat import FakeQuantize
from keras_mnv4.qat import QuantizeWrapper
from keras_mnv4.qat.affine import ColorRescaling
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.stock import operations
from keras_mnv4.qat.stock.pictures import AUGMENTATIONS
from keras_mnv4.qat.stock.up_sampling import QuantizedUpSampling2D

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.Dense)
# At inference they do nothing, or only say where numbers lie.
NOTHING = (
    *AUGMENTATIONS,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
)
COPIES = (layers.Cropping2D, layers.Permute, layers.ZeroPadding2D)


@register_counter(*NOTHING, in_place=True)
def count_nothing(layer, row, value):
    return value.to(layer.compute_output_shape(value.shape))


@register_counter(*COPIES)
def count_copy(layer, row, value):
    return value.to(layer.compute_output_shape(value.shape))


@register_counter(layers.UpSampling2D, QuantizedUpSampling2D)
def count_up_sampling(layer, row, value):
    shape = layer.compute_output_shape(value.shape)
    if layer.interpolation == "nearest":
        return value.to(shape)
    if layer.interpolation == "bilinear":
        return interpolate(row, value, shape, 1 if layer.data_format == "channels_first" else -1)
    raise ValueError(f"What interpolation {layer.interpolation!r} of `{row.path}` costs is not known.")


@register_counter(*CONVOLUTIONS)
def count_sums(layer, row, value):
    return row.activate(_convolve(layer, row, value, row.float_format), layer.activation)


@register_counter(layers.SeparableConv2D)
def count_separable(layer, row, value):
    shape = list(layer.compute_output_shape(value.shape))
    axis = 1 if layer.data_format == "channels_first" else -1
    shape[axis] = value.shape[axis] * layer.depth_multiplier
    kernels = layer.depthwise_kernel, layer.pointwise_kernel
    for kernel in kernels:
        row.store("kernel", math.prod(kernel.shape), row.float_format)
    value = row.convolve(value, shape, math.prod(kernels[0].shape[:2]), row.float_format)
    shape[axis] = layer.filters
    value = row.convolve(value, shape, kernels[1].shape[2], row.float_format)
    return row.activate(_add_bias(layer, row, value, layer.filters), layer.activation)


@register_counter(QuantizeWrapper)
def count_wrapper(wrapper, row, value):
    layer, how = wrapper.layer, wrapper.part_quantization(ITSELF) or FLOAT
    activation = getattr(layer, "activation", keras.activations.linear)
    if isinstance(layer, CONVOLUTIONS):
        value = quantize(row, value, how.inputs)
        value = _convolve(layer, row, value, format_of(how.weights, row.float_format))
    elif isinstance(layer, layers.BatchNormalization):
        value = count_norm_of_map(layer, row, value)
    if activation.__name__ in CLAMPS:
        return quantize(row, row.activate(value, activation), how.outputs)
    value = row.activate(quantize(row, value, how.outputs), activation)
    *_, last = wrapper.quantizable_parts
    return quantize(row, value, (wrapper.part_quantization(last) or FLOAT).outputs)


def _convolve(layer, row, value, kernel):
    """Sums of products and their bias."""
    shape = layer.compute_output_shape(value.shape)
    if isinstance(layer, layers.Dense) and value.shape[-1] != layer.kernel.shape[0]:
        raise ValueError(
            f"`{row.path}` takes {layer.kernel.shape[0]} numbers, and would get {value.shape[-1]} with this "
            "`input_shape`: profile the model at the size that it was built for."
        )
    is_depthwise = isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
    *window, last = layer.kernel.shape
    terms = math.prod(window[:-1] if is_depthwise else window)
    row.store("kernel", math.prod(layer.kernel.shape), kernel)
    return _add_bias(layer, row, row.convolve(value, shape, terms, kernel), window[-1] * last if is_depthwise else last)


def _add_bias(layer, row, value, channels):
    if not layer.use_bias:
        return value
    row.store("bias", channels, value.format)
    return row.add_bias(value)


@register_counter(layers.BatchNormalization)
def count_batch_norm(layer, row, value):
    if not row.is_fused:
        return count_norm_of_map(layer, row, value)
    channels = value.shape[layer.axis]
    parameters = channels * (layer.scale + layer.center)
    has_bias = any(each.role == "bias" for each in value.writer.operations)
    if row.arithmetic.norms == "folded":
        row.store("bias", 0 if has_bias else channels, value.format, parameters)
    else:
        row.store("bias", 2 * channels, row.float_format, parameters)
    return row.normalize(value, has_bias)


@register_counter(layers.LayerNormalization)
def count_layer_norm(layer, row, value):
    """Mean and variance of each row, then a factor and a sum for each number."""
    value = row.to_float(value)
    row.store("bias", sum(math.prod(weight.shape) for weight in layer.weights), row.float_format)
    for kind, times in (("add", 4), ("multiply", 3)):
        row.do(kind, "norm", times * value.size, value.format, value.format)
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    row.do("lookup", "norm", value.size // math.prod(value.shape[axis] for axis in axes), value.format)
    return value


@register_counter(layers.Activation)
def count_activation(layer, row, value):
    return row.activate(value, layer.activation)


@register_counter(layers.ReLU)
def count_relu(layer, row, value):
    if layer.negative_slope:
        return row.activate(value, "leaky_relu")
    return row.activate(value, "relu" if layer.max_value is None else "relu6")


@register_counter(layers.LeakyReLU)
def count_leaky_relu(layer, row, value):
    return row.activate(value, "leaky_relu")


@register_counter(layers.PReLU)
def count_prelu(layer, row, value):
    value = row.to_float(value)
    row.store("bias", math.prod(layer.alpha.shape), row.float_format)
    row.do("compare", "activation", value.size, value.format, value.format)
    row.do("multiply", "activation", value.size, row.float_format, value.format)
    return value


@register_counter(layers.Softmax)
def count_softmax(layer, row, value):
    return row.softmax(value, layer.axis)


for _operation, _name in ((operations.RELU, "relu"), (operations.RELU6, "relu6")):
    register_counter(_operation)(lambda layer, row, value, name=_name: row.activate(value, name))


@register_counter(layers.Concatenate)
def count_concatenate(layer, row, values):
    if any(value.format.is_float or value.is_sum for value in values):
        values = [row.to_float(value) for value in values]
    widest = max((value.format for value in values), key=lambda each: each.bits)
    return Value(tuple(layer.compute_output_shape([value.shape for value in values])), widest)


@register_counter(layers.Average)
def count_average(layer, row, values):
    value = row.combine("add", *values)
    if value.format.is_float:
        row.do("multiply", "residual", value.size, value.format, value.format)
    return value


def _register_of_two(kind, layer_classes, operation_classes=()):
    @register_counter(*layer_classes)
    def count_layer(layer, row, values):
        return row.combine(kind, *values)

    @register_counter(*operation_classes)
    def count_operation(operation, row, *values):
        tensors = [value for value in values if isinstance(value, Value)]
        if len(tensors) > 1:
            return row.combine(kind, *tensors)
        row.do(kind, "residual", tensors[0].size, tensors[0].format, tensors[0].format)
        return tensors[0]


_register_of_two("add", (layers.Add, layers.Subtract), (operations.ADD, operations.SUBTRACT))
_register_of_two("multiply", (layers.Multiply,), (operations.MULTIPLY, operations.DIVIDE))
_register_of_two("compare", (layers.Maximum, layers.Minimum))


@register_counter(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
def count_global_pool(layer, row, value):
    shape = layer.compute_output_shape(value.shape)
    is_average = isinstance(layer, layers.GlobalAveragePooling2D)
    return row.pool(value, shape, value.size // math.prod(shape), is_average)


@register_counter(layers.AveragePooling2D, layers.MaxPooling2D)
def count_pool(layer, row, value):
    is_average = isinstance(layer, layers.AveragePooling2D)
    result = row.pool(value, layer.compute_output_shape(value.shape), math.prod(layer.pool_size), is_average)
    return row.quantize(result, value.format) if result.is_sum else result


@register_counter(layers.Rescaling)
def count_rescaling(layer, row, value):
    readers = [node.operation for node in layer._outbound_nodes]
    if value.is_picture and readers and all(isinstance(reader, FakeQuantize) for reader in readers):
        row.is_fused = True  # it only gives the bytes another meaning
        return value
    return _scale_and_shift(layer, row, value)


@register_counter(ColorRescaling)
def count_color_rescaling(layer, row, value):
    return row.scale_and_shift(value, max(np.size(layer.scale), np.size(layer.offset)), "preprocessing", parameters=0)


def _scale_and_shift(layer, row, value):
    """One factor and one summand, as far as they change anything, for pictures or, where `x + 3` stood, for maps."""
    role = "preprocessing" if value.writer is None else "residual"
    if value.is_picture:
        value = Value(value.shape, row.float_format)
    for kind, is_needed in (("multiply", np.any(np.asarray(layer.scale) != 1)), ("add", np.any(layer.offset))):
        row.do(kind, role, value.size * is_needed, value.format, value.format)
    total = value.format if value.format.is_float else row.sum_format
    return Value(value.shape, total, is_sum=not total.is_float)


@register_counter(layers.Normalization)
def count_normalization(layer, row, value):
    return row.scale_and_shift(Value(value.shape, row.float_format), math.prod(layer.mean.shape), "preprocessing", 0)
