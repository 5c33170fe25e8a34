"""A TFLite file, read into plain records."""

import dataclasses
import functools
import pathlib
import struct

import numpy as np

# What reading raises where offsets point behind the end, or to something else.
DAMAGES = (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a TFLite graph.

    Args:
        index: its number in the graph, the same as in the interpreter.
        name: the converter's name: the names of the TensorFlow ops that it came from, joined by `;`.
        shape: its shape.
        dtype: the schema's name of its type, such as `"INT8"`.
        scales: quantisation scales: none, one, or one a channel.
        zero_points: as many zero points.
        is_constant: whether its values are stored in the file.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    is_constant: bool


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator of a TFLite graph.

    Args:
        index: its place in the order of execution.
        kind: the schema's name, such as `"CONV_2D"`.
        version: version of the operator.
        inputs: its inputs, None for those left out.
        outputs: its outputs.
        options: the schema's object of built-in options, or None.
    """

    index: int
    kind: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: object


@dataclasses.dataclass(frozen=True)
class TFLiteFile:
    """What a TFLite file holds: operators in order, and the inputs and outputs of the graph."""

    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def activations(self):
        """All tensors that are computed, inputs included, in the order of execution."""
        return (*self.inputs, *(tensor for operator in self.operators for tensor in operator.outputs))


def read_tflite(source):
    """Reads a TFLite file of one graph.

    Args:
        source: its path, or its bytes.

    Returns:
        A `TFLiteFile`.

    Raises:
        ValueError: if it is not a TFLite file, was cut off, or has not exactly one graph.
    """
    content = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
    name = "the bytes" if content is source else repr(str(source))
    if content[4:8] != b"TFL3":
        raise ValueError(f"Not a TFLite file: {name}.")
    try:
        model = _unpack(content)
        graphs = [_graph(model, graph) for graph in model.subgraphs]
    except DAMAGES as error:
        raise ValueError(f"Not a TFLite file, or one that was cut off: {name}. {error}") from error
    if len(graphs) != 1:
        raise ValueError(f"Only files of one graph can be read. Received one of {len(graphs)}.")
    return graphs[0]


def _graph(model, graph):
    """The `TFLiteFile` of one of a file's graphs."""
    from ai_edge_litert import schema_py_generated as schema

    tensors = [_tensor(index, tensor, model.buffers) for index, tensor in enumerate(graph.tensors)]

    def pick(indices):
        return tuple(tensors[index] if index >= 0 else None for index in indices)

    operators = []
    for index, operator in enumerate(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = _names(schema.BuiltinOperator)[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if code.customCode:
            kind = code.customCode.decode()
        operators.append(
            Operator(
                index,
                kind,
                code.version,
                pick(operator.inputs if operator.inputs is not None else ()),
                pick(operator.outputs),
                operator.builtinOptions,
            )
        )
    return TFLiteFile(tuple(operators), pick(graph.inputs), pick(graph.outputs))


def cut_operator(content, index):
    """A file of one operator of a TFLite file, with its constants; its inputs are what it does not have in the file.

    Args:
        content: bytes of a file of one graph.
        index: place of the operator.

    Returns:
        The new file's bytes.
    """
    import flatbuffers

    model = _unpack(content)
    (graph,) = model.subgraphs
    operator = graph.operators[index]
    kept = sorted({int(each) for each in (*operator.inputs, *operator.outputs) if each >= 0})
    places = {old: new for new, old in enumerate(kept)} | {-1: -1}
    operator.inputs = [places[int(each)] for each in operator.inputs]
    operator.outputs = [places[int(each)] for each in operator.outputs]
    model.operatorCodes = [model.operatorCodes[operator.opcodeIndex]]
    operator.opcodeIndex = 0
    graph.operators = [operator]
    graph.tensors = [graph.tensors[old] for old in kept]
    buffers = model.buffers[:1]  # the first is empty by definition
    computed = []
    for place, tensor in enumerate(graph.tensors):
        buffer = model.buffers[tensor.buffer]
        if buffer.data is None or not len(buffer.data):
            computed.append(place)
        buffers.append(buffer)
        tensor.buffer = len(buffers) - 1
    graph.inputs = [place for place in computed if place not in operator.outputs]
    graph.outputs = operator.outputs
    model.buffers, model.metadata, model.signatureDefs = buffers, [], []
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def order_outputs(content):
    """A file with its outputs in the order of what it was converted from, by their names in its signature.

    TensorFlow's converter calls them `output_0` and so on there, and puts them into the graph in an order of its own.

    Args:
        content: bytes of a file of one graph and one signature.

    Returns:
        The new file's bytes; only the list of outputs differs.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(content)
    model = schema.Model.GetRootAs(content, 0)
    graph, signature = model.Subgraphs(0), model.SignatureDefs(0)
    named = [signature.Outputs(place) for place in range(signature.OutputsLength())]
    named.sort(key=lambda output: int(output.Name().decode().rpartition("_")[2]))
    graph.OutputsAsNumpy()[:] = [output.TensorIndex() for output in named]  # a view of `content`
    return bytes(content)


def _unpack(content):
    """The schema's object of a file, with all its constants: some converters put them behind the flatbuffer."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.size:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _tensor(index, tensor, buffers):
    from ai_edge_litert import schema_py_generated as schema

    quantization = tensor.quantization
    data = buffers[tensor.buffer].data
    return Tensor(
        index=index,
        name=tensor.name.decode(),
        shape=tuple(int(size) for size in np.ravel(tensor.shape)) if tensor.shape is not None else (),
        dtype=_names(schema.TensorType)[tensor.type],
        scales=_numbers(quantization.scale if quantization else None, float),
        zero_points=_numbers(quantization.zeroPoint if quantization else None, int),
        is_constant=data is not None and len(data) > 0,
    )


def _numbers(values, kind):
    return () if values is None else tuple(kind(value) for value in values)


@functools.cache
def _names(enumeration):
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
