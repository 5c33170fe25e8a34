"""MobileNetV4: the block tables, and a `keras.applications` constructor for each.

Source: "MobileNetV4 -- Universal Models for the Mobile Ecosystem" (arXiv 2404.10518), appendix tables. Rows named
"FusedIB" there and made of two plain convolutions (in ConvSmall) are two `Conv` rows here. The table of HybridMedium is
that of both public code bases, timm's and the TensorFlow Model Garden's, and of all published weights; the paper's
appendix prints another. ConvMediumSeg is the Model Garden's, the ones with anti-aliasing are timm's.
"""

import pathlib

from keras_mnv4.applications.block_spec import MQA
from keras_mnv4.applications.block_spec import UIB
from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.block_spec import FusedIB
from keras_mnv4.applications.imagenet import decode_predictions
from keras_mnv4.applications.network import Architecture
from keras_mnv4.applications.network import build_network
from keras_mnv4.applications.network import constructor
from keras_mnv4.applications.network import read_architecture
from keras_mnv4.applications.preprocessing import preprocess_input

# fmt: off
CONV_SMALL = (
    Conv(32, kernel=3, stride=2),
    Conv(32, kernel=3, stride=2),
    Conv(32, kernel=1),
    Conv(96, kernel=3, stride=2),
    Conv(64, kernel=1),
    UIB(96, expand=3, start=5, middle=5, stride=2),   # ExtraDW
    UIB(96, expand=2, middle=3),                      # IB
    UIB(96, expand=2, middle=3),                      # IB
    UIB(96, expand=2, middle=3),                      # IB
    UIB(96, expand=2, middle=3),                      # IB
    UIB(96, expand=4, start=3),                       # ConvNext
    UIB(128, expand=6, start=3, middle=3, stride=2),  # ExtraDW
    UIB(128, expand=4, start=5, middle=5),            # ExtraDW
    UIB(128, expand=4, middle=5),                     # IB
    UIB(128, expand=3, middle=5),                     # IB
    UIB(128, expand=4, middle=3),                     # IB
    UIB(128, expand=4, middle=3),                     # IB
    Conv(960, kernel=1),
)

CONV_MEDIUM = (
    Conv(32, kernel=3, stride=2),
    FusedIB(48, kernel=3, expand=4, stride=2),
    UIB(80, expand=4, start=3, middle=5, stride=2),   # ExtraDW
    UIB(80, expand=2, start=3, middle=3),             # ExtraDW
    UIB(160, expand=6, start=3, middle=5, stride=2),  # ExtraDW
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    UIB(160, expand=4, start=3, middle=5),            # ExtraDW
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    UIB(160, expand=4, start=3),                      # ConvNext
    UIB(160, expand=2),                               # FFN
    UIB(160, expand=4, start=3),                      # ConvNext
    UIB(256, expand=6, start=5, middle=5, stride=2),  # ExtraDW
    UIB(256, expand=4, start=5, middle=5),            # ExtraDW
    UIB(256, expand=4, start=3, middle=5),            # ExtraDW
    UIB(256, expand=4, start=3, middle=5),            # ExtraDW
    UIB(256, expand=4),                               # FFN
    UIB(256, expand=4, start=3),                      # ConvNext
    UIB(256, expand=2, start=3, middle=5),            # ExtraDW
    UIB(256, expand=4, start=5, middle=5),            # ExtraDW
    UIB(256, expand=4),                               # FFN
    UIB(256, expand=4),                               # FFN
    UIB(256, expand=2, start=5),                      # ConvNext
    Conv(960, kernel=1),
)

CONV_LARGE = (
    Conv(24, kernel=3, stride=2),
    FusedIB(48, kernel=3, expand=4, stride=2),
    UIB(96, expand=4, start=3, middle=5, stride=2),   # ExtraDW
    UIB(96, expand=4, start=3, middle=3),             # ExtraDW
    UIB(192, expand=4, start=3, middle=5, stride=2),  # ExtraDW
    UIB(192, expand=4, start=3, middle=3),            # ExtraDW
    UIB(192, expand=4, start=3, middle=3),            # ExtraDW
    UIB(192, expand=4, start=3, middle=3),            # ExtraDW
    UIB(192, expand=4, start=3, middle=5),            # ExtraDW
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    UIB(192, expand=4, start=3),                      # ConvNext
    UIB(512, expand=4, start=5, middle=5, stride=2),  # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5, middle=3),            # ExtraDW
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5, middle=3),            # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5),                      # ConvNext
    Conv(960, kernel=1),
)

HYBRID_MEDIUM = (
    Conv(32, kernel=3, stride=2),
    FusedIB(48, kernel=3, expand=4, stride=2),
    UIB(80, expand=4, start=3, middle=5, stride=2),   # ExtraDW
    UIB(80, expand=2, start=3, middle=3),             # ExtraDW
    UIB(160, expand=6, start=3, middle=5, stride=2),  # ExtraDW
    UIB(160, expand=2),                               # FFN
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    UIB(160, expand=4, start=3, middle=5),            # ExtraDW
    MQA(160, heads=4, key_dim=64, kv_stride=2),
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    MQA(160, heads=4, key_dim=64, kv_stride=2),
    UIB(160, expand=4, start=3),                      # ConvNext
    MQA(160, heads=4, key_dim=64, kv_stride=2),
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    MQA(160, heads=4, key_dim=64, kv_stride=2),
    UIB(160, expand=4, start=3),                      # ConvNext
    UIB(256, expand=6, start=5, middle=5, stride=2),  # ExtraDW
    UIB(256, expand=4, start=5, middle=5),            # ExtraDW
    UIB(256, expand=4, start=3, middle=5),            # ExtraDW
    UIB(256, expand=4, start=3, middle=5),            # ExtraDW
    UIB(256, expand=2),                               # FFN
    UIB(256, expand=2, start=3, middle=5),            # ExtraDW
    UIB(256, expand=2),                               # FFN
    UIB(256, expand=4),                               # FFN
    MQA(256, heads=4, key_dim=64),
    UIB(256, expand=4, start=3),                      # ConvNext
    MQA(256, heads=4, key_dim=64),
    UIB(256, expand=4, start=5, middle=5),            # ExtraDW
    MQA(256, heads=4, key_dim=64),
    UIB(256, expand=4, start=5),                      # ConvNext
    MQA(256, heads=4, key_dim=64),
    UIB(256, expand=4, start=5),                      # ConvNext
    Conv(960, kernel=1),
)

HYBRID_LARGE = (
    Conv(24, kernel=3, stride=2),
    FusedIB(48, kernel=3, expand=4, stride=2),
    UIB(96, expand=4, start=3, middle=5, stride=2),   # ExtraDW
    UIB(96, expand=4, start=3, middle=3),             # ExtraDW
    UIB(192, expand=4, start=3, middle=5, stride=2),  # ExtraDW
    UIB(192, expand=4, start=3, middle=3),            # ExtraDW
    UIB(192, expand=4, start=3, middle=3),            # ExtraDW
    UIB(192, expand=4, start=3, middle=3),            # ExtraDW
    UIB(192, expand=4, start=3, middle=5),            # ExtraDW
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    MQA(192, heads=8, key_dim=48, kv_stride=2),
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    MQA(192, heads=8, key_dim=48, kv_stride=2),
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    MQA(192, heads=8, key_dim=48, kv_stride=2),
    UIB(192, expand=4, start=5, middle=3),            # ExtraDW
    MQA(192, heads=8, key_dim=48, kv_stride=2),
    UIB(192, expand=4, start=3),                      # ConvNext
    UIB(512, expand=4, start=5, middle=5, stride=2),  # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5, middle=3),            # ExtraDW
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5),                      # ConvNext
    UIB(512, expand=4, start=5, middle=3),            # ExtraDW
    UIB(512, expand=4, start=5, middle=5),            # ExtraDW
    MQA(512, heads=8, key_dim=64),
    UIB(512, expand=4, start=5),                      # ConvNext
    MQA(512, heads=8, key_dim=64),
    UIB(512, expand=4, start=5),                      # ConvNext
    MQA(512, heads=8, key_dim=64),
    UIB(512, expand=4, start=5),                      # ConvNext
    MQA(512, heads=8, key_dim=64),
    UIB(512, expand=4, start=5),                      # ConvNext
    Conv(960, kernel=1),
)

CONV_MEDIUM_SEG = (
    Conv(32, kernel=3, stride=2),
    FusedIB(48, kernel=3, expand=4, stride=2),
    UIB(80, expand=4, start=3, middle=5, stride=2),   # ExtraDW
    UIB(80, expand=2, start=3, middle=3),             # ExtraDW
    UIB(160, expand=6, start=3, middle=5, stride=2),  # ExtraDW
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    UIB(160, expand=4, start=3, middle=5),            # ExtraDW
    UIB(160, expand=4, start=3, middle=3),            # ExtraDW
    UIB(160, expand=4, start=3),                      # ConvNext
    UIB(160, expand=4, start=3),                      # ConvNext
    UIB(256, expand=6, start=5, middle=5, stride=2),  # ExtraDW
    UIB(128, expand=4, start=5, middle=5),            # ExtraDW
    UIB(128, expand=4, start=3, middle=5),            # ExtraDW
    UIB(128, expand=4, start=3, middle=5),            # ExtraDW
    UIB(128, expand=4, start=3),                      # ConvNext
    UIB(128, expand=2, start=3, middle=5),            # ExtraDW
    UIB(128, expand=4, start=5, middle=5),            # ExtraDW
    UIB(128, expand=2, start=5),                      # ConvNext
    Conv(448, kernel=1),
)
# fmt: on

ARCHITECTURES = {
    "MobileNetV4ConvSmall": Architecture("mobilenet_v4_conv_small", CONV_SMALL),
    "MobileNetV4ConvMedium": Architecture("mobilenet_v4_conv_medium", CONV_MEDIUM, 256),
    "MobileNetV4ConvLarge": Architecture("mobilenet_v4_conv_large", CONV_LARGE, 384),
    "MobileNetV4HybridMedium": Architecture("mobilenet_v4_hybrid_medium", HYBRID_MEDIUM, 256, layer_scale=1e-5),
    "MobileNetV4HybridLarge": Architecture(
        "mobilenet_v4_hybrid_large", HYBRID_LARGE, 384, activation="gelu", layer_scale=1e-5
    ),
    "MobileNetV4ConvAAMedium": Architecture("mobilenet_v4_conv_aa_medium", CONV_MEDIUM, 256, anti_aliasing="average"),
    "MobileNetV4ConvAALarge": Architecture("mobilenet_v4_conv_aa_large", CONV_LARGE, 384, anti_aliasing="average"),
    "MobileNetV4ConvBlurMedium": Architecture("mobilenet_v4_conv_blur_medium", CONV_MEDIUM, anti_aliasing="blur"),
    "MobileNetV4ConvMediumSeg": Architecture("mobilenet_v4_conv_medium_seg", CONV_MEDIUM_SEG, 256, activation="relu6"),
}


def MobileNetV4(architecture, **kwargs):
    """A network of one's own table, or of one that a search has found.

    Args:
        architecture: an `Architecture`; a dictionary that `Architecture.to_dict` gave; or the path of a JSON file of
            one, as `mnv4 search` writes it.
        **kwargs: those of `keras_mnv4.applications.build_network`.

    Raises:
        ValueError: if the dictionary or the file is not of an architecture.

    Example:

    >>> model = MobileNetV4("search/network.json", classes=10, input_shape=(96, 96, 3))
    """
    if isinstance(architecture, (str, pathlib.Path)):
        architecture = read_architecture(architecture)
    if not isinstance(architecture, Architecture):
        architecture = Architecture.from_dict(architecture)
    return build_network(architecture, **kwargs)


def _constructor(name):
    return constructor(name, ARCHITECTURES[name], f"{name}, of MobileNetV4 (arXiv 2404.10518).", __name__)


MobileNetV4ConvSmall = _constructor("MobileNetV4ConvSmall")
MobileNetV4ConvMedium = _constructor("MobileNetV4ConvMedium")
MobileNetV4ConvLarge = _constructor("MobileNetV4ConvLarge")
MobileNetV4HybridMedium = _constructor("MobileNetV4HybridMedium")
MobileNetV4HybridLarge = _constructor("MobileNetV4HybridLarge")
MobileNetV4ConvAAMedium = _constructor("MobileNetV4ConvAAMedium")
MobileNetV4ConvAALarge = _constructor("MobileNetV4ConvAALarge")
MobileNetV4ConvBlurMedium = _constructor("MobileNetV4ConvBlurMedium")
MobileNetV4ConvMediumSeg = _constructor("MobileNetV4ConvMediumSeg")

__all__ = ["MobileNetV4", *ARCHITECTURES, "decode_predictions", "preprocess_input"]
