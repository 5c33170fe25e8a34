"""Verified files from Keras models: TFLite for phones and Edge TPUs, and ONNX."""

from keras_mnv4.export.android import check_android_project
from keras_mnv4.export.android import install_android
from keras_mnv4.export.edgetpu import EdgeTPUReport
from keras_mnv4.export.edgetpu import Finding
from keras_mnv4.export.edgetpu import check_edgetpu
from keras_mnv4.export.litert import to_litert
from keras_mnv4.export.onnx import run_onnx
from keras_mnv4.export.onnx import to_onnx
from keras_mnv4.export.report import ExportReport
from keras_mnv4.export.runtime import LiteRTModel
from keras_mnv4.export.verify import Agreement
from keras_mnv4.export.verify import ExportError
from keras_mnv4.export.verify import PartAgreement

__all__ = [
    "Agreement",
    "EdgeTPUReport",
    "ExportError",
    "ExportReport",
    "Finding",
    "LiteRTModel",
    "PartAgreement",
    "check_android_project",
    "check_edgetpu",
    "install_android",
    "run_onnx",
    "to_litert",
    "to_onnx",
]
