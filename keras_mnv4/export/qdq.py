"""Integers in ONNX files: `QuantizeLinear` and `DequantizeLinear` for activations, INT8 and INT4 kernels.

`store_integers` writes them into a graph that tf2onnx made with a stand-in for each fake-quantiser. It is a pass over
the finished graph and not a set of tf2onnx handlers, for only there each convolution stands beside its normalisation,
in the final layout; before, tf2onnx would round constant kernels and keep the floats.
"""

import dataclasses

import numpy as np

from keras_mnv4.export.verify import ExportError
from keras_mnv4.qat.grid import Grid

LAST_INT4 = 15  # highest code of a fake-quantiser of 4 bits
INT4_OPSET = 21  # the first that knows INT4
MAX_BIAS = 2**31 - 1
DEAD_BIAS = 2**24  # code of the bias of a channel whose kernel is zero: its scale is free, this one loses nothing
# Hand values on as they are, and so their scale.
MOVING_OPS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool")


@dataclasses.dataclass(frozen=True)
class FakeQuant:
    """One fake-quantiser of a model.

    Args:
        name: of its stand-in. For an activation that is a `Clip` to the ends of the grid, which tf2onnx moves about
            like any other; for a kernel it is an input of the graph, which tf2onnx can only transpose and reshape.
        grid: what it rounds to; for a kernel, along the last axis.
        kernel: the codes of the kernel that it rounds; None for an activation.
    """

    name: str
    grid: Grid
    kernel: np.ndarray | None = None

    @property
    def codes_name(self):
        """Name of the tensor that holds the codes of an activation."""
        return f"{self.name}/codes"


def store_integers(proto, quantizers):
    """Puts quantisers and integer kernels in the place of their stand-ins.

    A convolution takes in the factors and sums, one a channel, that follow it: the sizes of the factors go into the
    scales of its kernel, their signs into the codes, and the sums into a bias of 32 bits.

    Args:
        proto: an `onnx.ModelProto`, its nodes in topological order.
        quantizers: sequence of `FakeQuant`.

    Returns:
        The `onnx.ModelProto` with integers. `proto` is used up.

    Raises:
        ExportError: if the stand-in of a kernel is read in a way that integers have no form for.
    """
    from onnx import version_converter

    if any(quantizer.kernel is not None and quantizer.grid.last <= LAST_INT4 for quantizer in quantizers):
        proto = version_converter.convert_version(proto, INT4_OPSET)
    graph = Graph(proto)
    kernels = _take_kernels(graph, quantizers)
    for pool in graph.of_kind("MaxPool"):
        if _reads_no_negatives(graph, pool, quantizers):
            _pad_inside(graph, pool)
    for conv in graph.of_kind("Conv"):
        _pad_inside(graph, conv)
        if conv.input[1] in kernels:
            kernels[conv.input[1]] = _take_in_affine(graph, conv, kernels[conv.input[1]])
    _place_quantizers(graph, quantizers)
    for node in (*graph.of_kind("Resize"), *graph.of_kind("Slice")):
        _stay_on_integers(graph, node)
    for conv in graph.of_kind("Conv"):
        if conv.input[1] in kernels:
            kernels[conv.input[1]] = _round_bias(graph, conv, kernels[conv.input[1]])
    for name, kernel in kernels.items():
        kernel.write(graph, name)
    return graph.finish()


class Graph:
    """An ONNX graph that can be asked who makes and who reads a tensor, and be changed.

    Args:
        proto: an `onnx.ModelProto`, its nodes in topological order.
    """

    def __init__(self, proto):
        from onnx import numpy_helper

        self.proto = proto
        self.nodes = list(proto.graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}

    def of_kind(self, kind):
        return [node for node in self.nodes if node.op_type == kind]

    def producer(self, name):
        return next((node for node in self.nodes if name in node.output), None)

    def readers(self, name):
        """The nodes that read tensor `name`; an output of the graph counts as read by None."""
        is_output = any(output.name == name for output in self.proto.graph.output)
        return [node for node in self.nodes if name in node.input] + [None] * is_output

    def dequantizer(self, name):
        """The `DequantizeLinear` that tensor `name` comes from, handed on or not; None if there is none."""
        node = self.producer(name)
        while node is not None and node.op_type in MOVING_OPS:
            node = self.producer(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def activation_scale(self, name):
        """The scale of the codes behind tensor `name`; None if it does not come from a `DequantizeLinear`."""
        node = self.dequantizer(name)
        return None if node is None else self.constants[node.input[1]]

    def computes_on_integers(self, node):
        """Whether all that `node` reads was dequantised, and all that it gives is quantised, activation included."""
        if any(self.activation_scale(name) is None for name in node.input):
            return False
        readers = self.readers(node.output[0])
        while len(readers) == 1 and readers[0] is not None and readers[0].op_type in (*MOVING_OPS, "Relu", "Clip"):
            readers = self.readers(readers[0].output[0])
        return all(reader is not None and reader.op_type == "QuantizeLinear" for reader in readers)

    def add_constant(self, name, values, dtype="float32"):
        """Adds an initialiser; `dtype` is a name such as `"int4"`."""
        from onnx import TensorProto
        from onnx import helper
        from onnx import numpy_helper

        code = TensorProto.FLOAT if dtype == "float32" else TensorProto.DataType.Value(dtype.upper())
        self.constants[name] = np.asarray(values, helper.tensor_dtype_to_np_dtype(code))
        self.proto.graph.initializer.append(numpy_helper.from_array(self.constants[name], name))
        return name

    def add_node(self, position, kind, inputs, output, **attributes):
        from onnx import helper

        self.nodes.insert(position, helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def finish(self):
        """The `onnx.ModelProto` with all changes, checked; without constants that nobody reads."""
        from onnx import checker

        graph = self.proto.graph
        read = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        for field, content in ((graph.node, self.nodes), (graph.initializer, kept), (graph.value_info, ())):
            content = list(content)
            del field[:]
            field.extend(content)
        checker.check_model(self.proto)
        return self.proto


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """An integer kernel. Scales and zero points have the shape of the codes, so that all move together.

    Args:
        codes: signed.
        scale: likewise for each code.
        zero_point: likewise.
        ends: lowest and highest code allowed.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    ends: tuple[int, int]

    @classmethod
    def of(cls, quantizer):
        codes, grid = quantizer.kernel, quantizer.grid
        middle = (grid.last + 1) // 2
        scale, zero_point = (np.broadcast_to(value, codes.shape) for value in (grid.scale, grid.zero_point))
        return cls(codes - middle, scale, zero_point - middle, (grid.first - middle, grid.last - middle))

    def moved(self, node, constants):
        """The kernel behind `node`, which transposes or reshapes it."""
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(node)
        others = {name: constants[name] for name in node.input[1:]}
        moved = (
            evaluator.run(None, {node.input[0]: np.ascontiguousarray(values), **others})[0]
            for values in (self.codes, self.scale, self.zero_point)
        )
        return _Kernel(*moved, self.ends)

    def times(self, factor):
        """The kernel times `factor`, one number a channel of the first axis; None where a code has no negative."""
        factor = self.along_channels(factor)
        codes = np.where(factor < 0, 2 * self.zero_point - self.codes, self.codes)
        codes = np.where(factor == 0, self.zero_point, codes)
        if codes.min() < self.ends[0] or codes.max() > self.ends[1]:
            return None
        scale = self.scale * np.where(factor == 0, 1, np.abs(factor)).astype("float32")
        return dataclasses.replace(self, codes=codes, scale=scale)

    def along_channels(self, vector):
        return np.reshape(vector, (-1,) + (1,) * (self.codes.ndim - 1))

    def per_channel(self, values):
        """Rows of `values`, which have the kernel's shape: one a channel."""
        return values.reshape(len(values), -1)

    def _varies_along(self, axis):
        return any(np.ptp(values.astype("float64"), axis).any() for values in (self.scale, self.zero_point))

    def write(self, graph, name):
        """Adds the initialisers, and the `DequantizeLinear` that gives tensor `name`."""
        from onnx import TensorProto

        axes = [axis for axis in range(self.scale.ndim) if self._varies_along(axis)]
        if len(axes) > 1:
            raise ExportError(f"The scales of kernel `{name}` vary along more than one axis.")
        index = tuple(slice(None) if axis in axes else 0 for axis in range(self.scale.ndim))
        is_int4 = self.ends[1] <= LAST_INT4 // 2
        codes = graph.add_constant(f"{name}/codes", self.codes, "int4" if is_int4 else "int8")
        scale = graph.add_constant(f"{name}/scale", self.scale[index])
        zero_point = graph.add_constant(f"{name}/zero_point", self.zero_point[index], "int8")
        along = {"axis": axes[0]} if axes else {}
        widened = f"{name}/int8" if is_int4 else codes
        graph.add_node(0, "DequantizeLinear", [widened, scale, zero_point], name, **along)
        if is_int4:
            # A runtime does this once, when it loads the file: convolutions of integers take none below 8 bits.
            graph.add_node(0, "Cast", [codes], widened, to=TensorProto.INT8)


def _take_kernels(graph, quantizers):
    """Takes the kernels' stand-ins out of the graph; gives the `_Kernel` for each tensor that an operator reads."""
    kernels = {quantizer.name: _Kernel.of(quantizer) for quantizer in quantizers if quantizer.kernel is not None}
    inputs = [each for each in graph.proto.graph.input if each.name not in kernels]
    del graph.proto.graph.input[:]
    graph.proto.graph.input.extend(inputs)
    for node in list(graph.nodes):
        if node.op_type in MOVING_OPS and node.input[0] in kernels:
            kernels[node.output[0]] = kernels[node.input[0]].moved(node, graph.constants)
            graph.nodes.remove(node)
    return {name: kernel for name, kernel in kernels.items() if graph.readers(name)}


def _reads_no_negatives(graph, pool, quantizers):
    """Whether `pool` reads nothing below zero: its own padding, with the least number, then gives what zeros give."""
    node = graph.producer(pool.input[0])
    while node is not None and node.op_type in (*MOVING_OPS, "Pad"):
        node = graph.producer(node.input[0])
    return node is not None and any(each.name == node.name and each.grid.ends[0] == 0 for each in quantizers)


def _pad_inside(graph, node):
    """Lets a convolution or a pooling do the padding with zeros that stands before it."""
    from onnx import helper

    pad = graph.producer(node.input[0])
    if pad is None or pad.op_type != "Pad" or len(pad.input) > 3:
        return
    modes = [helper.get_attribute_value(each) for each in pad.attribute if each.name == "mode"]
    value = graph.constants[pad.input[2]] if len(pad.input) == 3 and pad.input[2] else 0
    margins = graph.constants[pad.input[1]].reshape(2, -1)
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    before = attributes.get("pads", [0] * margins[:, 2:].size)
    is_plain = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and modes in ([], [b"constant"])
    if not is_plain or value != 0 or margins[:, :2].any():
        return
    pads = (margins[:, 2:].ravel() + before).tolist()
    attributes = {**attributes, "auto_pad": "NOTSET", "pads": pads}
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    node.input[0] = pad.input[0]
    if not graph.readers(pad.output[0]):
        graph.nodes.remove(pad)


def _take_in_affine(graph, conv, kernel):
    """`kernel` times the factors behind `conv`; the sums behind it become its bias."""
    channels = len(kernel.codes)
    factor = np.ones(channels, "float32")
    bias = graph.constants[conv.input[2]] if len(conv.input) == 3 else np.zeros(channels, "float32")
    output, taken_in = conv.output[0], []
    while (step := _affine_step(graph, output, channels)) is not None:
        node, value = step
        factor, bias = (factor * value, bias * value) if node.op_type == "Mul" else (factor, bias + value)
        output = node.output[0]
        taken_in.append(node)
    product = kernel.times(factor)
    if product is None or not taken_in or len(graph.readers(conv.input[1])) > 1:
        return kernel
    for node in taken_in:
        graph.nodes.remove(node)
    conv.output[0] = output
    conv.input[2:] = [graph.add_constant(f"{conv.input[1]}/bias", bias)]
    return product


def _affine_step(graph, name, channels):
    """The node that alone reads tensor `name`, and its constant, if it is a product or a sum with one a channel."""
    readers = graph.readers(name)
    if len(readers) != 1 or readers[0] is None or readers[0].op_type not in ("Mul", "Add"):
        return None
    constants = [graph.constants[each] for each in readers[0].input if each in graph.constants]
    try:
        return readers[0], np.broadcast_to(constants[0], (1, channels, 1, 1)).ravel()
    except (IndexError, ValueError):
        return None


def _place_quantizers(graph, quantizers):
    """Quantises and dequantises in the place of the activations' stand-ins; a grid of few codes keeps its `Clip`."""
    grids = {quantizer.name: quantizer for quantizer in quantizers if quantizer.kernel is None}
    for clip in graph.of_kind("Clip"):
        if clip.name not in grids:
            continue
        grid, codes = grids[clip.name].grid, grids[clip.name].codes_name
        position, output, values = graph.nodes.index(clip), clip.output[0], clip.input[0]
        if (grid.first, grid.last) == (0, 255):
            graph.nodes.remove(clip)
        else:
            position, values = position + 1, f"{clip.name}/clipped"
            clip.output[0] = values
        scale = graph.add_constant(f"{clip.name}/scale", grid.scale)
        zero_point = graph.add_constant(f"{clip.name}/zero_point", grid.zero_point, "uint8")
        graph.add_node(position, "QuantizeLinear", [values, scale, zero_point], codes)
        graph.add_node(position + 1, "DequantizeLinear", [codes, scale, zero_point], output)


def _stay_on_integers(graph, node):
    """Says behind a node that hands on codes that they are codes: runtimes compute on integers between roundings only.

    TensorFlow's way to find nearest neighbours, which ONNX gave up, becomes one that finds the same for whole factors.
    """
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Resize" and attributes["mode"].s != b"nearest":
        return  # what lies between codes is not rounded by the model either
    if "coordinate_transformation_mode" in attributes:
        attributes["coordinate_transformation_mode"].s = b"asymmetric"
    source = graph.dequantizer(node.input[0])
    if source is None:
        return
    _, scale, zero_point = source.input
    position, output = graph.nodes.index(node) + 1, node.output[0]
    node.output[0], codes = f"{output}/unrounded", f"{output}/codes"
    graph.add_node(position, "QuantizeLinear", [node.output[0], scale, zero_point], codes)
    graph.add_node(position + 1, "DequantizeLinear", [codes, scale, zero_point], output)


def _round_bias(graph, conv, kernel):
    """Stores the bias of `conv` in units of the products that it is added to. Gives `kernel` with final scales.

    Where 32 bits cannot hold it, or nobody rounded what the convolution reads, the bias stays in float.
    """
    source = graph.activation_scale(conv.input[0])
    if source is None or len(conv.input) < 3:
        return kernel
    bias = graph.constants[conv.input[2]].astype("float64")
    is_dead = (kernel.per_channel(kernel.codes) == kernel.per_channel(kernel.zero_point)).all(-1) & (bias != 0)
    is_dead &= len(graph.readers(conv.input[1])) == 1
    scales = np.where(is_dead, np.abs(bias) / (DEAD_BIAS * source), kernel.per_channel(kernel.scale)[:, 0])
    units = (source * scales).astype("float32")
    codes = np.rint(bias / units)
    if np.abs(codes).max() > MAX_BIAS:
        return kernel
    name = f"{conv.output[0]}/bias"  # convolutions may share theirs
    inputs = [
        graph.add_constant(f"{name}/codes", codes.astype("int32"), "int32"),
        graph.add_constant(f"{name}/scale", units),
    ]
    conv.input[2] = graph.add_node(0, "DequantizeLinear", inputs, f"{name}/values", axis=0)
    scale = np.broadcast_to(kernel.along_channels(scales.astype("float32")), kernel.codes.shape)
    return dataclasses.replace(kernel, scale=scale)
