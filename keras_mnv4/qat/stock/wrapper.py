"""`QuantizeWrapper`: one stock Keras layer, fake-quantised."""

import math

import keras
from keras import activations
from keras import layers
from keras import ops

from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import QuantizableLayer
from keras_mnv4.qat.quantizable import least_kernel_range

KERNEL_LAYERS = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
WRAPPABLE = (*KERNEL_LAYERS, layers.BatchNormalization, layers.Activation)

# Activations that integer operators apply to their sums before they round them.
FUSED_ACTIVATIONS = (activations.linear, activations.relu, activations.relu6)
# The others, as the operators that compute them: each takes the result of the one before and the activation's input.
# Every result is rounded, so every operator is a part that policies can address.
ACTIVATION_PARTS = {
    activations.softmax: {"softmax": lambda x, _: activations.softmax(x)},
    activations.sigmoid: {"sigmoid": lambda x, _: activations.sigmoid(x)},
    activations.tanh: {"tanh": lambda x, _: activations.tanh(x)},
    activations.gelu: {"gelu": lambda x, _: activations.gelu(x)},
    activations.silu: {"sigmoid": lambda x, _: activations.sigmoid(x), "silu": lambda gate, x: gate * x},
    activations.hard_silu: {"hard_silu": lambda x, _: activations.hard_silu(x)},
    activations.hard_sigmoid: {
        "relu6": lambda x, _: activations.relu6(x + 3.0),
        "hard_sigmoid": lambda x, _: x * (1 / 6),
    },
}


def wrappable_parts(layer):
    """Names of the parts that a `QuantizeWrapper` of `layer` would have; None if it cannot be wrapped."""
    activation = getattr(layer, "activation", activations.linear)
    is_fused = activation in FUSED_ACTIVATIONS
    is_grouped = getattr(layer, "groups", 1) != 1  # which no operator of the exporters' computes
    if type(layer) not in WRAPPABLE or is_grouped or not (is_fused or activation in ACTIVATION_PARTS):
        return None
    itself = () if isinstance(layer, layers.Activation) and not is_fused else (ITSELF,)
    return (*itself, *ACTIVATION_PARTS.get(activation, ()))


@keras.saving.register_keras_serializable(package="keras_mnv4")
class QuantizeWrapper(QuantizableLayer):
    """A stock Keras layer with its kernel rounded before use, and its results rounded behind it.

    `quantize_model` puts one round each stock layer that needs it. The layer's own weights stay as they are, under
    `layer`; a frozen or saved wrapper is a frozen or saved layer.

    The integer operators are convolutions throughout, for a per-channel kernel converts in no other: a dense layer is
    computed as a 1x1 convolution, a batch normalisation that follows no convolution as a depthwise one of its own.

    Args:
        layer: a `Conv2D`, `DepthwiseConv2D`, `Dense`, `BatchNormalization` or `Activation`, with any of the activations
            linear, relu, relu6, softmax, sigmoid, tanh, gelu, silu, hard_silu and hard_sigmoid.
        **kwargs: `quantization`, a `keras_mnv4.qat.LayerQuantization`, or a dictionary of them for a layer of several
            parts: `""`, the layer up to a linear activation or relu, and the operators of another activation, such as
            `"softmax"`; and those of `keras.layers.Layer`. The name is that of `layer` unless given.

    Raises:
        TypeError: if `layer` is of another type, or a subclass, or has another activation.

    Input shape: that of `layer`. Output shape: likewise.

    Example:

    >>> eight_bits = LayerQuantization(weights=LastValueQuantizer(8, per_axis=True, symmetric=True))
    >>> QuantizeWrapper(keras.layers.Conv2D(4, 3), quantization=eight_bits)(np.ones((1, 8, 8, 3))).shape
    (1, 6, 6, 4)
    """

    def __init__(self, layer, **kwargs):
        parts = wrappable_parts(layer)
        if parts is None:
            raise TypeError(
                f"`layer` must be one of {', '.join(kind.__name__ for kind in WRAPPABLE)}, not a subclass, and its "
                f"activation one of {', '.join(a.__name__ for a in (*FUSED_ACTIVATIONS, *ACTIVATION_PARTS))}. "
                f"Received: {layer!r}"
            )
        # Weights are read as they are stored: in mixed precision the kernel is rounded before it is halved.
        own = {"dtype": layer.variable_dtype, "autocast": False, "activity_regularizer": layer.activity_regularizer}
        super().__init__(**{"name": layer.name, "trainable": layer.trainable, **kwargs, **own})
        self.layer = layer
        self.input_quantizer = self.kernel_quantizer = None
        how = self.part_quantization(ITSELF)
        if self._has_kernel and how is not None and how.inputs is not None:
            self.input_quantizer = FakeQuantize(how.inputs, self.channel_axis, name="input_quantizer")
        if self._has_kernel and how is not None and how.weights is not None:
            self.kernel_quantizer = FakeQuantize(how.weights, name="kernel_quantizer")
        self.output_quantizer = self.make_output_quantizer(ITSELF)
        self.activation_quantizers = {
            part: self.make_output_quantizer(part, f"{part}_quantizer") for part in self._activation_parts
        }
        self.correction = None  # a `BiasCorrection` while `correct_biases` runs
        self.finish_parts()

    @property
    def quantizable_parts(self):
        return wrappable_parts(self.layer)

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
        output_shape = self.compute_output_shape(input_shape)
        if self.input_quantizer is not None:
            self.input_quantizer.build(input_shape)
        if self.kernel_quantizer is not None:
            self.kernel_quantizer.build(self.float_kernel().shape)
        for quantizer in (self.output_quantizer, *self.activation_quantizers.values()):
            if quantizer is not None:
                quantizer.build(output_shape)

    def call(self, inputs, training=False):
        outputs = ops.cast(inputs, self.layer.compute_dtype)
        if ITSELF in self.quantizable_parts:
            outputs = self._compute_itself(outputs, training)
        before = outputs
        for part in self._activation_parts:
            outputs = self._compute_activation(part, outputs, before, training)
        return outputs

    def compute_part(self, part, *inputs):
        if part == ITSELF:
            return self._compute_itself(*inputs)
        return self._compute_activation(part, inputs[0], inputs[-1])

    def _compute_itself(self, inputs, training=False):
        if self.input_quantizer is not None:
            inputs = self.input_quantizer(inputs, training=training)
        if self._has_kernel:
            outputs = self._compute_sums(inputs, training)
        elif isinstance(self.layer, layers.BatchNormalization):
            outputs = self.layer(self._through_ones(inputs), training=training)
        else:
            outputs = inputs
        activation = getattr(self.layer, "activation", None)
        if activation in FUSED_ACTIVATIONS:
            outputs = activation(outputs)
        return outputs if self.output_quantizer is None else self.output_quantizer(outputs, training=training)

    def _compute_activation(self, part, outputs, before, training=False):
        with keras.name_scope(part):  # exporters tell operators by it
            outputs = self._activation_parts[part](outputs, before)
        quantizer = self.activation_quantizers[part]
        return outputs if quantizer is None else quantizer(outputs, training=training)

    def _compute_sums(self, inputs, training):
        """The convolution and its bias."""
        maps = self._as_maps(inputs)
        if self.correction is not None:
            outputs = self.correction.convolve(self, maps, self._convolve)
        else:
            outputs = self._convolve(maps, self.quantized_kernel(training))
        if self.use_bias:
            along_channels = [1, 1, 1, 1]
            along_channels[self.channel_axis] = -1
            outputs = outputs + ops.reshape(ops.cast(self.bias, outputs.dtype), along_channels)
        return self._as(inputs, outputs)

    def _convolve(self, inputs, kernel):
        """`inputs` as maps, with the kernel as `float_kernel` has it."""
        layer, kernel = self.layer, ops.cast(kernel, inputs.dtype)
        if isinstance(layer, layers.Dense):
            return ops.conv(inputs, kernel, data_format="channels_last")
        how = (layer.strides, layer.padding, layer.data_format, layer.dilation_rate)
        if isinstance(layer, layers.DepthwiseConv2D):
            return ops.depthwise_conv(inputs, ops.reshape(kernel, layer.kernel.shape), *how)
        return ops.conv(inputs, kernel, *how)

    def _through_ones(self, inputs):
        """`inputs`, convolved with a kernel of ones: what an integer converter can fold a normalisation into."""
        maps = self._as_maps(inputs)
        channels_first = self.layer.axis == 1 and len(inputs.shape) == 4
        ones = ops.ones((1, 1, maps.shape[1 if channels_first else -1], 1), maps.dtype)
        data_format = "channels_first" if channels_first else "channels_last"
        return self._as(inputs, ops.depthwise_conv(maps, ones, data_format=data_format))

    def _as_maps(self, inputs):
        """Vectors, or sequences of them, as maps of one column."""
        if len(inputs.shape) == 4:
            return inputs
        _, *steps, channels = ops.shape(inputs)
        return ops.reshape(inputs, (-1, math.prod(steps), 1, channels))

    def _as(self, inputs, maps):
        """`maps` with as many axes as `inputs`."""
        if len(inputs.shape) == 4:
            return maps
        _, *steps, _ = ops.shape(inputs)
        return ops.reshape(maps, (-1, *steps, maps.shape[-1]))

    def float_kernel(self):
        """The kernel before rounding, `(height, width, inputs, outputs)`: one channel of the result an index."""
        kernel = self.layer.kernel
        if isinstance(self.layer, layers.Dense):
            return ops.expand_dims(kernel, (0, 1))
        if isinstance(self.layer, layers.DepthwiseConv2D):
            height, width, channels, multiplier = kernel.shape
            return ops.reshape(kernel, (height, width, 1, channels * multiplier))
        return ops.convert_to_tensor(kernel)

    def quantized_kernel(self, training=False):
        """`float_kernel()`, rounded if this layer is quantised."""
        kernel = self.float_kernel()
        return kernel if self.kernel_quantizer is None else self.kernel_quantizer(kernel, training=training)

    def update_weight_ranges(self):
        """Sets the kernel quantiser's range from the kernel as it is now."""
        if self.kernel_quantizer is not None:
            self.kernel_quantizer.set_range_from(self.float_kernel())

    def widen_weight_ranges(self):
        """Widens the kernel's range in channels that died in training, as `ConvNormAct.widen_weight_ranges` does."""
        if self.kernel_quantizer is not None:
            self.kernel_quantizer.widen_range(least_kernel_range(self.norm, self.bias))

    @property
    def norm(self):
        """The batch normalisation that a converter folds into this layer's kernel, or None."""
        readers = {node.operation for node in self._outbound_nodes}
        only = readers.pop() if len(readers) == 1 else None
        folds = isinstance(only, layers.BatchNormalization) and self.output_quantizer is None
        return only if folds and self._has_kernel else None

    @property
    def use_bias(self):
        return self.layer.use_bias

    @property
    def bias(self):
        return self.layer.bias

    @property
    def channel_axis(self):
        """Axis of the channels in the maps that the kernel gives."""
        return 1 if getattr(self.layer, "data_format", None) == "channels_first" else -1

    @property
    def _has_kernel(self):
        return isinstance(self.layer, KERNEL_LAYERS)

    @property
    def _activation_parts(self):
        return ACTIVATION_PARTS.get(getattr(self.layer, "activation", None), {})

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.layer.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return super().from_config({**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})
