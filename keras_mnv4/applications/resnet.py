"""ResNets, in the form of "Pareto-Optimal Quantized ResNet Is Mostly 4-bit" (arXiv 2105.03536).

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), table 1. The depths 29 and 200,
and widths that leave the stem as it is, are those of arXiv 2105.03536. Strides are taken by the 3x3 convolutions. With
the weights of timm or torchvision they give the same outputs.

For pictures of about 32 pixels, put the same units behind another stem:

>>> small = Architecture("resnet18_32", (Conv(64, kernel=3), *UNITS["ResNet18"]), 32, **COMMON)
>>> model = build_network(small, alpha=0.25, classes=10)
"""

from keras_mnv4.applications.block_spec import Basic
from keras_mnv4.applications.block_spec import Bottleneck
from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.block_spec import MaxPool
from keras_mnv4.applications.imagenet import decode_predictions
from keras_mnv4.applications.network import Architecture
from keras_mnv4.applications.network import constructor
from keras_mnv4.applications.preprocessing import preprocess_input


def _units(kind, filters, depths):
    """Rows of units, `depths` of them in each stage: the next stage has twice the channels and half the map."""
    rows = []
    for stage, depth in enumerate(depths):
        channels = filters * 2**stage
        rows += [kind(channels, stride=2 if stage else 1), *[kind(channels)] * (depth - 1)]
    return tuple(rows)


STEM = (Conv(64, kernel=7, stride=2), MaxPool(kernel=3, stride=2))
UNITS = {
    "ResNet18": _units(Basic, 64, (2, 2, 2, 2)),
    "ResNet29": _units(Bottleneck, 256, (2, 2, 3, 2)),
    "ResNet34": _units(Basic, 64, (3, 4, 6, 3)),
    "ResNet50": _units(Bottleneck, 256, (3, 4, 6, 3)),
    "ResNet101": _units(Bottleneck, 256, (3, 4, 23, 3)),
    "ResNet152": _units(Bottleneck, 256, (3, 8, 36, 3)),
    "ResNet200": _units(Bottleneck, 256, (3, 24, 36, 3)),
}

COMMON = {"head_filters": None, "has_fixed_stem": True, "definition": "timm", "layout": "timm_resnet"}
ARCHITECTURES = {name: Architecture(name.lower(), (*STEM, *units), 224, **COMMON) for name, units in UNITS.items()}


def _constructor(name):
    summary = f"{name} (arXiv 1512.03385), strides in the 3x3 convolutions."
    return constructor(name, ARCHITECTURES[name], summary, __name__)


ResNet18 = _constructor("ResNet18")
ResNet29 = _constructor("ResNet29")
ResNet34 = _constructor("ResNet34")
ResNet50 = _constructor("ResNet50")
ResNet101 = _constructor("ResNet101")
ResNet152 = _constructor("ResNet152")
ResNet200 = _constructor("ResNet200")

__all__ = [*ARCHITECTURES, "decode_predictions", "preprocess_input"]
