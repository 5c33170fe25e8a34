"""`ConvNormAct`: the one room where convolution, normalisation, activation and quantisation meet."""

import keras
from keras import ops

from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import QuantizableLayer

PADDINGS = ("same", "symmetric")


@keras.saving.register_keras_serializable(package="keras_mnv4")
class ConvNormAct(QuantizableLayer):
    """A convolution, dense or depthwise, then batch normalisation, then an activation.

    Every convolution of every network in this package is one of these. With `quantization` the kernel is
    fake-quantised before the convolution and the result after the activation, never in between, so that an integer
    converter can fold the normalisation into the kernel.

    Args:
        filters: output channels. A depthwise convolution keeps its channels: leave it None there.
        kernel_size: height and width of the kernel, odd.
        strides: step in both directions.
        depthwise: filter each channel on its own.
        use_norm: normalise with `keras.layers.BatchNormalization`.
        norm_momentum: momentum of its moving averages.
        norm_epsilon: added to its variance.
        use_bias: add a bias to the convolution.
        activation: name or function, None for linear.
        padding: `"same"` pads as TensorFlow does, more at the bottom and right when strides leave a remainder;
            `"symmetric"` pads `kernel_size // 2` on all sides, as PyTorch models do. They differ where `strides > 1`.
        kernel_initializer: initialiser of the kernel.
        kernel_regularizer: regulariser of the kernel.
        data_format: `"channels_last"` or `"channels_first"`; default, Keras's global setting.
        **kwargs: `quantization`, a `keras_mnv4.qat.LayerQuantization` or None for a float layer; and those of
            `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`.
    Output shape: the same with `filters` channels and `ceil(size / strides)` rows and columns.

    Example:

    >>> ConvNormAct(32, kernel_size=3, strides=2, activation="relu")(np.zeros((1, 224, 224, 3))).shape
    (1, 112, 112, 32)
    """

    def __init__(
        self,
        filters=None,
        kernel_size=1,
        strides=1,
        *,
        depthwise=False,
        use_norm=True,
        norm_momentum=0.9,
        norm_epsilon=1e-3,
        use_bias=False,
        activation=None,
        padding="same",
        kernel_initializer="he_normal",
        kernel_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if depthwise != (filters is None):
            raise ValueError(
                "`filters` must be given for a dense convolution and left out for a depthwise one. "
                f"Received: filters={filters}, depthwise={depthwise}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be a positive odd number. Received: kernel_size={kernel_size}")
        if padding not in PADDINGS:
            raise ValueError(f"`padding` must be one of {PADDINGS}. Received: padding={padding!r}")
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.depthwise = depthwise
        self.use_norm = use_norm
        self.norm_momentum = norm_momentum
        self.norm_epsilon = norm_epsilon
        self.use_bias = use_bias
        self.activation = keras.activations.get(activation)
        self.padding = padding
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format

        self._channel_axis = -1 if self.data_format == "channels_last" else 1
        self.norm = self.kernel_quantizer = None
        if use_norm:
            self.norm = keras.layers.BatchNormalization(
                axis=self._channel_axis,
                momentum=norm_momentum,
                epsilon=norm_epsilon,
                dtype=self.dtype_policy,
                name="norm",
            )
        if self.quantization is not None and self.quantization.weights is not None:
            self.kernel_quantizer = FakeQuantize(self.quantization.weights, name="kernel_quantizer")
        self.output_quantizer = self.make_output_quantizer(ITSELF)

    def build(self, input_shape):
        channels = input_shape[self._channel_axis]
        if channels is None:
            raise ValueError(f"Layer `{self.name}` needs a known number of channels. Received: {input_shape}")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, channels, 1 if self.depthwise else self.filters),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            autocast=False,  # in mixed precision the kernel is quantised before it is halved
        )
        output_shape = self.compute_output_shape(input_shape)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(output_shape[self._channel_axis],), initializer="zeros")
        if self.norm is not None:
            self.norm.build(output_shape)
        if self.kernel_quantizer is not None:
            self.kernel_quantizer.build(self._channels_at_end(self.kernel).shape)
        if self.output_quantizer is not None:
            self.output_quantizer.build(output_shape)

    def call(self, inputs, training=False):
        kernel = ops.cast(self._quantized_kernel(training), self.compute_dtype)
        padding = "same"
        if self.padding == "symmetric" and self.strides > 1:
            inputs, padding = self._pad(inputs), "valid"
        convolve = ops.depthwise_conv if self.depthwise else ops.conv
        outputs = convolve(inputs, kernel, self.strides, padding, data_format=self.data_format)
        if self.use_bias:
            outputs = outputs + self._along_channels(self.bias)
        if self.norm is not None:
            outputs = self.norm(outputs, training=training)
        if self.activation is not None:
            outputs = self.activation(outputs)
        if self.output_quantizer is not None:
            outputs = self.output_quantizer(outputs, training=training)
        return outputs

    def update_weight_ranges(self):
        """Sets the kernel quantiser's range from the kernel as it is now."""
        if self.kernel_quantizer is not None:
            self.kernel_quantizer.set_range_from(self._channels_at_end(self.kernel))

    def count_macs(self, input_shape):
        """Multiply-accumulates of one forward pass of a batch of one."""
        _, *spatial_and_channels = self.compute_output_shape(input_shape)
        values = 1
        for size in spatial_and_channels:
            values *= size
        per_value = self.kernel_size**2 * (1 if self.depthwise else input_shape[self._channel_axis])
        return values * per_value

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        for axis in self._spatial_axes:
            shape[axis] = None if shape[axis] is None else -(-shape[axis] // self.strides)
        if not self.depthwise:
            shape[self._channel_axis] = self.filters
        return tuple(shape)

    def _quantized_kernel(self, training):
        if self.kernel_quantizer is None:
            return self.kernel
        kernel = self._channels_at_end(self.kernel)
        return self._channels_at_end(self.kernel_quantizer(kernel, training=training))

    def _channels_at_end(self, kernel):
        """Swaps a depthwise kernel's last two axes, (h, w, channels, 1), so that channels come last; and back."""
        return ops.transpose(kernel, (0, 1, 3, 2)) if self.depthwise else kernel

    def _pad(self, inputs):
        margins = [(0, 0)] * 4
        for axis in self._spatial_axes:
            margins[axis] = (self.kernel_size // 2,) * 2
        return ops.pad(inputs, margins)

    def _along_channels(self, vector):
        return vector if self.data_format == "channels_last" else ops.reshape(vector, (1, -1, 1, 1))

    @property
    def _spatial_axes(self):
        return (1, 2) if self.data_format == "channels_last" else (2, 3)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "depthwise": self.depthwise,
            "use_norm": self.use_norm,
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
            "padding": self.padding,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "data_format": self.data_format,
        }
