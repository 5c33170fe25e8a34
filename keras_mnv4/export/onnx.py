"""`to_onnx`: a Keras model as an ONNX file, float or integer, through tf2onnx."""

import functools
import itertools
import pathlib
import warnings

import keras
import numpy as np

from keras_mnv4.export.prepare import PART_SAMPLES
from keras_mnv4.export.prepare import check_backend
from keras_mnv4.export.prepare import check_inputs
from keras_mnv4.export.prepare import checked_samples
from keras_mnv4.export.prepare import freeze
from keras_mnv4.export.prepare import output_names
from keras_mnv4.export.prepare import widen_weight_ranges
from keras_mnv4.export.qdq import FakeQuant
from keras_mnv4.export.qdq import Graph
from keras_mnv4.export.qdq import store_integers
from keras_mnv4.export.report import ExportReport
from keras_mnv4.export.runtime import only_or_all
from keras_mnv4.export.verify import ExportError
from keras_mnv4.export.verify import PartAgreement
from keras_mnv4.export.verify import check_float_outputs
from keras_mnv4.export.verify import check_outputs
from keras_mnv4.export.verify import check_parts
from keras_mnv4.export.verify import check_precision
from keras_mnv4.export.verify import check_roundings
from keras_mnv4.export.verify import layer_path
from keras_mnv4.files import atomic_file
from keras_mnv4.files import check_writable
from keras_mnv4.qat.fake_quantize import is_quantized
from keras_mnv4.qat.grid import Grid

OPSET = 18
INTEGER_OPSET = 17  # the last in which tf2onnx makes a mean over all pixels the operator that has an integer form
FAKE_QUANT_OPS = ("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
DTYPES = {"float": "float32", "double": "float64"}  # by what ONNX Runtime calls them; others are as in NumPy
PRODUCTS = ("Conv", "Gemm", "MatMul")


def to_onnx(model, path, *, samples=None, overwrite=False):
    """Writes a model as an ONNX file with a free batch size, and verifies it with ONNX Runtime.

    A model from `keras_mnv4.qat.quantize_model` becomes an integer file: kernels are stored as INT8 or, of 4 bits, as
    INT4 (opset 21), normalisations lie in their scales and in biases of 32 bits, and `QuantizeLinear` and
    `DequantizeLinear` stand where the model rounds, so that runtimes compute on integers. Layers that the policy left
    in float stay in float, and the report names them. Preprocessing is part of the file: its input is the model's.

    Args:
        model: a Keras model of one input on the TensorFlow backend, float or fake-quantised. Of a fake-quantised one
            the ranges of channels that died in training are widened in place, so that their biases fit into 32 bits.
            Of several outputs the file has them in the order of `model.outputs`.
        path: the `.onnx` file to write.
        samples: inputs of `model` to compare outputs on; by default a few made-up pictures.
        overwrite: whether an existing file may be replaced.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: if `model` has several inputs, or rounds inputs of layers, or activations channel by
            channel, which integer operators cannot; or if `samples` do not suit it.
        RuntimeError: if the Keras backend is not TensorFlow.
        FileExistsError: if `path` exists and `overwrite` is False.
        ExportError: if ONNX Runtime's outputs are not the Keras model's; of an integer file also if what it rounds is
            not, given the same inputs, what the Keras model rounds, or a kernel is not stored as integers. Nothing is
            left at `path`.

    Example:

    >>> to_onnx(MobileNetV4ConvSmall(weights=None), "vision.onnx").agreement.top1
    1.0
    >>> to_onnx(quantized, "integers.onnx", samples=photos).float_layers
    ()
    """
    check_backend("ONNX files are made on the TensorFlow backend: set KERAS_BACKEND=tensorflow.")
    check_inputs(model)
    check_precision(model)
    check_writable(path, overwrite)
    samples = checked_samples(samples, model.input_shape[1:])
    check_roundings(model)
    _teach_tf2onnx_erfc()
    write = _write_integer if is_quantized(model) else _write_float
    with atomic_file(path, overwrite) as temporary:
        agreements, parts, floats = write(model, temporary, samples)
        size = temporary.stat().st_size
    return ExportReport(pathlib.Path(path), size, agreements, parts, float_layers=floats)


def run_onnx(path, inputs, batch_size=32):
    """Runs an ONNX file of one input on `inputs`, on the CPU.

    Integer files are run with ONNX Runtime's `session.x64quantprecision`. Without it, x86 processors that lack VNNI
    add up products with 8-bit kernels in 16 bits, which overflow now and then; 4-bit kernels are never concerned.

    Args:
        path: the file.
        inputs: array `(count, ...)`, of any type: the file's own is made of it.
        batch_size: inputs a run.

    Returns:
        Array `(count, ...)` of its output; of a file with several, a list of such arrays, in the file's order.
    """
    session = _session(str(path))
    source = session.get_inputs()[0]
    name, kind = source.name, source.type.removeprefix("tensor(").removesuffix(")")
    inputs = np.asarray(inputs, DTYPES.get(kind, kind))
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    runs = [session.run(None, {name: batch}) for batch in batches]
    return only_or_all([np.concatenate(each) for each in zip(*runs, strict=True)])


def _session(file):
    """An ONNX Runtime session for a path or the bytes of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@functools.cache
def _teach_tf2onnx_erfc():
    """Has tf2onnx write TensorFlow's `Erfc`, which GELU is made of and ONNX lacks, as one less `Erf`."""
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, context, node, **_):
            name, source, result = node.name, node.input[0], node.output[0]
            shape, dtype = context.get_shape(result), context.get_dtype(result)
            context.remove_node(name)
            one = context.make_const(f"{name}/one", np.ones((), "float32")).output[0]
            erf = context.make_node("Erf", [source], name=f"{name}/erf", shapes=[shape], dtypes=[dtype]).output[0]
            context.make_node("Sub", [one, erf], name=name, outputs=[result], shapes=[shape], dtypes=[dtype])


def _write_float(model, path, samples):
    if len(getattr(model, "outputs", ())) > 1:  # Keras exports no structures inside of structures
        model = keras.Model(model.input, model.outputs, name=model.name)
    model.predict(samples[:1], verbose=0)  # Keras exports only models that were called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras probes NumPy for aliases that tf2onnx wants
        try:
            model.export(str(path), format="onnx", verbose=False, opset_version=OPSET)
        except Exception as error:  # of layers that cannot be traced, TensorFlow, Keras and tf2onnx raise many kinds
            free = "" if None not in model.input_shape[1:] else " Sides of its input are free: try it with fixed ones."
            raise ExportError(f"Keras makes no ONNX file of model `{model.name}`.{free} It says: {error}") from error
    agreements = check_float_outputs(model, samples, run_onnx(path, samples))
    if len(agreements) > 1:
        _name_outputs(path, list(agreements))
    return agreements, (), ()


def _name_outputs(path, names):
    """Calls the outputs of a file `names`, in their order."""
    import onnx

    proto = onnx.load(path)
    new = {output.name: name for output, name in zip(proto.graph.output, names, strict=True)}
    for output in proto.graph.output:
        output.name = new[output.name]
    for node in proto.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _write_integer(model, path, samples):
    import onnx

    widen_weight_ranges(model)
    frozen = freeze(lambda image: model(image, training=False), (None, *model.input_shape[1:]))
    quantizers = read_quantizers(frozen)
    onnx.save(convert(frozen, quantizers, output_names(model)), path)
    return verify(path, model, frozen, quantizers, samples)


def read_quantizers(frozen):
    """The fake-quantisers of a function.

    Args:
        frozen: from `prepare.freeze`.

    Returns:
        A list of `FakeQuant`, in the order of the operations.
    """
    (image,) = frozen.inputs
    varying = {image.op}
    found = []
    for op in frozen.graph.get_operations():  # in topological order
        if any(tensor.op in varying for tensor in op.inputs):
            varying.add(op)
        if op.type in FAKE_QUANT_OPS:
            found.append(op)

    wanted = {op.name: list(op.inputs[1:]) + ([] if op in varying else [op.outputs[0]]) for op in found}
    values = frozen.prune([], wanted)()
    quantizers = []
    for op in found:
        numbers = [value.numpy() for value in values[op.name]]
        low, high = numbers[:2] if len(op.inputs) == 3 else (op.get_attr("min"), op.get_attr("max"))
        grid = Grid.over(low, high, op.get_attr("num_bits"), op.get_attr("narrow_range"))
        quantizers.append(FakeQuant(op.name, grid, None if op in varying else grid.codes(numbers[-1])))
    return quantizers


def convert(frozen, quantizers, output_names=("output",)):
    """A function as an ONNX model with integers.

    Args:
        frozen: from `prepare.freeze`.
        quantizers: its fake-quantisers, from `read_quantizers`.
        output_names: what its outputs are to be called.

    Returns:
        An `onnx.ModelProto`.
    """
    import tensorflow as tf
    import tf2onnx

    (image,), outputs = frozen.inputs, frozen.outputs
    grids = {quantizer.name: quantizer.grid for quantizer in quantizers}
    kernels = {quantizer.name: quantizer.kernel.shape for quantizer in quantizers if quantizer.kernel is not None}

    def clip(context, node, name, args):
        ends = [
            context.make_const(f"{name}/{end}", value).output[0]
            for end, value in zip(("low", "high"), grids[name].ends, strict=True)
        ]
        source, result = node.input[0], node.output[0]
        shape, dtype = context.get_shape(result), context.get_dtype(result)
        context.remove_node(name)
        context.make_node("Clip", [source, *ends], name=name, outputs=[result], shapes=[shape], dtypes=[dtype])

    with tf.Graph().as_default() as graph:
        inputs = {f"{name}:0": tf.compat.v1.placeholder(tf.float32, shape) for name, shape in kernels.items()}
        tf.import_graph_def(frozen.graph.as_graph_def(), inputs, name="")
    names = {output.name: name for output, name in zip(outputs, output_names, strict=True)} | {image.name: "image"}
    names.update({placeholder.name: name.removesuffix(":0") for name, placeholder in inputs.items()})
    proto, _ = tf2onnx.convert.from_graph_def(
        graph.as_graph_def(),
        input_names=[image.name, *(placeholder.name for placeholder in inputs.values())],
        output_names=[output.name for output in outputs],
        opset=INTEGER_OPSET,
        custom_op_handlers={kind: (clip, []) for kind in FAKE_QUANT_OPS},
        tensors_to_rename=names,
    )
    return store_integers(proto, quantizers)


def verify(path, model, frozen, quantizers, samples):
    """Holds an integer file against the Keras model.

    Args:
        path: the file.
        model: the fake-quantised Keras model.
        frozen: the same, from `prepare.freeze`.
        quantizers: the fake-quantisers of `frozen`.
        samples: float inputs.

    Returns:
        The `Agreement` of each output, by its name; a tuple of `PartAgreement`; and a tuple of paths, of the layers
        that compute in float.

    Raises:
        ExportError: if they disagree, or if a kernel that the model rounds is not stored as integers.
    """
    import onnx

    graph = Graph(onnx.load(path))
    stored = [
        values for values in graph.constants.values() if values.dtype.name in ("int4", "int8") and values.ndim > 1
    ]
    kernels = [each.kernel for each in quantizers if each.kernel is not None and each.kernel.ndim > 1]
    if len(stored) < len(kernels):
        raise ExportError(f"Only {len(stored)} of the {len(kernels)} rounded kernels are stored as integers.")
    parts = check_parts(_compare_parts(graph, model, frozen, quantizers, samples[:PART_SAMPLES]))
    steps = [float(graph.activation_scale(output.name) or 0) for output in graph.proto.graph.output]
    agreements = check_outputs(model, samples, run_onnx(path, samples), steps)
    return agreements, parts, _float_layers(graph, model)


def _compare_parts(graph, model, frozen, quantizers, samples):
    """What the file rounds between one rounding and the next against what `frozen` does, given the file's own inputs.

    As in `compare_parts` for TFLite files: over a deep network differences would add up and hide what is wrong.
    """
    import tensorflow as tf

    placed = [quantizer for quantizer in quantizers if graph.producer(quantizer.codes_name) is not None]
    tensors = [frozen.graph.get_operation_by_name(quantizer.name).outputs[0] for quantizer in placed]
    references = frozen.prune(frozen.inputs, tensors)(tf.constant(samples))
    compared, values = [], [samples]
    file_codes = _run(graph.proto, samples, [quantizer.codes_name for quantizer in placed])
    for quantizer, tensor, codes, reference in zip(placed, tensors, file_codes, references, strict=True):
        real = _in_order_of(reference.numpy(), quantizer.grid.values(codes.astype("int32")))
        if real is not None:
            compared.append((quantizer, tensor.op))
            values.append(real)

    feeds = [*frozen.inputs, *(op.outputs[0] for _, op in compared)]
    results = frozen.prune(feeds, [op.inputs[0] for _, op in compared])(*map(tf.constant, values))
    for (quantizer, op), real, unrounded in zip(compared, values[1:], results, strict=True):
        steps = quantizer.grid.codes(real) - quantizer.grid.codes(unrounded.numpy())
        close = (np.abs(steps) <= 1).reshape(-1, steps.shape[-1])
        shares = (np.mean(steps == 0), np.mean(close), np.min(np.mean(close, 0)))
        yield PartAgreement(layer_path(quantizer.name, model), op.inputs[0].op.type, *map(float, shares))


def _run(proto, samples, names):
    """The tensors `names` of a file for `samples`."""
    import onnx

    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return _session(proto.SerializeToString()).run(names, {proto.graph.input[0].name: samples})


def _in_order_of(reference, values):
    """`values` with their axes in the order of `reference`, which is nearly equal; None if no order fits.

    tf2onnx puts the channels of a picture first, and moves transposes of other tensors as it likes.
    """
    orders = itertools.permutations(range(values.ndim))
    fitting = [turned for order in orders if (turned := values.transpose(order)).shape == reference.shape]
    return min(fitting, key=lambda turned: np.abs(turned - reference).mean(), default=None)


def _float_layers(graph, model):
    """Paths of the layers whose products a runtime can only compute in float."""
    paths = []
    for node in graph.nodes:
        if node.op_type not in PRODUCTS or graph.computes_on_integers(node):
            continue
        names = [*node.output, *node.input]
        found = (path for name in names if (path := layer_path(name, model)) != name)
        paths.append(next(found, node.output[0]))
    return tuple(dict.fromkeys(paths))
