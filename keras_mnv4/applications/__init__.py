"""Constructors with the signature of `keras.applications`, and what they are made from."""

from keras_mnv4.applications.block_spec import MQA
from keras_mnv4.applications.block_spec import UIB
from keras_mnv4.applications.block_spec import Basic
from keras_mnv4.applications.block_spec import BlockSpec
from keras_mnv4.applications.block_spec import Bottleneck
from keras_mnv4.applications.block_spec import Choice
from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.block_spec import FusedIB
from keras_mnv4.applications.block_spec import MaxPool
from keras_mnv4.applications.block_spec import Separable
from keras_mnv4.applications.block_spec import choice
from keras_mnv4.applications.checkpoints import CHECKPOINTS
from keras_mnv4.applications.checkpoints import Checkpoint
from keras_mnv4.applications.efficientnet_lite import EfficientNetLite0
from keras_mnv4.applications.efficientnet_lite import EfficientNetLite1
from keras_mnv4.applications.efficientnet_lite import EfficientNetLite2
from keras_mnv4.applications.families import ARCHITECTURES
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvAALarge
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvAAMedium
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvBlurMedium
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvLarge
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvMedium
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvMediumSeg
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4ConvSmall
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4HybridLarge
from keras_mnv4.applications.mobilenet_v4 import MobileNetV4HybridMedium
from keras_mnv4.applications.network import Architecture
from keras_mnv4.applications.network import Definition
from keras_mnv4.applications.network import build_network
from keras_mnv4.applications.pikelpn import PikeLPN
from keras_mnv4.applications.pikelpn import PikeLPN1x
from keras_mnv4.applications.pikelpn import PikeLPN2x
from keras_mnv4.applications.pikelpn import PikeLPN3x
from keras_mnv4.applications.pikelpn import PikeLPN6x
from keras_mnv4.applications.preprocessing import Preprocessing
from keras_mnv4.applications.pyramid import feature_pyramid
from keras_mnv4.applications.resnet import ResNet18
from keras_mnv4.applications.resnet import ResNet29
from keras_mnv4.applications.resnet import ResNet34
from keras_mnv4.applications.resnet import ResNet50
from keras_mnv4.applications.resnet import ResNet101
from keras_mnv4.applications.resnet import ResNet152
from keras_mnv4.applications.resnet import ResNet200
from keras_mnv4.applications.transfer import replace_classifier

__all__ = [
    "ARCHITECTURES",
    "CHECKPOINTS",
    "MQA",
    "UIB",
    "Architecture",
    "Basic",
    "BlockSpec",
    "Bottleneck",
    "Checkpoint",
    "Choice",
    "Conv",
    "Definition",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "EfficientNetLite2",
    "FusedIB",
    "MaxPool",
    "MobileNetV4",
    "MobileNetV4ConvAALarge",
    "MobileNetV4ConvAAMedium",
    "MobileNetV4ConvBlurMedium",
    "MobileNetV4ConvLarge",
    "MobileNetV4ConvMedium",
    "MobileNetV4ConvMediumSeg",
    "MobileNetV4ConvSmall",
    "MobileNetV4HybridLarge",
    "MobileNetV4HybridMedium",
    "PikeLPN",
    "PikeLPN1x",
    "PikeLPN2x",
    "PikeLPN3x",
    "PikeLPN6x",
    "Preprocessing",
    "ResNet18",
    "ResNet29",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "ResNet200",
    "Separable",
    "build_network",
    "choice",
    "feature_pyramid",
    "replace_classifier",
]
