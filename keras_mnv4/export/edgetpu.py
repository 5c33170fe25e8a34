"""`check_edgetpu`: would every operator of a TFLite file run on a Coral Edge TPU?

The Edge TPU compiler is an x86-64 Debian program that few machines have. This check reads the file instead and holds
it against what the compiler documents. Where `edgetpu_compiler` is on the PATH, it has the last word.

Sources: coral.ai, "TensorFlow models on the Edge TPU", table of supported operations and model requirements. The
newest version of each operator is the one that brought int8 to it: the last compiler is of 2021 and refuses later ones.
"""

import dataclasses
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from keras_mnv4.export.tflite_file import Operator
from keras_mnv4.export.tflite_file import read_tflite

INTEGER_TYPES = ("INT8", "UINT8")
INDEX_TYPES = ("INT32", "INT64")  # shapes, axes and biases
MAX_SOFTMAX = 16_000
COMPILER = "edgetpu_compiler"


@dataclasses.dataclass(frozen=True)
class OpLimits:
    """What the compiler accepts of one kind of operator.

    Args:
        max_version: newest version of the operator.
        rules: functions from `Operator` to a complaint, or None.
    """

    max_version: int
    rules: tuple[Callable[[Operator], str | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """One reason why an operator does not map.

    Args:
        op: kind of the operator, or `"model"`.
        index: its place in the file, -1 for the model.
        tensor: name of its first output.
        reason: what is wrong.
    """

    op: str
    index: int
    tensor: str
    reason: str

    def __str__(self):
        where = f"{self.op} (operator {self.index}, `{self.tensor}`)" if self.index >= 0 else self.op
        return f"{where}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class EdgeTPUReport:
    """The outcome of `check_edgetpu`.

    Args:
        findings: all reasons against, none if the file maps wholly.
        operators: number of operators in the file.
        compiled: whether the real compiler was there and was asked.
    """

    findings: tuple[Finding, ...]
    operators: int
    compiled: bool = False

    @property
    def ok(self):
        return not self.findings

    def __str__(self):
        judge = "compiler" if self.compiled else "documented limits"
        if self.ok:
            return f"All {self.operators} operators map to the Edge TPU ({judge})."
        return "\n".join(f"- {finding}" for finding in self.findings)


def check_edgetpu(source):
    """Checks a TFLite file against the limits of the Edge TPU.

    Args:
        source: path of a `.tflite` file, or its bytes.

    Returns:
        An `EdgeTPUReport`: `.ok`, and `.findings` with one entry for each operator that does not map.

    Raises:
        ValueError: if it is not a TFLite file.

    Example:

    >>> check_edgetpu("vision.tflite").ok
    True
    """
    file = read_tflite(source)
    findings = [
        Finding(operator.kind, operator.index, operator.outputs[0].name if operator.outputs else "", reason)
        for operator in file.operators
        if (reason := _complaint(operator)) is not None
    ]
    compiled = shutil.which(COMPILER) is not None
    if compiled:
        said = _ask_compiler(source)
        findings = [*findings, *said] if said else []
    return EdgeTPUReport(tuple(findings), len(file.operators), compiled)


def _complaint(operator):
    """Everything that is wrong with `operator`, in one sentence; None if nothing is."""
    limits = LIMITS.get(operator.kind)
    reasons = []
    if limits is None:
        reasons.append("the Edge TPU has no such operator")
    elif operator.version > limits.max_version:
        reasons.append(f"version {operator.version} is newer than the compiler's {limits.max_version}")
    reasons += [reason for rule in GENERAL_RULES if (reason := rule(operator)) is not None]
    if limits is not None:
        reasons += [reason for rule in limits.rules if (reason := rule(operator)) is not None]
    return "; ".join(reasons) or None


def _ask_compiler(source):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        path.write_bytes(source if isinstance(source, bytes) else pathlib.Path(source).read_bytes())
        run = subprocess.run(
            [COMPILER, "-s", "-o", folder, str(path)], capture_output=True, text=True, timeout=600, check=False
        )
    on_cpu = re.search(r"Number of operations that will run on CPU:\s*(\d+)", run.stdout)
    if run.returncode != 0 or "not compiled" in run.stdout.lower():
        return [Finding("model", -1, "", f"{COMPILER} failed: {(run.stderr or run.stdout).strip()[-500:]}")]
    if on_cpu and int(on_cpu[1]):
        return [Finding("model", -1, "", f"{COMPILER} leaves {on_cpu[1]} operators on the CPU")]
    return []


# Rules of every operator.


def _integers_only(operator):
    tensors = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None]
    bad = sorted({tensor.dtype for tensor in tensors} - {*INTEGER_TYPES, *INDEX_TYPES})
    return f"it works on {', '.join(bad)}, not only on int8" if bad else None


def _batch_of_one(operator):
    for tensor in operator.outputs:
        if len(tensor.shape) > 3 and any(size != 1 for size in tensor.shape[:-3]):
            return f"only the three innermost dimensions may exceed 1 (batch of one), not {tensor.shape}"
    return None


def _static_shape(operator):
    return next((f"its size is not constant: {t.shape}" for t in operator.outputs if min(t.shape, default=1) < 1), None)


GENERAL_RULES = (_integers_only, _batch_of_one, _static_shape)

# Rules of single operators.


def _no_fused_activation(operator):
    fused = getattr(operator.options, "fusedActivationFunction", 0)
    return "it must not have a fused activation" if fused else None


def _square_dilation(operator):
    options = operator.options
    same = options is None or options.dilationHFactor == options.dilationWFactor
    return None if same else "dilation must be the same in both directions"


def _constant_bias(operator):
    bias = operator.inputs[2] if len(operator.inputs) > 2 else None
    return None if bias is None or bias.is_constant else "its bias must be constant"


def _one_dimensional_output(operator):
    shape = operator.outputs[0].shape
    return None if all(size == 1 for size in shape[:-1]) else f"its output must be one-dimensional, not {shape}"


def _small_softmax(operator):
    size = operator.outputs[0].shape[-1] if operator.outputs[0].shape else 1
    return None if size <= MAX_SOFTMAX else f"at most {MAX_SOFTMAX} elements, not {size}"


def _keeps_batch(operator):
    rank = len(operator.inputs[0].shape)
    reduced = rank > 3 and len(operator.outputs[0].shape) == rank and operator.outputs[0].shape[0] != 1
    return "it must not reduce the batch" if reduced else None


def _no_slice_masks(operator):
    masks = operator.options is not None and (operator.options.ellipsisMask or operator.options.newAxisMask)
    return "ellipsis and new-axis masks are not supported" if masks else None


_POOL = OpLimits(2, (_no_fused_activation,))
_CONV = OpLimits(3, (_square_dilation, _constant_bias))
_REDUCE = OpLimits(2, (_keeps_batch,))
LIMITS = {
    "ADD": OpLimits(2),
    "AVERAGE_POOL_2D": _POOL,
    "CONCATENATION": OpLimits(2, (_no_fused_activation,)),
    "CONV_2D": _CONV,
    "DEPTHWISE_CONV_2D": _CONV,
    "EXPAND_DIMS": OpLimits(1),
    "FULLY_CONNECTED": OpLimits(4, (_one_dimensional_output,)),
    "L2_NORMALIZATION": OpLimits(2),
    "LOGISTIC": OpLimits(2),
    "MAXIMUM": OpLimits(2),
    "MAX_POOL_2D": _POOL,
    "MEAN": _REDUCE,
    "MINIMUM": OpLimits(2),
    "MUL": OpLimits(2),
    "PACK": OpLimits(2),
    "PAD": OpLimits(2),
    "PRELU": OpLimits(1),
    "QUANTIZE": OpLimits(2),
    "REDUCE_MAX": _REDUCE,
    "REDUCE_MIN": _REDUCE,
    "RELU": OpLimits(2),
    "RELU6": OpLimits(2),
    "RELU_N1_TO_1": OpLimits(1),
    "RESHAPE": OpLimits(1),
    "RESIZE_BILINEAR": OpLimits(3),
    "RESIZE_NEAREST_NEIGHBOR": OpLimits(3),
    "RSQRT": OpLimits(2),
    "SLICE": OpLimits(2),
    "SOFTMAX": OpLimits(2, (_one_dimensional_output, _small_softmax)),
    "SPACE_TO_DEPTH": OpLimits(2),
    "SPLIT": OpLimits(2),
    "SQUARED_DIFFERENCE": OpLimits(2),
    "SQUEEZE": OpLimits(1),
    "STRIDED_SLICE": OpLimits(2, (_no_slice_masks,)),
    "SUB": OpLimits(2),
    "SUM": _REDUCE,
    "TANH": OpLimits(2),
    "TRANSPOSE": OpLimits(2),
    "TRANSPOSE_CONV": OpLimits(3),
}
