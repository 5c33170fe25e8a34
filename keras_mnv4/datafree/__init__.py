"""Pictures from a pretrained model alone, and what can be done with them in place of real ones."""

from keras_mnv4.classifiers.soft_labels import SoftLabelLoss
from keras_mnv4.datafree.canvas import Stage
from keras_mnv4.datafree.objective import NATURAL
from keras_mnv4.datafree.objective import PAPER
from keras_mnv4.datafree.objective import RELATIVE
from keras_mnv4.datafree.objective import Objective
from keras_mnv4.datafree.quality import Quality
from keras_mnv4.datafree.quality import measure_quality
from keras_mnv4.datafree.synthesis import default_stages
from keras_mnv4.datafree.synthesis import synthesize
from keras_mnv4.datafree.synthetic_set import SyntheticSet

__all__ = [
    "NATURAL",
    "PAPER",
    "RELATIVE",
    "Objective",
    "Quality",
    "SoftLabelLoss",
    "Stage",
    "SyntheticSet",
    "default_stages",
    "measure_quality",
    "synthesize",
]
