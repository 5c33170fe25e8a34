"""MobileNetV4 for Keras 3: from a `keras.applications`-style import to an integer TFLite file."""

import importlib

from keras_mnv4 import applications
from keras_mnv4 import cost
from keras_mnv4 import export
from keras_mnv4 import layers
from keras_mnv4 import qat
from keras_mnv4.version import __version__

__all__ = ["__version__", "applications", "cost", "export", "layers", "qat"]

# The others are imported where they are used.
_ON_DEMAND = ("data", "datafree", "demo", "distillation", "fitting", "recipes", "training", "tuner")


def __getattr__(name):
    if name in _ON_DEMAND:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*__all__, *_ON_DEMAND]
