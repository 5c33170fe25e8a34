"""All constructors, and the figures that other code bases give for them."""

import dataclasses

from keras_mnv4 import applications


@dataclasses.dataclass(frozen=True)
class Member:
    """A network of the family.

    Args:
        build: its constructor.
        parameters: trainable ones, at 1000 classes.
        macs: multiply-accumulates at 224 pixels.
        alpha: its width.
        channels: of the last feature map.
        layout: how timm calls its tensors.
    """

    build: object
    parameters: int
    macs: int
    alpha: float = 1.0
    channels: int = 960
    layout: str = "timm"


# timm 1.0.31, counted with hooks; convolutions, matrix products and the classifier.
TIMM = {
    "conv_small": Member(applications.MobileNetV4ConvSmall, 3_774_024, 186_005_568),
    "conv_small_035": Member(applications.MobileNetV4ConvSmall, 1_905_384, 47_723_040, 0.35, 336),
    "conv_small_050": Member(applications.MobileNetV4ConvSmall, 2_238_952, 64_741_408, 0.5, 480),
    "conv_medium": Member(applications.MobileNetV4ConvMedium, 9_715_512, 827_649_984),
    "conv_large": Member(applications.MobileNetV4ConvLarge, 32_590_864, 2_171_341_312),
    "conv_aa_medium": Member(applications.MobileNetV4ConvAAMedium, 9_715_512, 1_196_340_096),
    "conv_aa_large": Member(applications.MobileNetV4ConvAALarge, 32_590_864, 2_386_182_400),
    "conv_blur_medium": Member(applications.MobileNetV4ConvBlurMedium, 9_715_512, 1_196_340_096),
    "hybrid_medium": Member(applications.MobileNetV4HybridMedium, 11_074_648, 966_311_360),
    "hybrid_medium_075": Member(applications.MobileNetV4HybridMedium, 7_313_528, 649_844_400, 0.75, 720),
    "hybrid_large": Member(applications.MobileNetV4HybridLarge, 37_764_624, 2_549_568_000),
    "hybrid_large_075": Member(applications.MobileNetV4HybridLarge, 22_754_984, 1_547_465_600, 0.75, 720),
}
_RESNET = {"layout": "timm_resnet"}
RESNETS = {
    "resnet18": Member(applications.ResNet18, 11_689_512, 1_814_073_344, channels=512, **_RESNET),
    "resnet50": Member(applications.ResNet50, 25_557_032, 4_089_184_256, channels=2048, **_RESNET),
}
# tf-models-official 2.20.0: channels of its endpoints 2 to 5, and trainable parameters at 1000 classes.
MODEL_GARDEN = {
    "conv_small": (applications.MobileNetV4ConvSmall, (32, 64, 96, 128), 3_774_024),
    "conv_medium": (applications.MobileNetV4ConvMedium, (48, 80, 160, 256), 9_715_512),
    "conv_large": (applications.MobileNetV4ConvLarge, (48, 96, 192, 512), 32_590_864),
    "hybrid_medium": (applications.MobileNetV4HybridMedium, (48, 80, 160, 256), 11_074_648),
    "hybrid_large": (applications.MobileNetV4HybridLarge, (48, 96, 192, 512), 37_764_624),
    "conv_medium_seg": (applications.MobileNetV4ConvMediumSeg, (48, 80, 160, 128), 5_021_816),
}
# Each constructor with the channels of its last feature map and its default size.
CONSTRUCTORS = {
    "MobileNetV4ConvSmall": (960, 224),
    "MobileNetV4ConvMedium": (960, 256),
    "MobileNetV4ConvLarge": (960, 384),
    "MobileNetV4HybridMedium": (960, 256),
    "MobileNetV4HybridLarge": (960, 384),
    "MobileNetV4ConvAAMedium": (960, 256),
    "MobileNetV4ConvAALarge": (960, 384),
    "MobileNetV4ConvBlurMedium": (960, 224),
    "MobileNetV4ConvMediumSeg": (448, 256),
    "EfficientNetLite0": (1280, 224),
    "EfficientNetLite1": (1280, 240),
    "EfficientNetLite2": (1280, 260),
    "ResNet18": (512, 224),
    "ResNet29": (2048, 224),
    "ResNet34": (512, 224),
    "ResNet50": (2048, 224),
    "ResNet101": (2048, 224),
    "ResNet152": (2048, 224),
    "ResNet200": (2048, 224),
}
