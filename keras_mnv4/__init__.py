"""MobileNetV4 for Keras 3: from a `keras.applications`-style import to an integer TFLite file."""

from keras_mnv4 import applications
from keras_mnv4 import cost
from keras_mnv4 import export
from keras_mnv4 import layers
from keras_mnv4 import qat
from keras_mnv4.version import __version__

__all__ = ["__version__", "applications", "cost", "export", "layers", "qat"]
