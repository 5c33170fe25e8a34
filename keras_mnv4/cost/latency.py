"""How long a TFLite file takes on this machine's CPU, as a whole and operator by operator."""

import dataclasses
import io
import pathlib
import time

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one run, in milliseconds, over many runs.

    Args:
        median: the middle value: the one to quote.
        p10: a tenth of the runs were faster.
        p90: a tenth were slower.

    Example:

    >>> print(Latency(median=0.672, p10=0.66, p90=0.71))
    0.67 ms
    """

    median: float
    p10: float
    p90: float

    def __str__(self):
        return f"{self.median:.2f} ms"


@dataclasses.dataclass(frozen=True)
class OperatorLatency:
    """What one operator of a file takes.

    Args:
        index: its place in the order of execution.
        kind: its name, such as `"CONV_2D"`.
        name: name of its result, which tells of the layer that it came from.
        latency: its `Latency`, run by itself.
        is_delegated: whether in the whole file the delegate (XNNPACK) runs it, and not LiteRT's own kernel.
    """

    index: int
    kind: str
    name: str
    latency: Latency
    is_delegated: bool


@dataclasses.dataclass(frozen=True)
class FileLatency:
    """What a file takes. As a string, a table of its kinds of operators.

    Args:
        total: `Latency` of the whole file.
        operators: a tuple of `OperatorLatency`.

    Example:

    >>> found = measure_operators("vision.tflite")
    >>> found.total.median > 0, found.operators[0].kind
    (True, 'CONV_2D')
    """

    total: Latency
    operators: tuple[OperatorLatency, ...]

    def __str__(self):
        table = Table("operator", "number", "delegated", "ms", title=f"whole file: {self.total}")
        kinds = dict.fromkeys(each.kind for each in self.operators)
        milliseconds = {
            kind: sum(each.latency.median for each in self.operators if each.kind == kind) for kind in kinds
        }
        for kind in sorted(kinds, key=milliseconds.get, reverse=True):
            found = [each for each in self.operators if each.kind == kind]
            delegated = sum(each.is_delegated for each in found)
            table.add_row(kind, str(len(found)), str(delegated), f"{milliseconds[kind]:.3f}")
        console = Console(file=io.StringIO(), width=100)
        console.print(table)
        return console.file.getvalue()


def measure_latency(source, num_threads=1, runs=50):
    """Times a TFLite file with LiteRT.

    Args:
        source: path of the file, or its bytes.
        num_threads: threads to use.
        runs: counted runs, 1 or more; a tenth as many go before, uncounted.

    Returns:
        A `Latency`.

    Raises:
        ValueError: if `runs` is below 1.

    Example:

    >>> measure_latency("vision.tflite").median < 100
    True
    """
    from keras_mnv4.export.runtime import make_interpreter

    return _time(make_interpreter(source, num_threads), runs)


def measure_operators(source, num_threads=1, runs=20):
    """Times a TFLite file with LiteRT, and each of its operators in a file of its own.

    The interpreter does not tell where its time goes. Alone, operators take what they take together but for what caches
    do: over a network the sum is a few percent off the whole. Products of two computed tensors are an exception; alone
    the delegate does not take them.

    Args:
        source: path of the file, or its bytes.
        num_threads: threads to use.
        runs: counted runs of each, 1 or more.

    Returns:
        A `FileLatency`.

    Raises:
        ValueError: if the file is no TFLite file of one graph, or `runs` is below 1.

    Example:

    >>> print(measure_operators("vision.tflite"))
    """
    from keras_mnv4.export.runtime import make_interpreter
    from keras_mnv4.export.tflite_file import cut_operator
    from keras_mnv4.export.tflite_file import read_tflite

    content = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
    file = read_tflite(content)
    whole = make_interpreter(content, num_threads)
    delegated = _delegated(file, whole)
    operators = tuple(
        OperatorLatency(
            operator.index,
            operator.kind,
            operator.outputs[0].name,
            _time(make_interpreter(cut_operator(content, operator.index), num_threads), runs),
            operator.index in delegated,
        )
        for operator in file.operators
    )
    return FileLatency(_time(whole, runs), operators)


def _time(interpreter, runs):
    if runs < 1:
        raise ValueError(f"`runs` must be 1 or more. Received: runs={runs}")
    times = []
    for run in range(-max(runs // 10, 1), runs):
        start = time.perf_counter()
        interpreter.invoke()
        if run >= 0:
            times.append(1e3 * (time.perf_counter() - start))
    p10, median, p90 = np.percentile(times, (10, 50, 90))
    return Latency(float(median), float(p10), float(p90))


def _delegated(file, interpreter):
    """Indices of the operators that a delegate has taken over: those between its inputs and its outputs."""
    writers = {tensor.index: operator for operator in file.operators for tensor in operator.outputs}
    found = set()
    for node in interpreter._get_ops_details():
        if node["op_name"] != "DELEGATE":
            continue
        known, waiting = set(map(int, node["inputs"])), list(map(int, node["outputs"]))
        while waiting:
            tensor = waiting.pop()
            if tensor in known or tensor not in writers:
                continue
            known.add(tensor)
            found.add(writers[tensor].index)
            waiting += [each.index for each in writers[tensor].inputs if each is not None]
    return found
