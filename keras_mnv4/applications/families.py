"""`ARCHITECTURES`: every network that has a constructor, by the constructor's name."""

from keras_mnv4.applications import efficientnet_lite
from keras_mnv4.applications import mobilenet_v4
from keras_mnv4.applications import pikelpn
from keras_mnv4.applications import resnet

ARCHITECTURES = {
    **mobilenet_v4.ARCHITECTURES,
    **efficientnet_lite.ARCHITECTURES,
    **resnet.ARCHITECTURES,
    **pikelpn.ARCHITECTURES,
    **dict.fromkeys(pikelpn.VARIANTS, pikelpn.ARCHITECTURES["PikeLPN"]),  # one table, at widths of their own
}
