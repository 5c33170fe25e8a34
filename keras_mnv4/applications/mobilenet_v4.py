"""MobileNetV4: the block tables, and a `keras.applications` constructor for each.

Source: "MobileNetV4 -- Universal Models for the Mobile Ecosystem" (arXiv 2404.10518), appendix tables. Rows named
"FusedIB" there and made of two plain convolutions (in ConvSmall) are two `conv` rows here.
"""

import dataclasses

import keras
from keras import layers

from keras_mnv4.applications import arguments
from keras_mnv4.applications.block_spec import BlockSpec
from keras_mnv4.applications.block_spec import conv
from keras_mnv4.applications.block_spec import fused_ib
from keras_mnv4.applications.block_spec import uib
from keras_mnv4.layers import Classifier
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers.inverted_bottleneck import round_channels

HEAD_FILTERS = 1280

# fmt: off
CONV_SMALL = (
    conv(32, kernel=3, stride=2),
    conv(32, kernel=3, stride=2),
    conv(32, kernel=1),
    conv(96, kernel=3, stride=2),
    conv(64, kernel=1),
    uib(96, expand=3, start=5, middle=5, stride=2),   # ExtraDW
    uib(96, expand=2, middle=3),                      # IB
    uib(96, expand=2, middle=3),                      # IB
    uib(96, expand=2, middle=3),                      # IB
    uib(96, expand=2, middle=3),                      # IB
    uib(96, expand=4, start=3),                       # ConvNext
    uib(128, expand=6, start=3, middle=3, stride=2),  # ExtraDW
    uib(128, expand=4, start=5, middle=5),            # ExtraDW
    uib(128, expand=4, middle=5),                     # IB
    uib(128, expand=3, middle=5),                     # IB
    uib(128, expand=4, middle=3),                     # IB
    uib(128, expand=4, middle=3),                     # IB
    conv(960, kernel=1),
)

CONV_MEDIUM = (
    conv(32, kernel=3, stride=2),
    fused_ib(48, kernel=3, expand=4, stride=2),
    uib(80, expand=4, start=3, middle=5, stride=2),   # ExtraDW
    uib(80, expand=2, start=3, middle=3),             # ExtraDW
    uib(160, expand=6, start=3, middle=5, stride=2),  # ExtraDW
    uib(160, expand=4, start=3, middle=3),            # ExtraDW
    uib(160, expand=4, start=3, middle=3),            # ExtraDW
    uib(160, expand=4, start=3, middle=5),            # ExtraDW
    uib(160, expand=4, start=3, middle=3),            # ExtraDW
    uib(160, expand=4, start=3),                      # ConvNext
    uib(160, expand=2),                               # FFN
    uib(160, expand=4, start=3),                      # ConvNext
    uib(256, expand=6, start=5, middle=5, stride=2),  # ExtraDW
    uib(256, expand=4, start=5, middle=5),            # ExtraDW
    uib(256, expand=4, start=3, middle=5),            # ExtraDW
    uib(256, expand=4, start=3, middle=5),            # ExtraDW
    uib(256, expand=4),                               # FFN
    uib(256, expand=4, start=3),                      # ConvNext
    uib(256, expand=2, start=3, middle=5),            # ExtraDW
    uib(256, expand=4, start=5, middle=5),            # ExtraDW
    uib(256, expand=4),                               # FFN
    uib(256, expand=4),                               # FFN
    uib(256, expand=2, start=5),                      # ConvNext
    conv(960, kernel=1),
)

CONV_LARGE = (
    conv(24, kernel=3, stride=2),
    fused_ib(48, kernel=3, expand=4, stride=2),
    uib(96, expand=4, start=3, middle=5, stride=2),   # ExtraDW
    uib(96, expand=4, start=3, middle=3),             # ExtraDW
    uib(192, expand=4, start=3, middle=5, stride=2),  # ExtraDW
    uib(192, expand=4, start=3, middle=3),            # ExtraDW
    uib(192, expand=4, start=3, middle=3),            # ExtraDW
    uib(192, expand=4, start=3, middle=3),            # ExtraDW
    uib(192, expand=4, start=3, middle=5),            # ExtraDW
    uib(192, expand=4, start=5, middle=3),            # ExtraDW
    uib(192, expand=4, start=5, middle=3),            # ExtraDW
    uib(192, expand=4, start=5, middle=3),            # ExtraDW
    uib(192, expand=4, start=5, middle=3),            # ExtraDW
    uib(192, expand=4, start=5, middle=3),            # ExtraDW
    uib(192, expand=4, start=3),                      # ConvNext
    uib(512, expand=4, start=5, middle=5, stride=2),  # ExtraDW
    uib(512, expand=4, start=5, middle=5),            # ExtraDW
    uib(512, expand=4, start=5, middle=5),            # ExtraDW
    uib(512, expand=4, start=5, middle=5),            # ExtraDW
    uib(512, expand=4, start=5),                      # ConvNext
    uib(512, expand=4, start=5, middle=3),            # ExtraDW
    uib(512, expand=4, start=5),                      # ConvNext
    uib(512, expand=4, start=5),                      # ConvNext
    uib(512, expand=4, start=5, middle=3),            # ExtraDW
    uib(512, expand=4, start=5, middle=5),            # ExtraDW
    uib(512, expand=4, start=5),                      # ConvNext
    uib(512, expand=4, start=5),                      # ConvNext
    uib(512, expand=4, start=5),                      # ConvNext
    conv(960, kernel=1),
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Variant:
    """A named network: its table, and the picture size that the paper measured it at."""

    name: str
    blocks: tuple[BlockSpec, ...]
    default_size: int


def MobileNetV4(
    blocks,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name="mobilenet_v4",
    *,
    default_size=224,
    alpha=1.0,
    dropout_rate=0.0,
    drop_path_rate=0.0,
    padding="same",
    activation="relu",
    include_preprocessing=True,
):
    """Builds a network of the MobileNetV4 kind from a table of blocks.

    The stem is the table's first row. Behind the last come global pooling, a 1x1 convolution of 1280 channels,
    dropout and the classifier.

    Args:
        blocks: tuple of `BlockSpec`, the stem first.
        include_top: whether to add the classifier and the convolution before it.
        weights: None for random ones, or the path of a weights file.
        input_tensor: a Keras tensor to build on, instead of a new input.
        input_shape: shape of a picture, `(height, width, channels)` or as the global data format says. Sides may be
            None, and need not be equal. By default `default_size` with a classifier, any size without.
        pooling: what to do without a classifier: None gives the last feature map, `"avg"` or `"max"` pool it.
        classes: number of classes.
        classifier_activation: activation of the classifier, None for logits.
        name: name of the model.
        default_size: height and width of a picture where `input_shape` is not given.
        alpha: width multiplier. Channels are rounded to multiples of 8. Below 1 the stem and the 1280 channels of the
            head keep their width, as in timm; above 1 all grow.
        dropout_rate: rate of the dropout before the classifier.
        drop_path_rate: rate of stochastic depth at the last block; it grows linearly from 0 at the first.
        padding: `"same"` as TensorFlow does it, or `"symmetric"` as PyTorch does it; weights trained with one want
            that one.
        activation: activation of all blocks.
        include_preprocessing: whether the model takes bytes, 0 to 255, and scales them to [-1, 1) itself, by
            `x / 128 - 1`. That scale makes the integer file's input the bytes of the picture. If False, it takes
            scaled pictures.

    Returns:
        A Functional `keras.Model`. Its output is `(batch, classes)`; without a classifier, the last feature map or,
        pooled, `(batch, 960)` for the paper's networks.

    Raises:
        ValueError: on arguments that contradict each other; the message says which and what to do.

    Example:

    >>> tiny = MobileNetV4((conv(16, kernel=3, stride=2), uib(16, expand=2, middle=3)), classes=10)
    >>> tiny.output_shape
    (None, 10)
    """
    arguments.check_weights(weights)
    arguments.check_pooling(pooling)
    input_shape = arguments.resolve_input_shape(input_shape, default_size, include_top)
    x, inputs = arguments.resolve_input(input_tensor, input_shape)

    common = {"activation": activation, "padding": padding}
    if include_preprocessing:
        x = layers.Rescaling(1 / 128, offset=-1.0, name="preprocessing")(x)
    stem, *body = blocks
    x = (stem.scaled(alpha) if alpha > 1 else stem).make_layer(name="stem", **common)(x)
    for index, block in enumerate(body):
        rate = drop_path_rate * index / len(body)
        x = block.scaled(alpha).make_layer(name=f"block_{index + 1}", drop_path_rate=rate, **common)(x)

    if include_top:
        x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
        x = ConvNormAct(round_channels(HEAD_FILTERS * max(alpha, 1.0)), activation=activation, name="head")(x)
        x = layers.Dropout(dropout_rate, name="dropout")(x)
        x = Classifier(classes, classifier_activation, name="predictions")(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)

    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        arguments.load_weights(model, weights, classes)
    return model


def _constructor(function_name, variant):
    def construct(
        include_top=True,
        weights=None,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        name=variant.name,
        *,
        alpha=1.0,
        dropout_rate=0.0,
        drop_path_rate=0.0,
        padding="same",
        include_preprocessing=True,
    ):
        return MobileNetV4(
            variant.blocks,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
            default_size=variant.default_size,
            alpha=alpha,
            dropout_rate=dropout_rate,
            drop_path_rate=drop_path_rate,
            padding=padding,
            include_preprocessing=include_preprocessing,
        )

    construct.__name__ = construct.__qualname__ = function_name
    construct.__doc__ = f"""{function_name}, with {variant.default_size} pixel pictures by default.

    Source: MobileNetV4 (arXiv 2404.10518), appendix tables. The arguments are those of `MobileNetV4`.

    Example:

    >>> model = {function_name}(weights=None, classes=10)
    """
    return construct


MobileNetV4ConvSmall = _constructor("MobileNetV4ConvSmall", Variant("mobilenet_v4_conv_small", CONV_SMALL, 224))
MobileNetV4ConvMedium = _constructor("MobileNetV4ConvMedium", Variant("mobilenet_v4_conv_medium", CONV_MEDIUM, 256))
MobileNetV4ConvLarge = _constructor("MobileNetV4ConvLarge", Variant("mobilenet_v4_conv_large", CONV_LARGE, 384))


def preprocess_input(x, data_format=None):
    """Returns `x` as it is: the models scale bytes themselves. It is here for code that expects the function."""
    return x
