"""What quantisation costs in accuracy: float, rounded without training, and trained on, for 8 and 4 bits.

`python benchmarks/accuracy.py FOLDER --size 32 --epochs 10` trains MobileNetV4ConvSmall on a folder of images from
scratch, quantises it by each policy, and gives the top-1 of TFLite files on the test set. Models are kept in `--out`:
what is there is not trained again, so a run that was stopped goes on.
"""

import argparse
import pathlib

import keras
import numpy as np
from results import kept
from rich.console import Console
from rich.table import Table

from keras_mnv4 import data
from keras_mnv4 import export
from keras_mnv4 import training
from keras_mnv4.applications import MobileNetV4ConvSmall

POLICIES = {"w8a8": 1, "w4a8": 2, "w4a4": 4}  # name: epochs of quantisation-aware training


def float_model(pictures, seed, arguments, path, build=MobileNetV4ConvSmall):
    """The float network of a seed, trained unless `path` has it."""
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    shape = (arguments.size, arguments.size, 3)
    model = build(weights=None, input_shape=shape, classes=len(pictures.class_names))
    training.train(model, pictures, arguments.epochs, arguments.learning_rate, verbose=2)
    model.save(path)
    return model


def top1_of_file(model, pictures, folder):
    """Top-1 of the integer file of a fake-quantised model on a `PictureSet`."""
    inputs, labels = pictures.arrays()
    path = folder / "model.tflite"
    export.to_litert(model, path, "cpu", samples=inputs[:32].astype("float32"), overwrite=True)
    return float((export.LiteRTModel(path).predict(inputs).argmax(-1) == labels).mean())


def measure(seed, pictures, arguments):
    """Top-1 by `(policy, way)` for one seed."""
    folder = arguments.out / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = float_model(pictures, seed, arguments, folder / "float.keras")
    found = {"float": training.top1(model, pictures.test)}
    for policy, epochs in POLICIES.items():
        for way, passes in (("rounded", 0), ("trained", epochs)):
            keras.utils.set_random_seed(seed)
            quantized = training.quantize(model, pictures, policy, passes, verbose=2)
            found[f"{policy} {way}"] = top1_of_file(quantized, pictures.test, folder)
            print(f"seed {seed}: {policy} {way}: {found[f'{policy} {way}']:.2%}", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("accuracy"))
    arguments = parser.parse_args()
    pictures = data.load_image_folder(arguments.folder, arguments.size, arguments.batch_size)
    results = []
    for seed in range(arguments.seeds):
        results.append(kept(arguments.out / f"seed_{seed}" / "top1.json", measure, seed, pictures, arguments))
    table = Table("", "top-1", "difference to float", "seeds")
    for name in results[0]:
        values = np.array([result[name] for result in results])
        lost = np.mean([result[name] - result["float"] for result in results])
        table.add_row(name, f"{values.mean():.2%}", f"{lost:+.2%}", ", ".join(f"{value:.2%}" for value in values))
    Console().print(table)


if __name__ == "__main__":
    main()
