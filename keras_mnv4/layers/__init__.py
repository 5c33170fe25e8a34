"""The blocks that every network of this package is made of."""

from keras_mnv4.layers.attention import MobileMQA
from keras_mnv4.layers.attention import SpatialAttention
from keras_mnv4.layers.batch_norm import BatchNorm
from keras_mnv4.layers.classifier import Classifier
from keras_mnv4.layers.conv import ConvNormAct
from keras_mnv4.layers.inverted_bottleneck import DepthwiseSeparable
from keras_mnv4.layers.inverted_bottleneck import FusedInvertedBottleneck
from keras_mnv4.layers.inverted_bottleneck import UniversalInvertedBottleneck
from keras_mnv4.layers.layer_scale import LayerScale
from keras_mnv4.layers.max_pool import MaxPool
from keras_mnv4.layers.quant_norm import QuantNorm
from keras_mnv4.layers.residual import ResidualChain
from keras_mnv4.layers.residual_unit import ResidualUnit
from keras_mnv4.layers.stochastic_depth import StochasticDepth

__all__ = [
    "BatchNorm",
    "Classifier",
    "ConvNormAct",
    "DepthwiseSeparable",
    "FusedInvertedBottleneck",
    "LayerScale",
    "MaxPool",
    "MobileMQA",
    "QuantNorm",
    "ResidualChain",
    "ResidualUnit",
    "SpatialAttention",
    "StochasticDepth",
    "UniversalInvertedBottleneck",
]
