"""Noises against what they are named after."""

import numpy as np
import pytest

from keras_mnv4.datafree.noise import NOISES

SIZE = 64


@pytest.fixture(params=NOISES)
def noise(request):
    return request.param, NOISES[request.param](np.random.default_rng(0), 24, SIZE)


def test_power_falls_with_the_square_of_the_frequency(noise):
    name, pictures = noise
    power = (np.abs(np.fft.fft2(pictures, axes=(1, 2))) ** 2).mean(axis=(0, 3))
    frequencies = np.hypot.outer(*[np.fft.fftfreq(SIZE)] * 2)
    is_inside = (frequencies > 0) & (frequencies < 0.5)
    slope, _ = np.polyfit(np.log(frequencies[is_inside]), np.log(power[is_inside]), 1)
    assert slope == pytest.approx({"natural": -2.0, "white": 0.0}[name], abs=0.05)


def test_colours_go_together(noise):
    name, pictures = noise
    together = np.corrcoef(pictures.reshape(-1, 3).T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(together, {"natural": 0.75, "white": 0.0}[name], atol=0.06)


def test_it_is_of_the_size_of_what_is_painted(noise):
    _, pictures = noise
    assert pictures.shape == (24, SIZE, SIZE, 3)
    assert pictures.dtype == np.float32
    assert pictures.std() == pytest.approx(1.0, abs=0.15)
    assert len({each.tobytes() for each in pictures}) == 24
