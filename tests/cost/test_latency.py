import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import tiny_hybrid
from conftest import tiny_network

from keras_mnv4 import cost
from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.export.tflite_file import cut_operator
from keras_mnv4.export.tflite_file import read_tflite

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def hybrid_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "hybrid.tflite"
    model = qat.quantize_model(
        tiny_hybrid(), "w8a8", np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    )
    export.to_litert(model, path, "cpu")
    return path


def test_latency_of_a_file_and_of_its_bytes(hybrid_file):
    for source in (hybrid_file, hybrid_file.read_bytes()):
        found = cost.measure_latency(source, runs=10)
        assert 0 < found.p10 <= found.median <= found.p90
        assert str(found).endswith(" ms")


@pytest.mark.parametrize("measure", [cost.measure_latency, cost.measure_operators])
def test_no_run_at_all_is_refused(measure, hybrid_file):
    with pytest.raises(ValueError, match="`runs` must be 1 or more"):
        measure(hybrid_file, runs=0)


def test_every_operator_is_measured_and_told_apart(hybrid_file):
    found = cost.measure_operators(hybrid_file, runs=3)
    file = read_tflite(hybrid_file)
    assert [each.kind for each in found.operators] == [each.kind for each in file.operators]
    assert all(each.latency.median > 0 for each in found.operators)
    delegated = {each.kind for each in found.operators if each.is_delegated}
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD"} <= delegated
    assert "SOFTMAX" not in delegated  # XNNPACK has no softmax of integers
    assert "SOFTMAX" in str(found)


def with_constants_behind(content):
    """The file with its constants behind the flatbuffer, as Google's converter of PyTorch models writes them."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    constants = [(buffer, bytes(buffer.data)) for buffer in model.buffers if buffer.data is not None]
    end = 2**20  # behind any flatbuffer of here
    for buffer, data in constants:
        buffer.data, buffer.offset, buffer.size = None, end, len(data)
        end += -(-len(data) // 16) * 16
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    whole = bytearray(end)
    whole[: len(builder.Output())] = builder.Output()
    for buffer, data in constants:
        whole[buffer.offset : buffer.offset + len(data)] = data
    return bytes(whole)


def test_constants_behind_the_flatbuffer_are_found(hybrid_file):
    content = hybrid_file.read_bytes()
    moved = with_constants_behind(content)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    outputs = [export.LiteRTModel(each).predict(pixels) for each in (content, moved)]
    np.testing.assert_array_equal(*outputs)  # LiteRT takes it for the same network
    ours, theirs = (read_tflite(each) for each in (content, moved))
    assert [each.inputs for each in theirs.operators] == [each.inputs for each in ours.operators]
    found = cost.measure_operators(moved, runs=1)
    assert [each.kind for each in found.operators] == [each.kind for each in ours.operators]


def test_a_cut_operator_computes_what_it_does_in_the_file(tmp_path):
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    path = tmp_path / "model.tflite"
    model = qat.quantize_model(
        tiny_network(), "w8a8", np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    )
    export.to_litert(model, path, "edgetpu")
    content = path.read_bytes()
    own_kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    whole = Interpreter(
        model_content=content, experimental_preserve_all_tensors=True, experimental_op_resolver_type=own_kernels
    )
    whole.allocate_tensors()
    codes = np.random.default_rng(1).integers(-128, 128, (1, 32, 32, 3)).astype("int8")
    whole.set_tensor(whole.get_input_details()[0]["index"], codes)
    whole.invoke()
    for operator in read_tflite(content).operators:
        alone = Interpreter(model_content=cut_operator(content, operator.index))
        alone.allocate_tensors()
        computed = [each for each in operator.inputs if each is not None and not each.is_constant]
        inputs = sorted(alone.get_input_details(), key=lambda each: each["index"])
        for tensor, place in zip(sorted(computed, key=lambda each: each.index), inputs, strict=True):
            alone.set_tensor(place["index"], whole.get_tensor(tensor.index))
        alone.invoke()
        result = alone.get_tensor(alone.get_output_details()[0]["index"])
        expected = whole.get_tensor(operator.outputs[0].index)
        assert np.abs(result.astype(int) - expected).max() <= 1, operator.kind
