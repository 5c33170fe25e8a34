"""`to_litert`: a Keras model as a TFLite file that was run and compared before it got its name."""

import dataclasses
import pathlib
import warnings

import keras
import numpy as np

from keras_mnv4.export import metadata
from keras_mnv4.export.containers import int8_containers
from keras_mnv4.export.edgetpu import check_edgetpu
from keras_mnv4.export.prepare import PART_SAMPLES
from keras_mnv4.export.prepare import check_backend
from keras_mnv4.export.prepare import check_inputs
from keras_mnv4.export.prepare import checked_samples
from keras_mnv4.export.prepare import freeze
from keras_mnv4.export.prepare import output_names
from keras_mnv4.export.prepare import widen_weight_ranges
from keras_mnv4.export.report import ExportReport
from keras_mnv4.export.runtime import LiteRTModel
from keras_mnv4.export.tflite_file import order_outputs
from keras_mnv4.export.tflite_file import read_tflite
from keras_mnv4.export.verify import ExportError
from keras_mnv4.export.verify import check_float_outputs
from keras_mnv4.export.verify import check_kernels
from keras_mnv4.export.verify import check_outputs
from keras_mnv4.export.verify import check_parts
from keras_mnv4.export.verify import check_precision
from keras_mnv4.export.verify import check_roundings
from keras_mnv4.export.verify import compare_parts
from keras_mnv4.export.verify import float_layers
from keras_mnv4.export.zero_factors import without_zero_factors
from keras_mnv4.files import atomic_file
from keras_mnv4.files import check_writable
from keras_mnv4.qat.fake_quantize import is_quantized
from keras_mnv4.qat.quantize import as_functional
from keras_mnv4.qat.stock.pictures import AUGMENTATIONS
from keras_mnv4.qat.stock.pictures import byte_inputs


@dataclasses.dataclass(frozen=True)
class Target:
    """What a kind of TFLite file is like.

    Args:
        io_dtype: type of input and output.
        is_integer: whether all arithmetic is on integers; such files want a model from `quantize_model`.
        has_int4: whether kernels of 4 bits are stored in 4 bits; otherwise in 8, as all that has fewer bits.
        on_edgetpu: whether the file must map to the Edge TPU.
        needs_class_names: whether it must carry class names and normalisation as metadata.
        takes_class_names: whether it can.
    """

    io_dtype: str
    is_integer: bool
    has_int4: bool = False
    on_edgetpu: bool = False
    needs_class_names: bool = False
    takes_class_names: bool = False


TARGETS = {
    "cpu": Target("int8", is_integer=True, has_int4=True),
    "edgetpu": Target("int8", is_integer=True, on_edgetpu=True),
    "app": Target("uint8", is_integer=True, needs_class_names=True, takes_class_names=True),
    "float": Target("float32", is_integer=False, takes_class_names=True),
}


def to_litert(model, path, target="edgetpu", *, samples=None, class_names=None, overwrite=False):
    """Writes a model as a TFLite file, for one picture at a time, and verifies it.

    Before the file gets its name it is read back and run. An integer file must not contain one float operator, every
    operator that computes must give what its part of the Keras model gives for the same inputs, to one step, and the
    outputs must be those of the Keras model within what such roundings add up to; an Edge TPU file must pass
    `check_edgetpu`. The outputs of a float file must be the Keras model's to a thousandth of their range.

    Args:
        model: a Functional Keras model of one input with a fixed size; for the integer targets, one from
            `keras_mnv4.qat.quantize_model` whose ranges were calibrated or trained. Of those the ranges of channels
            that died in training are widened in place, so that their biases fit into 32 bits. Of several outputs the
            file has them in the order of `model.outputs`.
        path: the `.tflite` file to write.
        target: `"edgetpu"`: int8 in and out, operators of the Edge TPU only. `"cpu"`: int8 in and out, any integer
            operators, and kernels of 4 bits as packed INT4. `"app"`: uint8 picture in, uint8 scores out, with labels
            and normalisation in the metadata, as MediaPipe's ImageClassifier wants it. `"float"`: float32 throughout.
            But for `"cpu"`, whatever has fewer than 8 bits lies in 8-bit containers.
        samples: inputs of `model` to compare outputs on, `(count, height, width, channels)`; best, real pictures. By
            default a few made-up ones.
        class_names: in the order of the outputs, for `"app"`; with them a `"float"` file is one for MediaPipe, too.
            The other targets carry none.
        overwrite: whether an existing file may be replaced.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: on an unknown target, a model that does not suit it, or samples that do not suit the model.
        FileExistsError: if `path` exists and `overwrite` is False.
        ExportError: if the file fails its verification; the message names the layer. Nothing is left at `path`.
        RuntimeError: if the Keras backend is not TensorFlow.

    Example:

    >>> report = to_litert(quantized, "vision.tflite", target="edgetpu", samples=photos)
    >>> report.edgetpu.ok
    True
    """
    chosen = _check_arguments(model, target, class_names)
    check_writable(path, overwrite)
    samples = checked_samples(samples, model.input_shape[1:])

    with without_zero_factors(model):
        widen_weight_ranges(model)
        with int8_containers(model, keep_int4=chosen.has_int4):
            content = _convert(_without_preprocessing(model) if chosen.is_integer else model, chosen)
    if chosen.is_integer:
        islands = float_layers(read_tflite(content), model)
        if islands:
            raise ExportError(f"The file would compute in float at {', '.join(islands)}: quantise its outputs too.")
    edgetpu = check_edgetpu(content) if chosen.on_edgetpu else None
    if edgetpu is not None and not edgetpu.ok:
        raise ExportError(f"The file would not run wholly on the Edge TPU:\n{edgetpu}")
    if chosen.takes_class_names and class_names is not None:
        mean, std = _normalization(model, chosen)
        content = metadata.add_classifier_metadata(content, model.name, class_names, mean, std)
    parts = _compare_parts(model, content, samples) if chosen.is_integer else ()
    agreements = _compare(model, content, samples, chosen)

    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(content)
    return ExportReport(pathlib.Path(path), len(content), agreements, parts, edgetpu)


def _check_arguments(model, target, class_names):
    if target not in TARGETS:
        raise ValueError(f"`target` must be one of {sorted(TARGETS)}. Received: target={target!r}")
    check_backend(
        "TFLite files are made on the TensorFlow backend: set KERAS_BACKEND=tensorflow, load the saved model and "
        "export it there."
    )
    check_inputs(model)
    shape = model.input_shape
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            f"`model` must take one picture of a fixed size: build it with `input_shape`. Received: {shape}"
        )
    if keras.config.image_data_format() != "channels_last":
        raise ValueError("TFLite files are channels_last: build the model in that data format.")
    chosen = TARGETS[target]
    check_roundings(model)
    if chosen.is_integer != is_quantized(model):
        need = "a model from `keras_mnv4.qat.quantize_model`" if chosen.is_integer else "a float model"
        raise ValueError(f"Target `{target}` needs {need}. Received: {model.name}")
    check_precision(model)
    if chosen.is_integer:
        check_kernels(model)
    if len({id(output) for output in model.outputs}) < len(model.outputs):
        raise ValueError(
            f"`model` gives the same tensor twice: build it with each output once. Received: {output_names(model)}"
        )
    is_labelled = chosen.needs_class_names or (chosen.takes_class_names and class_names is not None)
    if is_labelled and len(model.outputs) != 1:
        raise ValueError(
            f"A file with labels is a classifier of one output. Received: a model of {len(model.outputs)} outputs"
        )
    if is_labelled and (0 if class_names is None else len(class_names)) != model.output_shape[-1]:
        raise ValueError(
            f"Target `{target}` needs one label for each of the {model.output_shape[-1]} outputs. "
            f"Received: {'none' if class_names is None else len(class_names)}"
        )
    return chosen


def _without_preprocessing(model):
    """`model` from behind its scaling of bytes, where the integer file's input scale does that."""
    scaling = _preprocessing(model)
    return model if scaling is None else keras.Model(scaling.output, model.output, name=model.name)


def _preprocessing(model):
    """The `Rescaling` behind the input and augmentations, or None. (A `ColorRescaling` stands behind a quantiser.)"""
    first = next(layer for layer in model.layers if not isinstance(layer, (keras.layers.InputLayer, *AUGMENTATIONS)))
    return first if isinstance(first, keras.layers.Rescaling) else None


def _normalization(model, target):
    """The `(mean, std)` for which `(byte - mean) / std` is what the network of the file takes."""
    scaling = _preprocessing(model)
    if target.is_integer and scaling is not None:
        return -scaling.offset / scaling.scale, 1 / scaling.scale
    if not takes_bytes(model):
        raise ValueError(
            "A file with labels takes bytes, so the model must scale them itself: build it with "
            "`include_preprocessing=True`, or with a `keras.layers.Rescaling` behind the input."
        )
    return 0.0, 1.0  # the file does it


def takes_bytes(model):
    """Whether pictures for `model`, fake-quantised or in float, are bytes, 0 to 255, which it scales itself.

    Args:
        model: a Functional model, or a built Sequential.

    Raises:
        ValueError: if it is neither.
    """
    return bool(byte_inputs(as_functional(model)))


def _convert(model, target):
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    frozen = freeze(lambda picture: model(picture, training=False), (1, *model.input_shape[1:]))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module())
    if target.is_integer:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(target.io_dtype)
    with warnings.catch_warnings():
        # "Statistics for quantized inputs were expected": the fake-quantisers hold them.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return order_outputs(converter.convert())
        except ConverterError as error:
            raise ExportError(f"TensorFlow's converter makes no file of model `{model.name}`: {error}") from error


def _file_inputs(model, samples):
    """What an integer file takes for `samples`, inputs of the model: the pictures behind its scaling of bytes."""
    scaling = _preprocessing(model)
    return samples if scaling is None else np.asarray(scaling(samples))


def _compare_parts(model, content, samples):
    return check_parts(compare_parts(content, model, _file_inputs(model, samples[:PART_SAMPLES])))


def _compare(model, content, samples, target):
    file = LiteRTModel(content)
    if not target.is_integer:
        return check_float_outputs(model, samples, file.predict(samples))
    actual = file.predict(file.quantize(_file_inputs(model, samples)))  # made-up samples may be out of its range
    return check_outputs(model, samples, actual, [output["quantization"][0] for output in file.outputs])
