"""How well MACs and rooflines rank networks by their latency: that of the paper, and that of this machine.

`python benchmarks/roofline.py` exports the family and its baselines as int8 files, times them on one thread, taking
turns, and prints Spearman's rank correlation of latency with MACs alone, with the roofline of each of the paper's
devices, and with that of the ridge point which ranks best. Against the paper's table 6 nothing is timed.
"""

import argparse
import pathlib
import tempfile

import keras
import numpy as np
from latency import interleaved_medians
from rich.console import Console
from rich.table import Table

from keras_mnv4 import applications
from keras_mnv4 import cost
from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES

# Paper (arXiv 2404.10518), table 6: milliseconds at the architectures' own sizes.
PAPER = {
    "MobileNetV4ConvSmall": {"pixel_6_cpu": 2.4, "galaxy_s23_cpu": 1.8, "pixel_4_dsp": 2.4, "pixel_8_edgetpu": 0.7},
    "MobileNetV4ConvMedium": {"pixel_6_cpu": 11.4, "galaxy_s23_cpu": 8.6, "pixel_4_dsp": 7.3, "pixel_8_edgetpu": 1.1},
    "MobileNetV4HybridMedium": {"pixel_6_cpu": 14.3, "galaxy_s23_cpu": 10.8, "pixel_8_edgetpu": 1.5},
    "MobileNetV4ConvLarge": {"pixel_6_cpu": 59.9, "galaxy_s23_cpu": 43.0, "pixel_4_dsp": 20.8, "pixel_8_edgetpu": 2.4},
    "MobileNetV4HybridLarge": {"pixel_6_cpu": 87.6, "galaxy_s23_cpu": 61.8, "pixel_8_edgetpu": 3.8},
}
SIZES = {
    "MobileNetV4ConvSmall": 224,
    "MobileNetV4ConvMedium": 256,
    "MobileNetV4ConvLarge": 384,
    "MobileNetV4HybridMedium": 256,
    "EfficientNetLite0": 224,
    "EfficientNetLite1": 240,
    "EfficientNetLite2": 260,
    "MobileNetV2": 224,
    "MobileNetV3Small": 224,
    "MobileNetV3Large": 224,
}


def build(name, size):
    package = applications if hasattr(applications, name) else keras.applications
    return getattr(package, name)(weights=None, input_shape=(size, size, 3))


def correlations(profiles, latencies):
    """Rank correlations by the name of what ranks."""
    found = {"MACs": cost.rank_correlation([each.macs for each in profiles], latencies)}
    for device in cost.RIDGE_POINTS:
        times = [cost.roofline(each, device).time for each in profiles]
        found[f"roofline of {device}"] = cost.rank_correlation(times, latencies)
    best, found["best roofline"] = cost.fit_ridge_point(profiles, latencies)
    return found, best


def show(title, names, profiles, latencies):
    table = Table("", "MACs", "latency", title=title)
    for name, profile, latency in zip(names, profiles, latencies, strict=True):
        table.add_row(name, f"{profile.macs / 1e6:,.0f} M", f"{latency:.2f} ms")
    console = Console()
    console.print(table)
    found, best = correlations(profiles, latencies)
    for name, value in found.items():
        console.print(f"  rank correlation of latency with {name}: {value:.3f}")
    console.print(f"  best ridge point: {best:g} MACs a byte\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(SIZES), choices=SIZES, metavar="NAME")
    arguments = parser.parse_args()
    paper = {name: cost.TableProfiler().profile(ARCHITECTURES[name]) for name in PAPER}
    for device in cost.RIDGE_POINTS:
        names = [name for name in PAPER if device in PAPER[name]]
        show(f"paper, {device}", names, [paper[name] for name in names], [PAPER[name][device] for name in names])
    profiles, paths = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            size = SIZES[name]
            model = build(name, size)
            profiles.append(cost.profile(model))
            pictures = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3)).astype("float32")
            paths.append(pathlib.Path(folder) / f"{name}.tflite")
            export.to_litert(qat.quantize_model(model, "w8a8", pictures), paths[-1], "cpu")
        show("this machine, int8, one thread", arguments.models, profiles, interleaved_medians(paths))


if __name__ == "__main__":
    main()
