"""Distillation: a student that learns from a teacher's probabilities, online or written down, on mixed data sets."""

from keras_mnv4.distillation.augmentation import D1
from keras_mnv4.distillation.augmentation import D2
from keras_mnv4.distillation.augmentation import D3
from keras_mnv4.distillation.augmentation import Augmentation
from keras_mnv4.distillation.dataset_mix import DatasetMix
from keras_mnv4.distillation.dataset_mix import Source
from keras_mnv4.distillation.distiller import Distiller
from keras_mnv4.distillation.offline import SoftLabelStore
from keras_mnv4.distillation.offline_writer import StoreEstimate
from keras_mnv4.distillation.offline_writer import estimate_soft_labels
from keras_mnv4.distillation.offline_writer import write_soft_labels
from keras_mnv4.distillation.relevance import select_relevant

__all__ = [
    "D1",
    "D2",
    "D3",
    "Augmentation",
    "DatasetMix",
    "Distiller",
    "SoftLabelStore",
    "Source",
    "StoreEstimate",
    "estimate_soft_labels",
    "select_relevant",
    "write_soft_labels",
]
