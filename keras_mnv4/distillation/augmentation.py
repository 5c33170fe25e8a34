"""`Augmentation`: how pictures are changed before teacher and student see them. `D1`, `D2`, `D3`: as MobileNetV4 did.

All of it is NumPy's random numbers and Pillow's arithmetic, one picture at a time: what comes out depends on the
picture, the record and the generator alone, so any picture of a training can be made again by itself, on every
backend, in whichever thread. `keras.layers` has no crop of random area and ratio. Its `RandAugment` (3.15.1) draws one
row of operations for a whole batch, turns pictures by up to 0.9 of a circle where its factor is 0.9, and keeps its
state in a variable, so that a parallel `map` of `tf.data` gives other pictures each time.
"""

import dataclasses
import io
import math

import numpy as np
from PIL import Image
from PIL import ImageEnhance
from PIL import ImageOps

from keras_mnv4.data import as_rgb

GREY = (128, 128, 128)  # where an operation moves a picture away from
CROP_TRIES = 10


def _affine(image, *coefficients):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=GREY)


def _solarize_add(image, level):
    table = [min(value + int(110 * level), 255) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _enhance(enhancer):
    return lambda image, level, sign: enhancer(image).enhance(0.1 + 1.8 * level)


# Each takes a picture, a tenth of the magnitude, and a random sign.
OPERATIONS = {
    "identity": lambda image, level, sign: image,
    "auto_contrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "invert": lambda image, level, sign: ImageOps.invert(image),
    "rotate": lambda image, level, sign: image.rotate(sign * 30 * level, fillcolor=GREY),
    "posterize": lambda image, level, sign: ImageOps.posterize(image, min(max(int(4 * level), 1), 8)),
    "solarize": lambda image, level, sign: ImageOps.solarize(image, int(256 * level)),
    "solarize_add": lambda image, level, sign: _solarize_add(image, level),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, level, sign: _affine(image, 1, sign * 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level, sign: _affine(image, 1, 0, 0, sign * 0.3 * level, 1, 0),
    "translate_x": lambda image, level, sign: _affine(image, 1, 0, sign * 0.45 * level * image.width, 0, 1, 0),
    "translate_y": lambda image, level, sign: _affine(image, 1, 0, 0, 0, 1, sign * 0.45 * level * image.height),
}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How pictures are changed: an Inception crop, a mirror, RandAugment, Mixup; in this order.

    Source: MobileNetV4 (arXiv 2404.10518), section 8 and appendix C. What RandAugment's magnitudes mean is taken from
    the TensorFlow Model Garden, without its Cutout, which the paper leaves out; shifts are shares of the side, 0.45 at
    magnitude 10, where the Model Garden has 100 pixels. The paper does not say how areas and ratios of crops are drawn,
    nor what "extreme" Mixup is. A reconstruction: areas, and the logarithms of ratios, are uniform; the share of one of
    two pictures is uniform, Beta(1, 1), as in the published configuration of Patient Teacher's training (arXiv
    2106.05237), but drawn for each picture instead of each batch.

    Args:
        crop_area: least and largest share of the picture's area that is kept.
        crop_ratio: least and largest ratio of its width to its height.
        flip: whether one picture in two is mirrored.
        operations: operations of RandAugment a picture; 0 for none.
        magnitude: how strong they are, 10 for the strongest of the ImageNet search spaces.
        probability: with which each is carried out.
        excluded: names of `OPERATIONS` that are never drawn.
        mixup: parameter of the Beta distribution that the share of a second picture of the same source is drawn from;
            None for no Mixup.

    Raises:
        ValueError: if a range is empty or beyond its bounds, a number negative, or an operation unknown.

    Example:

    >>> picture = Augmentation(operations=2, magnitude=9)(photo, size=224, random=np.random.default_rng(0))
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    operations: int = 0
    magnitude: float = 0.0
    probability: float = 1.0
    excluded: tuple[str, ...] = ()
    mixup: float | None = None

    def __post_init__(self):
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"`crop_area` must be two shares of 1, the lesser first. Received: {self.crop_area}")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"`crop_ratio` must be two ratios, the lesser first. Received: {self.crop_ratio}")
        if self.operations < 0 or self.magnitude < 0 or not 0 <= self.probability <= 1:
            raise ValueError(
                f"`operations` and `magnitude` must not be negative, `probability` from 0 to 1. Received: {self}"
            )
        if self.mixup is not None and self.mixup <= 0:
            raise ValueError(f"`mixup` must be above 0, or None for no Mixup. Received: {self.mixup}")
        unknown = sorted(set(self.excluded) - OPERATIONS.keys())
        if unknown:
            raise ValueError(f"`excluded` may hold {', '.join(OPERATIONS)}. Received: {', '.join(unknown)}")

    @property
    def choices(self):
        """The operations that RandAugment draws from."""
        return tuple(name for name in OPERATIONS if name not in self.excluded)

    def __call__(self, picture, size, random):
        """One changed picture; Mixup takes two of them and is left to `DatasetMix`.

        Args:
            picture: uint8 array `(height, width, 3)`, path of an image file, or the bytes of one.
            size: height and width of the result.
            random: a `numpy.random.Generator`.

        Returns:
            A uint8 array `(size, size, 3)`.
        """
        image = open_picture(picture)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=self._crop_box(*image.size, random))
        if self.flip and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for _ in range(self.operations):
            name, sign = self.choices[random.integers(len(self.choices))], 2 * random.integers(2) - 1
            if random.random() < self.probability:
                image = OPERATIONS[name](image, self.magnitude / 10, float(sign))
        return np.asarray(image)

    def _crop_box(self, width, height, random):
        """Left, top, right and bottom; after too many tries, the largest box in the middle of an allowed ratio."""
        least, largest = self.crop_ratio
        for _ in range(CROP_TRIES):
            area = random.uniform(*self.crop_area) * width * height
            ratio = math.exp(random.uniform(math.log(least), math.log(largest)))
            sides = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if sides[0] <= width and sides[1] <= height:
                left, top = random.uniform(0, width - sides[0]), random.uniform(0, height - sides[1])
                break
        else:
            sides = min(width, height * largest), min(height, width / least)
            left, top = (width - sides[0]) / 2, (height - sides[1]) / 2
        return left, top, min(left + sides[0], width), min(top + sides[1], height)


D1 = Augmentation(operations=2, magnitude=9)
D2 = Augmentation(mixup=1.0)
D3 = Augmentation(operations=2, magnitude=5)


def open_picture(picture):
    """A picture as a Pillow image of three channels: from a uint8 array, a file, or the bytes of a file."""
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return as_rgb(image)
