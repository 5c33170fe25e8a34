"""Mobile MQA: attention over the pixels of a feature map, with keys and values that all heads share."""

import keras
from keras import ops

from keras_mnv4.layers.arguments import PADDINGS
from keras_mnv4.layers.arguments import check_one_of
from keras_mnv4.layers.arguments import check_unused
from keras_mnv4.layers.arguments import check_whole
from keras_mnv4.layers.batch_norm import BatchNorm
from keras_mnv4.layers.conv import ConvNormAct
from keras_mnv4.layers.feature_map import FeatureMapLayer
from keras_mnv4.layers.residual import ResidualChain
from keras_mnv4.qat.quantizable import ITSELF

DOWN_KERNEL = 3  # kernel size of the convolutions that make the map of keys or values smaller
PRODUCTS = ("logits", "softmax", "context")  # the parts of attention that have no weights
UNUSED = {"strides": 1, "activation": "relu", "anti_aliasing": None}  # by the block, as files have it


@keras.saving.register_keras_serializable(package="keras_mnv4")
class SpatialAttention(FeatureMapLayer):
    """Attention of each pixel to all pixels, the projections being 1x1 convolutions.

    With one head of keys and values for all heads of queries, the default, it is multi-query attention; with as many
    as there are query heads, multi-head attention; between, grouped-query attention. Keys and values can come from a
    map that is smaller than that of the queries (asymmetric spatial down-sampling).

    A query tensor of shape (pixels, heads * dim) is, without moving a number, one of (pixels * heads, dim): with one
    key head nothing is transposed. The scale 1 / sqrt(dim) of the logits is in the kernel of the query projection.

    Source: MobileNetV4 (arXiv 2404.10518), section 4, "Mobile MQA"; Shazeer, "Fast Transformer Decoding: One Write-Head
    is All You Need" (arXiv 1911.02150).

    Args:
        filters: output channels.
        num_heads: heads of queries.
        key_dim: channels of a head.
        kv_heads: heads of keys and values; divides `num_heads`.
        query_strides: the queries are averaged over squares of this side, and the result is scaled up again.
        kv_strides: step of the depthwise convolutions, one for keys and one for values, that make their map smaller; 1
            for none.
        layer_scale: start value of a learned factor for each output channel, None for none.
        padding: `"same"` or `"symmetric"`, as for `ConvNormAct`.
        norm_momentum: momentum of every batch normalisation.
        norm_epsilon: epsilon of every batch normalisation.
        data_format: `"channels_last"` or `"channels_first"`; default, Keras's global setting.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`; height and width may be
    unknown. Output shape: the same with `filters` channels.

    Raises:
        ValueError: if `kv_heads` does not divide `num_heads`, if a number is not above 0, or the padding not known.

    Example:

    >>> SpatialAttention(64, num_heads=4, key_dim=16, kv_strides=2)(np.zeros((1, 14, 12, 64))).shape
    (1, 14, 12, 64)
    """

    def __init__(
        self,
        filters,
        num_heads,
        key_dim,
        *,
        kv_heads=1,
        query_strides=1,
        kv_strides=1,
        layer_scale=None,
        padding="same",
        norm_momentum=0.9,
        norm_epsilon=1e-3,
        data_format=None,
        **kwargs,
    ):
        super().__init__(data_format, **kwargs)
        check_whole("filters", filters)
        check_one_of("padding", padding, PADDINGS)
        _check_attention(num_heads, key_dim, kv_heads, query_strides, kv_strides)
        self.filters = filters
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.kv_heads = kv_heads
        self.query_strides = query_strides
        self.kv_strides = kv_strides
        self.layer_scale = layer_scale
        self.padding = padding
        self.norm_momentum = norm_momentum
        self.norm_epsilon = norm_epsilon

        self.query_norm = self.key_down = self.value_down = None
        if query_strides > 1:
            self.query_norm = keras.layers.BatchNormalization(
                axis=self.channel_axis,
                momentum=norm_momentum,
                epsilon=norm_epsilon,
                dtype=self.dtype_policy,
                name="query_norm",
            )
        self.query = self._project("query", num_heads * key_dim, kernel_factor=key_dim**-0.5)
        if kv_strides > 1:
            self.key_down, self.value_down = self._down("key_down"), self._down("value_down")
        self.key = self._project("key", kv_heads * key_dim)
        self.value = self._project("value", kv_heads * key_dim)
        self.output_projection = self._project("output", filters, layer_scale=layer_scale)
        self.quantizers = {part: self.make_output_quantizer(part, f"{part}_quantizer", axis=-1) for part in PRODUCTS}
        self.finish_parts()

    @property
    def obstacle(self):
        if self.kv_heads > 1:
            return "several heads of keys"
        return "query strides" if self.query_strides > 1 else None

    @property
    def quantizable_parts(self):
        return (*(layer.name for layer in self.convolutions), *PRODUCTS)

    def compute_part(self, part, *inputs):
        if part in PRODUCTS:
            return self._compute(part, *inputs)
        (layer,) = (layer for layer in self.convolutions if layer.name == part)
        return layer.compute_part(ITSELF, *inputs)

    def _compute(self, part, *inputs, training=False):
        with keras.name_scope(part):  # by which exporters know what comes from here
            outputs = ops.softmax(*inputs) if part == "softmax" else _product(*inputs)
        quantizer = self.quantizers[part]
        return outputs if quantizer is None else quantizer(outputs, training=training)

    @property
    def convolutions(self):
        """All convolutions, in order."""
        layers = (self.query, self.key_down, self.key, self.value_down, self.value, self.output_projection)
        return [layer for layer in layers if layer is not None]

    def build(self, input_shape):
        if self.query_norm is not None:
            self.query_norm.build(input_shape)
        self.query.build(input_shape)
        kv_shape = input_shape
        if self.kv_strides > 1:
            self.key_down.build(input_shape)
            self.value_down.build(input_shape)
            kv_shape = self.key_down.compute_output_shape(input_shape)
        self.key.build(kv_shape)
        self.value.build(kv_shape)
        self.output_projection.build(self.query.compute_output_shape(input_shape))
        for quantizer in self.quantizers.values():
            if quantizer is not None:
                quantizer.build((None, None, None))

    def call(self, inputs, training=False):
        query_inputs, key_inputs, value_inputs = inputs, inputs, inputs
        if self.query_norm is not None:
            step = self.query_strides
            query_inputs = ops.average_pool(inputs, step, step, "same", data_format=self.data_format)
            query_inputs = self.query_norm(query_inputs, training=training)
        if self.kv_strides > 1:
            key_inputs = self.key_down(inputs, training=training)
            value_inputs = self.value_down(inputs, training=training)
        queries = self._channels_last(self.query(query_inputs, training=training))
        keys = self._channels_last(self.key(key_inputs, training=training))
        values = self._channels_last(self.value(value_inputs, training=training))
        outputs = ops.reshape(self._attend(queries, keys, values, training), ops.shape(queries))
        if self.query_strides > 1:
            outputs = self._scale_up(outputs, ops.shape(inputs))
        if self.data_format == "channels_first":
            outputs = ops.transpose(outputs, (0, 3, 1, 2))
        return self.output_projection(outputs, training=training)

    def _attend(self, queries, keys, values, training):
        """The weighted values, in the order of `queries` but of any shape."""
        batch = ops.shape(queries)[0]
        if self.kv_heads == 1:
            # Pixel and head in one axis. XNNPACK takes batched products of two computed tensors, but only in float;
            # in integers, and without an axis of pictures, converters make fully connected layers of them.
            is_flat = queries.shape[0] == 1 and self.quantizers["context"] is not None
            shape = (-1, self.key_dim) if is_flat else (batch, -1, self.key_dim)
            queries, keys, values = (ops.reshape(heads, shape) for heads in (queries, keys, values))
            values = ops.swapaxes(values, -1, -2)
            if is_flat and self.value.output_quantizer is not None:
                # Rounded already: this only keeps converters from undoing the transposition.
                values = self.value.output_quantizer.round_again(values)
            logits = self._compute("logits", queries, keys, training=training)
            weights = self._compute("softmax", logits, training=training)
            return self._compute("context", weights, values, training=training)
        queries = ops.reshape(queries, (batch, -1, self.kv_heads, self.num_heads // self.kv_heads, self.key_dim))
        keys, values = (ops.reshape(heads, (batch, -1, self.kv_heads, self.key_dim)) for heads in (keys, values))
        weights = ops.softmax(ops.einsum("bqghd,bkgd->bqghk", queries, keys))
        return ops.einsum("bqghk,bkgd->bqghd", weights, values)

    def _scale_up(self, outputs, shape):
        """Bilinear interpolation of `outputs` to the height and width of `shape`, which need not be known."""
        height, width = (shape[axis] for axis in self._spatial_axes)
        _, rows, columns, _ = ops.shape(outputs)
        outputs = ops.einsum("yr,brxc->byxc", self._interpolation(height, rows, outputs.dtype), outputs)
        return ops.einsum("xr,byrc->byxc", self._interpolation(width, columns, outputs.dtype), outputs)

    def _interpolation(self, size, small, dtype):
        """The matrix `(size, small)` of linear interpolation from `small` points to `size`, between pixels' centres."""
        steps = float(self.query_strides)
        last = ops.cast(small, "float32") - 1
        places = (ops.arange(size, dtype="float32") + 0.5) / steps - 0.5
        places = ops.minimum(ops.maximum(places, 0.0), last)
        distances = ops.abs(places[:, None] - ops.arange(small, dtype="float32"))
        return ops.cast(ops.relu(1 - distances), dtype)

    def _project(self, name, channels, **arguments):
        return ConvNormAct(
            channels,
            use_norm=False,
            kernel_initializer="glorot_uniform",  # under which hybrids train more stably than under He's
            data_format=self.data_format,
            quantization=self.part_quantization(name),
            dtype=self.dtype_policy,
            name=name,
            **arguments,
        )

    def _down(self, name):
        return ConvNormAct(
            kernel_size=DOWN_KERNEL,
            strides=self.kv_strides,
            depthwise=True,
            padding=self.padding,
            norm_momentum=self.norm_momentum,
            norm_epsilon=self.norm_epsilon,
            kernel_initializer="glorot_uniform",
            data_format=self.data_format,
            quantization=self.part_quantization(name),
            dtype=self.dtype_policy,
            name=name,
        )

    def _channels_last(self, inputs):
        return inputs if self.data_format == "channels_last" else ops.transpose(inputs, (0, 2, 3, 1))

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        shape[self.channel_axis] = self.filters
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "kv_heads": self.kv_heads,
            "query_strides": self.query_strides,
            "kv_strides": self.kv_strides,
            "layer_scale": self.layer_scale,
            "padding": self.padding,
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
        }


def _check_attention(num_heads, key_dim, kv_heads, query_strides, kv_strides):
    """Raises unless all are whole numbers above 0, and `kv_heads` divides `num_heads`."""
    check_whole("num_heads", num_heads)
    check_whole("key_dim", key_dim)
    check_whole("kv_heads", kv_heads)
    check_whole("query_strides", query_strides)
    check_whole("kv_strides", kv_strides)
    if num_heads % kv_heads:
        raise ValueError(f"`kv_heads` must divide `num_heads`. Received: {kv_heads=}, {num_heads=}")


def _product(rows, columns):
    """The matrix of the products of all rows with all columns, each a row of its matrix."""
    return ops.matmul(rows, ops.swapaxes(columns, -1, -2))


@keras.saving.register_keras_serializable(package="keras_mnv4")
class MobileMQA(ResidualChain):
    """The attention block of MobileNetV4's hybrids: normalisation, attention, and the sum with the input.

    Source: MobileNetV4 (arXiv 2404.10518), section 4, "Mobile MQA".

    Args:
        filters: output channels.
        num_heads: heads of queries.
        key_dim: channels of a head.
        kv_heads: heads of keys and values: 1 for multi-query attention, `num_heads` for multi-head attention.
        query_strides: as for `SpatialAttention`.
        kv_strides: as for `SpatialAttention`.
        layer_scale: start value of a learned factor for each channel of the branch, None for none.
        **kwargs: `padding`, `norm_momentum`, `norm_epsilon`, `drop_path_rate`, `data_format` and `quantization`, as for
            `ResidualChain`; and those of `keras.layers.Layer`. With several heads of keys, or strided queries, it
            cannot be quantised.

    Input and output shapes: as for `SpatialAttention`. Height and width may be anything, known or not.

    Raises:
        ValueError: if it is given strides, an activation or anti-aliasing, which attention has no use for, and as for
            `SpatialAttention` and `ResidualChain`.

    Example:

    >>> MobileMQA(160, num_heads=4, key_dim=64, kv_strides=2)(np.zeros((1, 16, 16, 160))).shape
    (1, 16, 16, 160)
    """

    def __init__(
        self,
        filters,
        num_heads,
        key_dim,
        *,
        kv_heads=1,
        query_strides=1,
        kv_strides=1,
        layer_scale=None,
        **kwargs,
    ):
        check_unused(self, kwargs, UNUSED)
        super().__init__(filters, **kwargs)
        _check_attention(num_heads, key_dim, kv_heads, query_strides, kv_strides)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.kv_heads = kv_heads
        self.query_strides = query_strides
        self.kv_strides = kv_strides
        self.layer_scale = layer_scale

    def make_chain(self, in_channels):
        norm = BatchNorm(
            axis=self.channel_axis,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            quantization=self.part_quantization("norm"),
            dtype=self.dtype_policy,
            name="norm",
        )
        attention = SpatialAttention(
            self.filters,
            self.num_heads,
            self.key_dim,
            kv_heads=self.kv_heads,
            query_strides=self.query_strides,
            kv_strides=self.kv_strides,
            layer_scale=self.layer_scale,
            padding=self.padding,
            norm_momentum=self.norm_momentum,
            norm_epsilon=self.norm_epsilon,
            data_format=self.data_format,
            quantization=self.quantization_below("attention"),
            dtype=self.dtype_policy,
            name="attention",
        )
        return [norm, attention]

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "kv_heads": self.kv_heads,
            "query_strides": self.query_strides,
            "kv_strides": self.kv_strides,
            "layer_scale": self.layer_scale,
        }
