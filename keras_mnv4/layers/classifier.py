"""`Classifier`: the last layer, a dense layer written as a 1x1 convolution."""

import keras
from keras import ops

from keras_mnv4.layers.arguments import check_whole
from keras_mnv4.layers.conv import ConvNormAct
from keras_mnv4.layers.feature_map import FeatureMapLayer


@keras.saving.register_keras_serializable(package="keras_mnv4")
class Classifier(FeatureMapLayer):
    """A dense layer with an activation, computed as a 1x1 convolution.

    The two are the same sum. The convolution is what integer converters can quantise per class: a per-channel
    fake-quantised matrix product does not convert to TFLite.

    Args:
        classes: number of outputs.
        activation: name or function, None for logits.
        data_format: `"channels_last"` or `"channels_first"`; default, Keras's global setting.
        **kwargs: `quantization`, a dictionary from part (see `quantizable_parts`) to
            `keras_mnv4.qat.LayerQuantization`, or None; and those of `keras.layers.Layer`.

    Input shape: `(batch, 1, 1, channels)` or `(batch, channels, 1, 1)`. Output shape: `(batch, classes)`.

    Raises:
        ValueError: if `classes` is not a whole number above 0; once built, if the maps are of more than one pixel.

    Example:

    >>> Classifier(10, activation="softmax")(np.zeros((2, 1, 1, 1280))).shape
    (2, 10)
    """

    channel_axis = -1  # of what comes out

    def __init__(self, classes, activation=None, data_format=None, **kwargs):
        super().__init__(data_format, **kwargs)
        check_whole("classes", classes)
        self.classes = classes
        self.activation = keras.activations.get(activation)
        self.conv = ConvNormAct(
            classes,
            use_norm=False,
            use_bias=True,
            kernel_initializer="glorot_uniform",
            data_format=self.data_format,
            quantization=self.part_quantization("conv"),
            dtype=self.dtype_policy,
            name="conv",
        )
        self.output_quantizer = self.make_output_quantizer(self.activation_part)
        self.finish_parts()

    @property
    def activation_part(self):
        """`"softmax"` and the like; None where there is nothing to compute after the convolution."""
        if self.activation is keras.activations.linear:
            return None
        return getattr(self.activation, "__name__", type(self.activation).__name__.lower())

    @property
    def quantizable_parts(self):
        return ("conv",) if self.activation_part is None else ("conv", self.activation_part)

    def build(self, input_shape):
        if any(input_shape[axis] != 1 for axis in self._spatial_axes):
            raise ValueError(
                f"Layer `{self.name}` takes maps of one pixel: put `GlobalAveragePooling2D(keepdims=True)` before it. "
                f"Received: {input_shape}"
            )
        self.conv.build(input_shape)
        if self.output_quantizer is not None:
            self.output_quantizer.build(self.compute_output_shape(input_shape))

    def call(self, inputs, training=False):
        return self._activate(ops.reshape(self.conv(inputs, training=training), (-1, self.classes)), training)

    def compute_part(self, part, *inputs):
        return self.conv(*inputs, training=False) if part == "conv" else self._activate(*inputs)

    def _activate(self, logits, training=False):
        outputs = self.activation(logits)
        if self.output_quantizer is not None:
            outputs = self.output_quantizer(outputs, training=training)
        return outputs

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.classes)

    def get_config(self):
        return {
            **super().get_config(),
            "classes": self.classes,
            "activation": keras.activations.serialize(self.activation),
        }
