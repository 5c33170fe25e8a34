"""Writes a network of timm as TFLite files, float and int8, with Google's own converter from PyTorch, to compare with.

    python3 -m venv peer && peer/bin/pip install torch timm litert-torch
    peer/bin/python benchmarks/export_timm.py mobilenetv4_hybrid_medium FOLDER

In an environment of its own: litert-torch wants other packages than TensorFlow. The weights are random, and the ranges
of the int8 file are those of random pictures: that says nothing about accuracy, and does as well as any for time.
`latency.py --timm peer/bin/python` calls it.
"""

import argparse
import pathlib

import numpy as np
import torch

# PyPI's torchvision, which timm imports, lacks its compiled operators beside a CPU's torch.
OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import litert_torch  # noqa: E402
import timm  # noqa: E402
from ai_edge_quantizer import quantizer  # noqa: E402
from ai_edge_quantizer import recipe  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    path = arguments.folder / "timm_float.tflite"
    network = litert_torch.to_channel_last_io(timm.create_model(arguments.network).eval(), args=[0]).eval()
    shape = (1, arguments.size, arguments.size, 3)
    converted = litert_torch.convert(network, (torch.zeros(shape),))
    converted.export(str(path))
    random = np.random.default_rng(0)
    samples = [{"args_0": random.normal(size=shape).astype("float32")} for _ in range(4)]
    rounding = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    rounded = rounding.quantize(rounding.calibrate({"serving_default": samples}))
    rounded.export_model(str(arguments.folder / "timm_int8.tflite"), overwrite=True)


if __name__ == "__main__":
    main()
