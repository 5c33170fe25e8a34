"""`ResidualChain`: layers one after the other, and a shortcut round them. The base of all blocks."""

import keras

from keras_mnv4.layers.arguments import PADDINGS
from keras_mnv4.layers.arguments import check_anti_aliasing
from keras_mnv4.layers.arguments import check_one_of
from keras_mnv4.layers.arguments import check_rate
from keras_mnv4.layers.arguments import check_whole
from keras_mnv4.layers.feature_map import FeatureMapLayer
from keras_mnv4.layers.stochastic_depth import StochasticDepth
from keras_mnv4.qat.quantizable import join_parts


class ResidualChain(FeatureMapLayer):
    """Applies a subclass's layers in order, and adds the input where the shapes allow: the base of all blocks.

    A subclass sets its own arguments in `__init__`, then implements `make_chain`, and `make_shortcut` if its sum is to
    be there whatever the shapes. It can be quantised as the blocks of this package are.

    Args:
        filters: output channels.
        strides: step in both directions, taken by one of the convolutions.
        activation: name or function, for those convolutions that have one.
        anti_aliasing: None, `"average"` or `"blur"`, as for `ConvNormAct`.
        padding: `"same"` or `"symmetric"`, as for `ConvNormAct`.
        norm_momentum: momentum of every batch normalisation.
        norm_epsilon: epsilon of every batch normalisation.
        drop_path_rate: probability of leaving out the branch of a sample in training (`StochasticDepth`).
        data_format: `"channels_last"` or `"channels_first"`; default, Keras's global setting.
        **kwargs: `quantization`, a dictionary from part (see `quantizable_parts`) to
            `keras_mnv4.qat.LayerQuantization`, or None; and those of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`.
    Output shape: that of the last of its layers.

    Raises:
        ValueError: if a number is out of its range or a word not known, or if anti-aliasing is to take strides above
            2; once built, if the number of channels that come in is not known.

    Example:

    >>> class Pointwise(ResidualChain):
    ...     def make_chain(self, in_channels):
    ...         return [ConvNormAct(self.filters, activation=self.activation, **self.conv_arguments("conv"))]
    >>> block = Pointwise(8, drop_path_rate=0.1)
    >>> block(np.zeros((1, 4, 4, 8))).shape
    (1, 4, 4, 8)
    >>> block.quantizable_parts
    ('conv', 'add')
    """

    ADD = "add"  # the part that stands for the residual sum
    is_residual = True  # whether there is a sum at all

    def __init__(
        self,
        filters,
        strides=1,
        *,
        activation="relu",
        anti_aliasing=None,
        padding="same",
        norm_momentum=0.9,
        norm_epsilon=1e-3,
        drop_path_rate=0.0,
        data_format=None,
        **kwargs,
    ):
        super().__init__(data_format, **kwargs)
        check_whole("filters", filters)
        check_whole("strides", strides)
        check_anti_aliasing(anti_aliasing, strides)
        check_one_of("padding", padding, PADDINGS)
        check_rate("drop_path_rate", drop_path_rate)
        self.filters = filters
        self.strides = strides
        self.activation = keras.activations.get(activation)
        self.anti_aliasing = anti_aliasing
        self.padding = padding
        self.norm_momentum = norm_momentum
        self.norm_epsilon = norm_epsilon
        self.drop_path_rate = drop_path_rate

    def make_chain(self, in_channels):
        """The layers, in order; convolutions as `ConvNormAct` layers made with `self.conv_arguments(part)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `make_chain`")

    def make_shortcut(self):
        """A layer called `shortcut` that gives the input the shape of the sum where that differs; None for no sum."""
        return None

    @property
    def sum_activation(self):
        """The activation behind the sum."""
        return keras.activations.linear

    def conv_arguments(self, part):
        """What all convolutions of the chain have in common, for the one called `part`."""
        return {
            "name": part,
            "anti_aliasing": self.anti_aliasing,
            "padding": self.padding,
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
            "data_format": self.data_format,
            "dtype": self.dtype_policy,
            "quantization": self.part_quantization(part),
        }

    @property
    def obstacle(self):
        return next((part.obstacle for part in self.chain if getattr(part, "obstacle", None)), None)

    @property
    def quantizable_parts(self):
        parts = [part for layer in self._inner_layers for part in join_parts(layer, layer.quantizable_parts)]
        return (*parts, self.ADD) if self.has_shortcut else tuple(parts)

    @property
    def operator_parts(self):
        parts = [part for layer in self._inner_layers for part in join_parts(layer, layer.operator_parts)]
        return (*parts, self.ADD) if self.has_shortcut else tuple(parts)

    def build(self, input_shape):
        channels = input_shape[self.channel_axis]
        if channels is None:
            raise ValueError(f"Layer `{self.name}` needs a known number of channels. Received: {input_shape}")
        keeps_shape = self.strides == 1 and channels == self.filters
        self.chain = self.make_chain(channels)
        self.shortcut = None if keeps_shape else self.make_shortcut()
        self.has_shortcut = self.is_residual and (keeps_shape or self.shortcut is not None)
        if self.shortcut is not None:
            self.shortcut.build(input_shape)
        shape = input_shape
        for layer in self.chain:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.drop_path = self.add_quantizer = None
        if self.has_shortcut:
            if self.drop_path_rate:
                self.drop_path = StochasticDepth(self.drop_path_rate, name="drop_path", dtype=self.dtype_policy)
            self.add_quantizer = self.make_output_quantizer(self.ADD, name="add_quantizer")
        if self.add_quantizer is not None:
            self.add_quantizer.build(shape)
        self.finish_parts()

    def call(self, inputs, training=False):
        outputs = inputs
        for layer in self.chain:
            outputs = layer(outputs, training=training)
        if self.drop_path is not None:
            outputs = self.drop_path(outputs, training=training)
        if not self.has_shortcut:
            return outputs
        shortcut = inputs if self.shortcut is None else self.shortcut(inputs, training=training)
        return self._add(shortcut, outputs, training)

    def compute_part(self, part, *inputs):
        if part == self.ADD:
            return self._add(*inputs)
        name, _, inner = part.partition("/")
        (layer,) = (layer for layer in self._inner_layers if layer.name == name)
        return layer.compute_part(inner, *inputs)

    def _add(self, shortcut, branch, training=False):
        with keras.name_scope(self.ADD):  # by which exporters know what comes from here
            outputs = self.sum_activation(shortcut + branch)
        return outputs if self.add_quantizer is None else self.add_quantizer(outputs, training=training)

    @property
    def _inner_layers(self):
        return self.chain if self.shortcut is None else [*self.chain, self.shortcut]

    def compute_output_shape(self, input_shape):
        for layer in self.chain if self.built else self.make_chain(input_shape[self.channel_axis]):
            input_shape = layer.compute_output_shape(input_shape)
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "activation": keras.activations.serialize(self.activation),
            "anti_aliasing": self.anti_aliasing,
            "padding": self.padding,
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
            "drop_path_rate": self.drop_path_rate,
        }
