"""What each kind of block becomes in an integer file: attention, anti-aliasing, activations, few bits."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from conftest import TINY
from conftest import fit_statistics
from conftest import randomize_statistics
from conftest import tiny_hybrid
from conftest import tiny_network
from conftest import tiny_resnet

from keras_mnv4 import cost
from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import build_network
from keras_mnv4.export import verify
from keras_mnv4.export.tflite_file import read_tflite

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def photos(real_photos):
    return real_photos(16, 32).astype("float32")


def export_quantized(model, photos, path, target, policy="w8a8"):
    """The report and the file of a model with random statistics, quantised and calibrated."""
    quantized = qat.quantize_model(fit_statistics(randomize_statistics(model), photos), policy)
    qat.calibrate(quantized, photos)
    report = export.to_litert(quantized, path, target, samples=photos)
    return report, read_tflite(path)


def kinds(file):
    return Counter(operator.kind for operator in file.operators)


def test_attention_becomes_matrix_products_of_two_ranks(photos, tmp_path):
    """LiteRT's fast kernels take fully connected layers of integers, and no batched products of them."""
    report, file = export_quantized(tiny_hybrid(), photos, tmp_path / "m.tflite", "cpu")
    found = kinds(file)
    assert (found["FULLY_CONNECTED"], found["BATCH_MATMUL"], found["SOFTMAX"]) == (4, 0, 3)
    assert found["MUL"] == found["SUB"] == 0  # the normalisations before attention are one operator each
    assert min(part.within_one_step for part in report.parts) == 1.0
    inner = {part.path.removeprefix("block_3/") for part in report.parts if part.path.startswith("block_3/")}
    projections = {f"attention/{name}" for name in ("query", "key_down", "key", "value_down", "value", "output")}
    assert inner == {"norm", *projections, "attention/logits", "attention/softmax", "attention/context", "add"}


def test_attention_in_float_is_batched_products_for_the_delegate(photos, tmp_path):
    """All of the file is one piece for XNNPACK, which in float takes products of two tensors only as batched ones."""
    path = tmp_path / "m.tflite"
    export.to_litert(randomize_statistics(tiny_hybrid()), path, "float", samples=photos)
    found = kinds(read_tflite(path))
    assert (found["FULLY_CONNECTED"], found["BATCH_MATMUL"]) == (0, 4)
    assert all(operator.is_delegated for operator in cost.measure_operators(path, runs=1).operators)


@pytest.mark.parametrize(("kind", "operator"), [("average", "AVERAGE_POOL_2D"), ("blur", "DEPTHWISE_CONV_2D")])
def test_anti_aliasing_is_one_operator_more(kind, operator, photos, tmp_path):
    model = build_network(
        dataclasses.replace(TINY, anti_aliasing=kind), classes=3, input_shape=(32, 32, 3), classifier_activation=None
    )
    report, _ = export_quantized(model, photos, tmp_path / "m.tflite", "edgetpu")
    downsamplings = [part for part in report.parts if part.path.endswith("/downsample")]
    assert [part.op for part in downsamplings] == [operator]
    assert min(part.within_one_step for part in report.parts) == 1.0


@pytest.mark.parametrize(("activation", "operator"), [("gelu", "GELU"), ("hard_silu", "HARD_SWISH")])
def test_other_activations_are_operators_of_their_own(activation, operator, photos, tmp_path):
    model = tiny_network(activation=activation)
    report, file = export_quantized(model, photos, tmp_path / "m.tflite", "cpu")
    assert kinds(file)[operator] == len([part for part in report.parts if part.path.endswith("activation")]) > 3


def kernels(file):
    return [operator.inputs[1] for operator in file.operators if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")]


def test_four_bits_are_packed_for_the_cpu_and_contained_in_eight_elsewhere(photos, tmp_path):
    packed, packed_file = export_quantized(tiny_network(), photos, tmp_path / "cpu.tflite", "cpu", "w4a8")
    contained, file = export_quantized(tiny_network(), photos, tmp_path / "edgetpu.tflite", "edgetpu", "w4a8")
    assert {kernel.dtype for kernel in kernels(packed_file)} == {"INT4"}
    assert {kernel.dtype for kernel in kernels(file)} == {"INT8"}
    assert contained.edgetpu.ok
    assert min(part.within_one_step for part in (*packed.parts, *contained.parts)) == 1.0
    for values in constants(tmp_path / "edgetpu.tflite"):
        assert set(np.unique(values)) <= set(range(-126, 127, 18))  # 15 codes, spread as far as 8 bits go
    # A 4-bit step of the kernel would be the unit of the bias; the wider codes make it 18 times finer.
    assert np.mean([part.exact for part in contained.parts]) > np.mean([part.exact for part in packed.parts])


def test_a_residual_unit_ends_in_one_operator(photos, tmp_path):
    """The sum with its relu. Paddings: of the stem, the pooling and one 3x3 convolution; none of 1x1 convolutions."""
    report, file = export_quantized(tiny_resnet(), photos, tmp_path / "m.tflite", "edgetpu")
    found = kinds(file)
    assert (found["ADD"], found["MAX_POOL_2D"], found["PAD"], found["RELU"]) == (3, 1, 3, 0)
    assert min(part.within_one_step for part in report.parts) == 1.0
    inner = {part.path for part in report.parts if part.path.startswith(("block_1", "block_3", "block_4"))}
    bottleneck = {f"block_4/{part}" for part in ("conv_1", "conv_2", "conv_3", "shortcut", "add")}
    assert inner == {"block_1", *(f"block_3/{part}" for part in ("conv_1", "conv_2", "shortcut", "add")), *bottleneck}


def constants(path):
    """The values of the int8 kernels in a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    details = interpreter.get_tensor_details()
    return [
        interpreter.get_tensor(detail["index"])
        for detail in details
        if detail["dtype"] == np.int8 and len(detail["quantization_parameters"]["scales"]) > 1
    ]


def test_activations_of_four_bits_keep_to_their_sixteen_codes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "MAX_ERROR", 9)  # with random weights 4 bits tell photos apart by chance
    report, file = export_quantized(tiny_network(), photos, tmp_path / "m.tflite", "edgetpu", "w4a4")
    assert report.edgetpu.ok
    assert min(part.within_one_step for part in report.parts) == 1.0
    assert min(part.exact for part in report.parts if part.op != "MEAN") > 0.95  # that one truncates
    # Linear outputs end below in a maximum; those with a ReLU end in that.
    linear = [part for part in report.parts if part.path.endswith(("project", "start_depthwise", "add", "/conv"))]
    assert kinds(file)["MAXIMUM"] == len(linear) == 8


def test_a_model_is_itself_again_after_its_export(photos, tmp_path):
    model = qat.quantize_model(randomize_statistics(tiny_network()), "w4a8")
    qat.calibrate(model, photos)
    before = model.predict(photos, verbose=0)
    export.to_litert(model, tmp_path / "m.tflite", samples=photos)
    np.testing.assert_array_equal(model.predict(photos, verbose=0), before)
