"""Architecture search: spaces of networks, what their candidates cost, and Keras Tuner's view of them."""

import importlib

from keras_mnv4.tuner.cost_table import CostTable
from keras_mnv4.tuner.costs import CostModel
from keras_mnv4.tuner.found import train_found
from keras_mnv4.tuner.gates import Gates
from keras_mnv4.tuner.search import gradient_search
from keras_mnv4.tuner.search import search
from keras_mnv4.tuner.search import two_stage_search
from keras_mnv4.tuner.space import SearchSpace
from keras_mnv4.tuner.spaces import coarse_space
from keras_mnv4.tuner.spaces import fine_space
from keras_mnv4.tuner.spaces import small_space
from keras_mnv4.tuner.spaces import tiny_space
from keras_mnv4.tuner.strategies import DARTS
from keras_mnv4.tuner.strategies import SPOS
from keras_mnv4.tuner.strategies import ProxylessNAS
from keras_mnv4.tuner.strategies import TuNAS
from keras_mnv4.tuner.strategies import search_batches
from keras_mnv4.tuner.supernet import SuperNet

__all__ = [
    "DARTS",
    "SPOS",
    "CostModel",
    "CostTable",
    "EvolutionOracle",
    "Gates",
    "ProxylessNAS",
    "ReinforceOracle",
    "SearchSpace",
    "SuperNet",
    "TuNAS",
    "UIBHyperModel",
    "UIBTuner",
    "coarse_space",
    "fine_space",
    "gradient_search",
    "search",
    "search_batches",
    "small_space",
    "tiny_space",
    "train_found",
    "two_stage_search",
]


# Keras Tuner is imported where it is used.
_WITH_KERAS_TUNER = {
    "EvolutionOracle": "evolution",
    "ReinforceOracle": "reinforce",
    "UIBHyperModel": "hypermodel",
    "UIBTuner": "uib_tuner",
}


def __getattr__(name):
    if name in _WITH_KERAS_TUNER:
        return getattr(importlib.import_module(f"{__name__}.{_WITH_KERAS_TUNER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
