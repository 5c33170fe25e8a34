"""Constructors with the signature of `keras.applications`."""

from keras_mnv4.applications.block_spec import BlockSpec
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvLarge
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvMedium
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvSmall

__all__ = [
    "BlockSpec",
    "MobileNetV4",
    "MobileNetV4ConvLarge",
    "MobileNetV4ConvMedium",
    "MobileNetV4ConvSmall",
]
