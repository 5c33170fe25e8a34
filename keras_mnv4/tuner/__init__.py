"""Architecture search: spaces of networks, what their candidates cost, and Keras Tuner's view of them."""

from keras_mnv4.tuner.costs import CostModel
from keras_mnv4.tuner.space import SearchSpace
from keras_mnv4.tuner.spaces import coarse_space
from keras_mnv4.tuner.spaces import fine_space
from keras_mnv4.tuner.spaces import small_space
from keras_mnv4.tuner.spaces import tiny_space

__all__ = [
    "CostModel",
    "SearchSpace",
    "UIBHyperModel",
    "coarse_space",
    "fine_space",
    "small_space",
    "tiny_space",
]


def __getattr__(name):
    if name == "UIBHyperModel":  # Keras Tuner is imported where it is used
        from keras_mnv4.tuner.hypermodel import UIBHyperModel

        return UIBHyperModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
