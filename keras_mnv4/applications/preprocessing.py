"""`Preprocessing`: what a checkpoint wants done to a picture."""

import dataclasses

import keras
import numpy as np
from PIL import Image

from keras_mnv4.data import as_rgb


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes what a network was trained on.

    A photo is resized so that its shorter side has `size / crop` pixels, rounded down, and the middle `size` by `size`
    pixels are cut out (`prepare`); a model with `include_preprocessing` then takes `(byte - mean) / std` itself
    (`make_layer`).

    Args:
        size: height and width in pixels, None for a network that was not trained on any, and cannot `prepare`.
        crop: share of the resized photo's shorter side that is kept.
        mean: one for each of red, green and blue, in units of bytes, 0 to 255.
        std: likewise.

    Example:

    >>> Preprocessing(size=224, crop=0.875).prepare(PIL.Image.open("cat.jpg")).shape
    (224, 224, 3)
    """

    size: int | None = None
    crop: float = 1.0
    mean: tuple[float, float, float] = (128.0, 128.0, 128.0)
    std: tuple[float, float, float] = (128.0, 128.0, 128.0)

    def prepare(self, picture):
        """A PIL picture as bytes `(size, size, 3)`: upright, resized by antialiased bicubic interpolation, cropped.

        Raises:
            ValueError: if there is no `size`.
        """
        if self.size is None:
            raise ValueError("`prepare` needs a `size` in pixels: `Preprocessing(size=224)`. Received: size=None")
        picture = as_rgb(picture)
        factor = int(self.size / self.crop) / min(picture.size)
        width, height = (max(self.size, round(factor * side)) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def make_layer(self, name=None):
        """A `keras.layers.Rescaling` from bytes to what the network takes."""
        if len(set(self.mean)) == len(set(self.std)) == 1:  # any number of channels will do
            return keras.layers.Rescaling(1 / self.std[0], -self.mean[0] / self.std[0], name=name)
        scale = 1 / np.asarray(self.std)
        offset = -np.asarray(self.mean) * scale
        if keras.config.image_data_format() == "channels_first":
            scale, offset = scale[:, None, None], offset[:, None, None]
        return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name=name)


BYTES = Preprocessing()


def preprocess_input(x, data_format=None):
    """Returns `x` as it is: the models scale bytes themselves. It is here for code that expects the function."""
    return x
