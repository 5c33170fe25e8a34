"""MobileNetV4 on this machine's CPU, integer against float and ours against timm's: one thread, ratios of medians.

`python benchmarks/latency.py [FILE.tflite ...]`: files of yours, or else those of ConvSmall, ConvMedium and ConvLarge,
which are built and exported. With `--timm PYTHON`, the Python of an environment that `export_timm.py` runs in, timm's
export of each network is beside ours:

    python benchmarks/latency.py --networks conv_small conv_medium hybrid_medium --timm peer/bin/python

Times drift from machine to machine and from minute to minute; files take turns, and the ratios within one run hold.
"""

import argparse
import pathlib
import subprocess
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from train import networks

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import build_network
from keras_mnv4.export.prepare import example_pictures
from keras_mnv4.export.runtime import make_interpreter

ROUNDS = 100
TIMM = pathlib.Path(__file__).with_name("export_timm.py")


def make_files(network, folder, timm=None, size=224):
    """A float and an int8 file of a network, and before each that of timm, as `(name, path)` pairs."""
    folder = pathlib.Path(folder) / network
    folder.mkdir()
    if timm is not None:
        command = [timm, str(TIMM), f"mobilenetv4_{network}", str(folder), "--size", str(size)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    model = build_network(networks()[network], input_shape=(size, size, 3))
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, example_pictures((size, size, 3)))
    for form, target, source in (("float", "float", model), ("int8", "cpu", quantized)):
        if timm is not None:
            yield f"timm {network} {form}", folder / f"timm_{form}.tflite"
        path = folder / f"{form}.tflite"
        export.to_litert(source, path, target=target)
        yield f"{network} {form}", path


def interleaved_medians(paths):
    """Median milliseconds of the processor for one run of each file, taking turns so that drift hits all alike."""
    interpreters = [make_interpreter(path, num_threads=1) for path in paths]
    times = np.empty((ROUNDS, len(interpreters)))
    for interpreter in interpreters:
        interpreter.invoke()
    for round_times in times:
        for index, interpreter in enumerate(interpreters):
            start = time.process_time()
            interpreter.invoke()
            round_times[index] = 1e3 * (time.process_time() - start)
    return np.median(times, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--networks", nargs="+", choices=networks(), default=list(networks())[:3])
    parser.add_argument("--timm", metavar="PYTHON", help="Python of an environment with timm and litert-torch")
    arguments = parser.parse_args()
    table = Table("file", "one thread", "ratio to the first", "ratio to the one before")
    with tempfile.TemporaryDirectory() as folder:
        groups = [[(path, path) for path in arguments.files]]
        if not arguments.files:
            groups = [list(make_files(network, folder, arguments.timm)) for network in arguments.networks]
        for files in groups:
            names, paths = zip(*files, strict=True)
            medians = interleaved_medians(paths)
            for name, median, before in zip(names, medians, [medians[0], *medians], strict=False):
                table.add_row(name, f"{median:.2f} ms", f"{median / medians[0]:.3f}", f"{median / before:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
