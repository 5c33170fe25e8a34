"""Layers that hold the weights of all candidates: what a `SuperNet` is made of.

Each stands for one row of a search space. It computes all that the row could be at its largest, and gates choose:
between the results where a part is of several kinds, and by masks where it has several numbers of channels.
"""

import keras
import numpy as np
from keras import ops

from keras_mnv4.applications.block_spec import MQA
from keras_mnv4.applications.block_spec import UIB
from keras_mnv4.applications.block_spec import Choice
from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.block_spec import FusedIB
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers.attention import SpatialAttention
from keras_mnv4.layers.batch_norm import BatchNorm
from keras_mnv4.layers.inverted_bottleneck import round_channels
from keras_mnv4.qat.quantizers import fake_quantize
from keras_mnv4.tuner.gates import Table
from keras_mnv4.tuner.gates import table_of
from keras_mnv4.tuner.space import BITS
from keras_mnv4.tuner.space import name_of

LEAST_RANGE = 1e-12  # of a kernel's channel: one of zeros has no grid


class SharedConv(ConvNormAct):
    """A `ConvNormAct` of which a candidate has the first channels, those that come in and those that go out.

    Channels that a candidate lacks are zero behind it. Where its candidates differ in bits, the kernel is rounded as
    `quantize_model` would round the candidate's own, which is a part of it.

    Args:
        inputs: `Table` of the channels that come in.
        outputs: `Table` of those that go out; None for a depthwise convolution.
        bits: pair of the decision on bits and its values; None for a kernel that is not rounded.
        **kwargs: those of `ConvNormAct`, but for `filters` and `depthwise`.
    """

    def __init__(self, inputs, outputs=None, bits=None, **kwargs):
        super().__init__(None if outputs is None else outputs.most, depthwise=outputs is None, **kwargs)
        outputs = inputs if outputs is None else outputs
        self.in_mask, self.out_mask = (
            None if channels.is_fixed else channels.mask(channels.most) for channels in (inputs, outputs)
        )
        self.bits = bits

    def call(self, inputs, parts, training=False):
        outputs = self._convolve(inputs, self.kernel if self.bits is None else self._rounded_kernel(parts))
        if self.norm is not None:
            outputs = self.norm(outputs, training=training)
        if self.scale is not None:
            outputs = self.scale(outputs)
        outputs = self.activation(outputs)
        if self.out_mask is None:
            return outputs
        return outputs * self._along_channels(ops.cast(self.out_mask.expect(parts), outputs.dtype))

    def _rounded_kernel(self, parts):
        decision, widths = self.bits
        kernel = ops.convert_to_tensor(self.kernel)
        if self.in_mask is not None:  # so that channels which a candidate lacks do not widen its range
            kernel = kernel * ops.reshape(self.in_mask.expect(parts), (1, 1, -1, 1))
        kernel = self._channels_at_end(kernel)
        ends = ops.stop_gradient(ops.maximum(ops.max(ops.abs(kernel), axis=(0, 1, 2)), LEAST_RANGE))
        rounded = [fake_quantize(kernel, -ends, ends, width, narrow_range=True, per_axis=True) for width in widths]
        shares = ops.cast(parts[decision], kernel.dtype)
        return self._channels_at_end(sum(shares[place] * each for place, each in enumerate(rounded)))


class SharedRow(keras.layers.Layer):
    """One kind of row of a search space. A subclass makes its layers in `make`, and gives its branch in `branch`.

    Args:
        row: the `BlockSpec`, with choices.
        path: its place in the space.
        space: the `SearchSpace`.
        channels: `Table` of the channels that come in.
        style: the `keras_mnv4.applications.network.Style` of all networks.
    """

    is_residual = True

    def __init__(self, row, path, space, channels, style, **kwargs):
        super().__init__(**kwargs)
        self.row, self.place, self.space = row, path, space
        self.channels = channels
        self.filters = self.table("filters")
        self.style = style
        name = f"{path}/{BITS}"
        self.bits = (name, space.decisions[name]) if name in space.decisions else None
        self.make()
        self.sum = None
        if self.is_residual and row.stride == 1:
            is_same = Table.combine(lambda before, after: before == after, channels, self.filters)
            self.sum = is_same if is_same.values.any() else None

    def make(self):
        """Makes the layers."""
        raise NotImplementedError(f"{type(self).__name__} must implement `make`")

    def branch(self, inputs, parts, training):
        """What is computed, without the sum with the input."""
        raise NotImplementedError(f"{type(self).__name__} must implement `branch`")

    def parts_of(self, row):
        """A dictionary from the parts of a block, as its layer calls them, to the layers with their weights.

        Args:
            row: one of the rows that this one stands for.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `parts_of`")

    def call(self, inputs, parts, training=False):
        outputs = self.branch(inputs, parts, training)
        if self.sum is None:
            return outputs
        shortcut = with_channels(inputs, self.filters.most, self.channel_axis)
        if not self.sum.is_fixed:
            shortcut = shortcut * ops.cast(self.sum.expect(parts), inputs.dtype)
        return shortcut + outputs

    def table(self, field):
        """The `Table` of a field of the row, a number."""
        return table_of(self.space, self.place, self.row, field)

    def conv(self, name, inputs, outputs=None, kernel_size=1, **kwargs):
        """A `SharedConv` in the style of the network."""
        return SharedConv(
            inputs,
            outputs,
            self.bits,
            kernel_size=kernel_size,
            name=name,
            dtype=self.dtype_policy,
            **self.style.common,
            **kwargs,
        )

    def depthwise(self, name, field, channels, **kwargs):
        """Depthwise convolutions, a dictionary from kernel size; without that of no size."""
        sizes = sorted({int(size) for size in self.table(field).values.flat} - {0})
        return {str(size): self.conv(f"{name}_{size}", channels, None, size, **kwargs) for size in sizes}

    def one_of(self, field, inputs, options, parts, training, without=None):
        """The result of one of `depthwise`, or of `without` where there is none: chosen, or mixed, by the gates."""
        value = getattr(self.row, field)
        results = {size: layer(inputs, parts, training=training) for size, layer in options.items()}
        if not isinstance(value, Choice):
            return results[str(value)] if value else inputs
        shares = parts[name_of(self.place, field, value)]
        mixed = 0.0
        for place, size in enumerate(value.values):
            result = results[str(size)] if size else without(inputs)
            mixed = mixed + result * ops.cast(shares[place], result.dtype)
        return mixed

    @property
    def channel_axis(self):
        """Axis of the channels, of four."""
        return 3 if keras.config.image_data_format() == "channels_last" else 1


class SharedConvRow(SharedRow):
    """A row `Conv`."""

    is_residual = False

    def make(self):
        how = {"strides": self.row.stride, "activation": self.style.activation}
        self.only = self.conv("conv", self.channels, self.filters, self.row.kernel, **how)

    def branch(self, inputs, parts, training):
        return self.only(inputs, parts, training=training)

    def parts_of(self, row):
        return {"": self.only}


class SharedFusedIB(SharedRow):
    """A row `FusedIB`."""

    def make(self):
        expanded = Table.combine(_expand, self.channels, self.table("expand"))
        how = {"strides": self.row.stride, "activation": self.style.activation}
        self.expand = self.conv("expand", self.channels, expanded, self.row.kernel, **how)
        self.project = self.conv("project", expanded, self.filters)

    def branch(self, inputs, parts, training):
        return self.project(self.expand(inputs, parts, training=training), parts, training=training)

    def parts_of(self, row):
        return {"expand": self.expand, "project": self.project}


class SharedUIB(SharedRow):
    """A row `UIB`: its two depthwise convolutions may each be there or not, and of several sizes.

    Without the middle one the starting one takes the stride. It then computes all pixels, and those are left out that
    a stride would have left out: the same numbers, while the weights serve candidates with the middle one, too.
    """

    def make(self):
        row, activation = self.row, self.style.activation
        if row.expand is None or (row.stride > 2 and row.middle != 0):
            raise ValueError(f"A supernet has no rows without expansion, or of strides above 2: {row}, `{self.place}`")
        expanded = Table.combine(_expand, self.channels, self.table("expand"))
        start_strides = row.stride if row.middle == 0 else 1
        self.starts = self.depthwise("start_depthwise", "start", self.channels, strides=start_strides)
        self.expand = self.conv("expand", self.channels, expanded, activation=activation)
        how = {"strides": row.stride, "activation": activation}
        self.middles = self.depthwise("middle_depthwise", "middle", expanded, **how)
        self.project = self.conv("project", expanded, self.filters, layer_scale=self.style.layer_scale)

    def branch(self, inputs, parts, training):
        outputs = self.one_of("start", inputs, self.starts, parts, training, without=lambda inputs: inputs)
        outputs = self.expand(outputs, parts, training=training)
        outputs = self.one_of("middle", outputs, self.middles, parts, training, without=self._leave_out_pixels)
        return self.project(outputs, parts, training=training)

    def _leave_out_pixels(self, inputs):
        """The pixels that the starting convolution would have computed at the block's stride."""
        step = self.row.stride
        if step == 1:
            return inputs
        axes = (1, 2) if self.channel_axis == 3 else (2, 3)
        where = [slice(None)] * 4
        for axis in axes:
            where[axis] = slice(self._first_pixel(inputs.shape[axis]), None, step)
        return inputs[tuple(where)]

    def _first_pixel(self, size):
        if self.style.definition.padding == "symmetric":
            return 0
        kernel = max(map(int, self.starts), default=3)  # of 3 or more: which one does not matter
        steps = -(-size // self.row.stride) - 1
        return kernel // 2 - max(steps * self.row.stride + kernel - size, 0) // 2

    def parts_of(self, row):
        parts = {"expand": self.expand, "project": self.project}
        if row.start:
            parts["start_depthwise"] = self.starts[str(row.start)]
        if row.middle:
            parts["middle_depthwise"] = self.middles[str(row.middle)]
        return parts


class SharedMQA(SharedRow):
    """A row `MQA`. Its kernels are not rounded, whatever the bits of a candidate."""

    def make(self):
        row = self.row
        if row.kv_stride > 1 and not self.channels.is_fixed:
            raise ValueError(
                f"A row `MQA` with `kv_stride` needs a fixed number of channels before it, at `{self.place}`: choose "
                "rows before it that all have the same `filters`."
            )
        self.in_mask, self.out_mask = (
            None if channels.is_fixed else channels.mask(channels.most) for channels in (self.channels, self.filters)
        )
        definition, axis = self.style.definition, self.channel_axis
        how = {"momentum": definition.norm_momentum, "epsilon": definition.norm_epsilon}
        self.norm = BatchNorm(axis=axis, name="norm", dtype=self.dtype_policy, **how)
        self.attention = SpatialAttention(
            self.filters.most,
            row.heads,
            row.key_dim,
            kv_strides=row.kv_stride,
            layer_scale=self.style.layer_scale,
            name="attention",
            dtype=self.dtype_policy,
            **self.style.common,
        )

    def branch(self, inputs, parts, training):
        outputs = self._masked(self.norm(inputs, training=training), self.in_mask, parts)
        return self._masked(self.attention(outputs, training=training), self.out_mask, parts)

    def _masked(self, inputs, mask, parts):
        if mask is None:
            return inputs
        shape = (-1,) if self.channel_axis == 3 else (-1, 1, 1)
        return inputs * ops.cast(ops.reshape(mask.expect(parts), shape), inputs.dtype)

    def parts_of(self, row):
        return {"norm": self.norm, "attention": self.attention}


SHARED_ROWS = {Conv: SharedConvRow, FusedIB: SharedFusedIB, UIB: SharedUIB, MQA: SharedMQA}


@np.vectorize
def _expand(channels, expansion):
    return round_channels(channels * expansion)


def with_channels(inputs, most, axis):
    """`inputs` with zeros behind its channels, or without its last, which gates have made zeros where this is used.

    Args:
        inputs: tensor of four axes.
        most: channels of the result.
        axis: axis of the channels.
    """
    present = inputs.shape[axis]
    if most > present:
        return ops.pad(inputs, [(0, most - present if each == axis else 0) for each in range(4)])
    return inputs if most == present else ops.take(inputs, np.arange(most), axis)
