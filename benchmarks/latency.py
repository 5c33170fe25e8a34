"""Integer against float MobileNetV4 on this machine's CPU: one thread, runs interleaved, ratios of medians.

`python benchmarks/latency.py [FILE.tflite ...]`; without files, ConvSmall, ConvMedium and ConvLarge are built and
exported. Times drift from machine to machine and from minute to minute; the ratios, within one run, hold.
"""

import pathlib
import sys
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_mnv4 import applications
from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.export.litert import example_pictures

ROUNDS = 40
VARIANTS = ("MobileNetV4ConvSmall", "MobileNetV4ConvMedium", "MobileNetV4ConvLarge")


def make_files(folder, size=224):
    """A float and an int8 file of each variant, as `(name, path)` pairs."""
    for variant in VARIANTS:
        model = getattr(applications, variant)(weights=None, input_shape=(size, size, 3))
        quantized = qat.quantize_model(model)
        qat.calibrate(quantized, example_pictures((size, size, 3)))
        for target, source in (("float", model), ("edgetpu", quantized)):
            path = pathlib.Path(folder) / f"{variant}_{target}.tflite"
            export.to_litert(source, path, target=target)
            yield f"{variant} {target}", path


def interleaved_medians(paths):
    """Median milliseconds of one run of each file, taking turns so that drift hits all alike."""
    models = [export.LiteRTModel(path, num_threads=1) for path in paths]
    times = np.empty((ROUNDS, len(models)))
    for model in models:
        model.run_once()
    for round_times in times:
        for index, model in enumerate(models):
            start = time.perf_counter()
            model.run_once()
            round_times[index] = 1e3 * (time.perf_counter() - start)
    return np.median(times, axis=0)


def main(paths):
    with tempfile.TemporaryDirectory() as folder:
        files = [(path, path) for path in paths] or list(make_files(folder))
        names, paths = zip(*files, strict=True)
        medians = interleaved_medians(paths)
    table = Table("file", "one thread", "ratio to the first", "ratio to the one before")
    for index, (name, median) in enumerate(zip(names, medians, strict=True)):
        before = medians[max(index - 1, 0)]
        table.add_row(name, f"{median:.2f} ms", f"{median / medians[0]:.2f}", f"{median / before:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
