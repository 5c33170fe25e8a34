import keras
import numpy as np
import pytest
from conftest import tiny_network
from keras import layers

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES

pytestmark = pytest.mark.once

# Paper (arXiv 2404.10518), table 6: int8 latencies in milliseconds at the size of each network's architecture.
PAPER = {
    "MobileNetV4ConvSmall": {"pixel_6_cpu": 2.4, "galaxy_s23_cpu": 1.8, "pixel_8_edgetpu": 0.7},
    "MobileNetV4ConvMedium": {"pixel_6_cpu": 11.4, "galaxy_s23_cpu": 8.6, "pixel_8_edgetpu": 1.1},
    "MobileNetV4HybridMedium": {"pixel_6_cpu": 14.3, "galaxy_s23_cpu": 10.8, "pixel_8_edgetpu": 1.5},
    "MobileNetV4ConvLarge": {"pixel_6_cpu": 59.9, "galaxy_s23_cpu": 43.0, "pixel_8_edgetpu": 2.4},
    "MobileNetV4HybridLarge": {"pixel_6_cpu": 87.6, "galaxy_s23_cpu": 61.8, "pixel_8_edgetpu": 3.8},
}


def dense():
    """1,000 products, 1,000 weights and 10 biases, 100 numbers in and 10 out."""
    return keras.Sequential([keras.Input((100,)), layers.Dense(10)])


@pytest.mark.parametrize(("ridge_point", "time"), [(0, 1000), (0.5, 2000), (10, 1120), (500, 1120)])
def test_a_layer_takes_the_longer_of_arithmetic_and_memory(ridge_point, time):
    found = cost.roofline(dense(), ridge_point)
    assert found.time == time
    assert found.memory_bound_share == (ridge_point >= 10)


def test_bytes_are_those_of_the_formats_if_asked():
    assert cost.roofline(dense(), 500, bytes_per_number=None).time == 4 * 1120
    integer = qat.quantize_model(dense(), "w4a8")
    assert cost.roofline(integer, 500, bytes_per_number=None).time == 1000 / 2 + 4 * 10 + 100 + 10


@pytest.mark.parametrize("device", ["pixel_6_cpu", "galaxy_s23_cpu", "pixel_8_edgetpu"])
def test_the_family_is_ranked_as_the_paper_measured(device):
    profiles = {name: cost.TableProfiler().profile(ARCHITECTURES[name]) for name in PAPER}
    times = [cost.roofline(profiles[name], device).time for name in PAPER]
    assert cost.rank_correlation(times, [PAPER[name][device] for name in PAPER]) >= 0.9


def test_wrong_ridge_points_are_refused():
    with pytest.raises(ValueError, match="pixel_6_cpu"):
        cost.roofline(dense(), "abacus")
    with pytest.raises(ValueError, match="negative"):
        cost.roofline(dense(), -1)


def test_sweep_and_universal_front():
    small, large = dense(), keras.Sequential([keras.Input((100,)), layers.Dense(20)])
    times = cost.sweep([small, large], ridge_points=(0, 1, 500))
    np.testing.assert_array_equal(times, [[1000, 1120, 1120], [2000, 2140, 2140]])
    assert cost.universally_pareto([small, large], [0.5, 0.6]) == [1.0, 1.0]
    assert cost.universally_pareto([small, large], [0.6, 0.5]) == [1.0, 0.0]
    profile = cost.profile(tiny_network())
    assert cost.sweep([profile]).shape == (1, 29)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
        ([1, 1, 2], [1, 2, 3], 0.8660254),
    ],
)
def test_rank_correlation(one, other, expected):
    """By hand, and with ties as SciPy's `spearmanr` has them."""
    assert cost.rank_correlation(one, other) == pytest.approx(expected)


def test_the_fitted_ridge_point_ranks_best():
    models = [dense(), keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(8, 1)])]
    # 1,000 products of 1,120 numbers, and 4,096 of 1,096: above a ridge point of 3.66 the first takes longer, too.
    ridge_point, correlation = cost.fit_ridge_point(models, [2.0, 1.0])
    assert (ridge_point, correlation) == (4.0, pytest.approx(1))
