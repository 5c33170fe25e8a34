"""`ConvNormAct`: the one room where convolution, normalisation, activation and quantisation meet."""

import functools

import keras
import numpy as np
from keras import ops

from keras_mnv4.layers.arguments import PADDINGS
from keras_mnv4.layers.arguments import check_anti_aliasing
from keras_mnv4.layers.arguments import check_kernel_size
from keras_mnv4.layers.arguments import check_one_of
from keras_mnv4.layers.arguments import check_whole
from keras_mnv4.layers.feature_map import FeatureMapLayer
from keras_mnv4.layers.layer_scale import LayerScale
from keras_mnv4.layers.quant_norm import QuantNorm
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import least_kernel_range
from keras_mnv4.qat.quantizers import fake_quantize
from keras_mnv4.qat.stock.wrapper import FUSED_ACTIVATIONS

BLUR = (0.25, 0.5, 0.25)  # the binomial filter of three taps
BLUR_RANGE = 127 / (31 * 16)  # of its integer form, whose codes are then exact: 31, 62 and 124
ACTIVATION = "activation"  # the part that is an activation too complex to be an end of the convolution's operator
DOWNSAMPLE = "downsample"  # the part that pools or blurs


@keras.saving.register_keras_serializable(package="keras_mnv4")
class ConvNormAct(FeatureMapLayer):
    """A convolution, dense or depthwise, then batch normalisation, then an activation.

    Every convolution of every network in this package is one of these. With `quantization` the kernel is
    fake-quantised before the convolution and the result after the activation, never in between, so that an integer
    converter can fold the normalisation into the kernel. Where a policy says so, what comes in is rounded, too.

    Args:
        filters: output channels. A depthwise convolution keeps its channels: leave it None there.
        kernel_size: height and width of the kernel, odd.
        strides: step in both directions.
        depthwise: filter each channel on its own.
        use_norm: normalise with `keras.layers.BatchNormalization`.
        norm_momentum: momentum of its moving averages.
        norm_epsilon: added to its variance.
        gamma_initializer: initialiser of its scales.
        use_bias: add a bias to the convolution.
        layer_scale: start value of a learned factor for each channel behind the normalisation, None for none.
        kernel_factor: constant that multiplies the kernel: a scaling of the result that costs nothing.
        activation: name or function, None for linear.
        anti_aliasing: how strides of 2 are taken. None: by the convolution. Otherwise it runs at stride 1, and behind
            the activation comes `"average"`, 2x2 average pooling, or `"blur"`, a binomial filter of three taps
            (Zhang, "Making Convolutional Networks Shift-Invariant Again", arXiv 1904.11486).
        padding: `"same"` pads as TensorFlow does, more at the bottom and right when strides leave a remainder;
            `"symmetric"` pads `kernel_size // 2` on all sides, as PyTorch models do. They differ where `strides > 1`.
        kernel_initializer: initialiser of the kernel.
        kernel_regularizer: regulariser of the kernel.
        data_format: `"channels_last"` or `"channels_first"`; default, Keras's global setting.
        **kwargs: `quantization`, a `keras_mnv4.qat.LayerQuantization` or None for a float layer; and those of
            `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`.
    Output shape: the same with `filters` channels and `ceil(size / strides)` rows and columns; average pooling leaves
    out an odd last one.

    Raises:
        ValueError: if `filters` is left out of a dense convolution or given to a depthwise one, if a number is out of
            its range or a word not known, or if anti-aliasing is to take strides above 2; once built, if the number of
            channels that come in is not known.

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
        gamma_initializer="ones",
        use_bias=False,
        layer_scale=None,
        kernel_factor=1.0,
        activation=None,
        anti_aliasing=None,
        padding="same",
        kernel_initializer="he_normal",
        kernel_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(data_format, **kwargs)
        if depthwise != (filters is None):
            raise ValueError(
                "`filters` must be given for a dense convolution and left out for a depthwise one. "
                f"Received: filters={filters}, depthwise={depthwise}"
            )
        if not depthwise:
            check_whole("filters", filters)
        check_kernel_size("kernel_size", kernel_size)
        check_whole("strides", strides)
        check_one_of("padding", padding, PADDINGS)
        check_anti_aliasing(anti_aliasing, strides)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.depthwise = depthwise
        self.use_norm = use_norm
        self.norm_momentum = norm_momentum
        self.norm_epsilon = norm_epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.use_bias = use_bias
        self.layer_scale = layer_scale
        self.kernel_factor = kernel_factor
        self.activation = keras.activations.get(activation)
        self.anti_aliasing = anti_aliasing
        self.padding = padding
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

        how = self.part_quantization(ITSELF)
        self.norm = self.scale = self.input_quantizer = self.kernel_quantizer = self.linear_quantizer = None
        if use_norm:
            is_plain = how is None or how.norm is None
            make_norm = keras.layers.BatchNormalization if is_plain else functools.partial(QuantNorm, how.norm)
            self.norm = make_norm(
                axis=self.channel_axis,
                momentum=norm_momentum,
                epsilon=norm_epsilon,
                gamma_initializer=self.gamma_initializer,
                dtype=self.dtype_policy,
                name="norm",
            )
        if layer_scale is not None:
            self.scale = LayerScale(layer_scale, axis=self.channel_axis, dtype=self.dtype_policy, name="scale")
        if how is not None and how.inputs is not None:
            self.input_quantizer = FakeQuantize(how.inputs, self.channel_axis, name="input_quantizer")
        if how is not None and how.weights is not None:
            self.kernel_quantizer = FakeQuantize(how.weights, name="kernel_quantizer")
        self.output_quantizer = self.make_output_quantizer(ITSELF)
        if self.activation not in FUSED_ACTIVATIONS:
            self.linear_quantizer = self.make_output_quantizer(ITSELF, name="linear_quantizer")
        self.correction = None  # a `BiasCorrection` while `correct_biases` runs
        self.finish_parts()

    @property
    def operator_parts(self):
        parts = [ITSELF]
        if self.linear_quantizer is not None:
            parts.append(ACTIVATION)
        if self.conv_strides != self.strides:
            parts.append(DOWNSAMPLE)
        return tuple(parts)

    def compute_part(self, part, *inputs):
        if part == DOWNSAMPLE:
            return self._downsample(*inputs)
        if part == ACTIVATION:
            return self._activate(*inputs)
        outputs = self._convolve_and_normalize(*inputs)
        return outputs if self.linear_quantizer is not None else self._activate(outputs)

    def build(self, input_shape):
        channels = input_shape[self.channel_axis]
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
            self.bias = self.add_weight(name="bias", shape=(output_shape[self.channel_axis],), initializer="zeros")
        if self.norm is not None:
            self.norm.build(output_shape)
        if self.scale is not None:
            self.scale.build(output_shape)
        if self.input_quantizer is not None:
            self.input_quantizer.build(input_shape)
        if self.kernel_quantizer is not None:
            self.kernel_quantizer.build(self._channels_at_end(self.kernel).shape)
        for quantizer in (self.linear_quantizer, self.output_quantizer):
            if quantizer is not None:
                quantizer.build(output_shape)

    def call(self, inputs, training=False):
        outputs = self._activate(self._convolve_and_normalize(inputs, training), training)
        return outputs if self.conv_strides == self.strides else self._downsample(outputs)

    def _convolve_and_normalize(self, inputs, training=False):
        if self.input_quantizer is not None:
            inputs = self.input_quantizer(inputs, training=training)
        if self.correction is not None:
            outputs = self.correction.convolve(self, inputs, self._convolve)
        else:
            outputs = self._convolve(inputs, self.quantized_kernel(training))
        if self.use_bias:
            outputs = outputs + self._along_channels(self.bias)
        if self.norm is not None:
            outputs = self.norm(outputs, training=training)
        if self.scale is not None:
            outputs = self.scale(outputs)
        if self.linear_quantizer is not None:
            outputs = self.linear_quantizer(outputs, training=training)
        return outputs

    def _activate(self, inputs, training=False):
        with keras.name_scope(ACTIVATION):  # by which exporters know what comes from here
            outputs = self.activation(inputs)
        return outputs if self.output_quantizer is None else self.output_quantizer(outputs, training=training)

    def _convolve(self, inputs, kernel):
        kernel = ops.cast(kernel, self.compute_dtype)
        padding = "same"
        if self.padding == "symmetric" and self.conv_strides > 1:
            inputs, padding = self._pad(inputs, self.kernel_size // 2), "valid"
        convolve = ops.depthwise_conv if self.depthwise else ops.conv
        return convolve(inputs, kernel, self.conv_strides, padding, data_format=self.data_format)

    def update_weight_ranges(self):
        """Sets the kernel quantiser's range from the kernel as it is now."""
        if self.kernel_quantizer is not None:
            self.kernel_quantizer.set_range_from(self._channels_at_end(self.float_kernel()))

    def widen_weight_ranges(self):
        """Widens the kernel's range in channels that died in training: a kernel near zero beside a bias that is not.

        An integer bias counts in products of the scales of inputs and kernel. With the scale of such a kernel it would
        need more than 32 bits. With the wider range the kernel is rounded to zero, which no output can show.
        """
        if self.kernel_quantizer is not None:
            bias = self.bias if self.use_bias else None
            self.kernel_quantizer.widen_range(least_kernel_range(self.norm, bias))

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        for axis in self._spatial_axes:
            if shape[axis] is not None:
                excess = 0 if self.anti_aliasing == "average" else self.strides - 1
                shape[axis] = (shape[axis] + excess) // self.strides
        if not self.depthwise:
            shape[self.channel_axis] = self.filters
        return tuple(shape)

    def float_kernel(self):
        """The kernel that is convolved with, before rounding."""
        return self.kernel if self.kernel_factor == 1 else self.kernel * self.kernel_factor

    def quantized_kernel(self, training=False):
        """The kernel that is convolved with, rounded if this layer is quantised."""
        if self.kernel_quantizer is None:
            return self.float_kernel()
        kernel = self._channels_at_end(self.float_kernel())
        return self._channels_at_end(self.kernel_quantizer(kernel, training=training))

    def _channels_at_end(self, kernel):
        """Of a depthwise convolution, `kernel` (h, w, channels, 1) with channels last; and back."""
        return _swap_last_axes(kernel) if self.depthwise else kernel

    @property
    def conv_strides(self):
        """The strides of the convolution itself, which anti-aliasing takes over."""
        return self.strides if self.anti_aliasing is None else 1

    def _downsample(self, inputs):
        with keras.name_scope(DOWNSAMPLE):
            if self.anti_aliasing == "average":
                outputs = ops.average_pool(inputs, 2, 2, "valid", data_format=self.data_format)
            else:
                kernel = ops.cast(self._blur_kernel(inputs.shape[self.channel_axis]), inputs.dtype)
                padded = self._pad(inputs, 1)
                outputs = ops.depthwise_conv(padded, kernel, 2, "valid", data_format=self.data_format)
        # Both forms keep the range, and the operator of the one must keep the scale.
        return outputs if self.output_quantizer is None else self.output_quantizer.round_again(outputs)

    def _blur_kernel(self, channels):
        kernel = np.tile(np.outer(BLUR, BLUR)[:, :, None, None], (1, 1, 1, channels)).astype("float32")
        if self.output_quantizer is not None:
            end = np.full(channels, BLUR_RANGE, "float32")
            kernel = fake_quantize(kernel, -end, end, num_bits=8, narrow_range=True, per_axis=True)
        return _swap_last_axes(kernel)

    def _along_channels(self, vector):
        return vector if self.data_format == "channels_last" else ops.reshape(vector, (1, -1, 1, 1))

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
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "use_bias": self.use_bias,
            "layer_scale": self.layer_scale,
            "kernel_factor": self.kernel_factor,
            "activation": keras.activations.serialize(self.activation),
            "anti_aliasing": self.anti_aliasing,
            "padding": self.padding,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def _swap_last_axes(kernel):
    return ops.transpose(kernel, (0, 1, 3, 2))
