"""`NOISES`: what pictures begin as."""

import numpy as np

SHARED = 0.75  # of the variance, by the three colours: an assumption


def white_noise(random, count, size):
    """Noise of which every value is drawn for itself: float32 `(count, size, size, 3)`, of mean 0 and variance 1."""
    return random.normal(size=(count, size, size, 3)).astype("float32")


def natural_noise(random, count, size):
    """Noise like photographs, as far as pairs of points can tell: smooth, and with colours that go together.

    Float32 `(count, size, size, 3)`, of mean 0 and variance 1 but that some pictures are brighter than others.
    Amplitudes fall as one over the frequency. Source: Field, "Relations between the statistics of natural images and
    the response properties of cortical cells" (Journal of the Optical Society of America A, 1987).
    """
    frequencies = np.hypot.outer(*[np.fft.fftfreq(size)] * 2)
    frequencies[0, 0] = 1 / size

    def draw():
        waves = np.fft.fft2(random.normal(size=(4, size, size))) / frequencies
        shared, *own = np.fft.ifft2(waves).real
        colors = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * np.stack(own)
        return np.moveaxis(colors / colors.std(), 0, -1)

    return np.stack([draw() for _ in range(count)]).astype("float32")


NOISES = {"natural": natural_noise, "white": white_noise}
