"""What each part of PikeLPN does to accuracy and to cost: an ablation, over several seeds.

`python benchmarks/pikelpn.py FOLDER --size 32 --epochs 10` trains a float network on a folder of images from scratch,
then calibrates it, and trains it on, under each policy. Costs are those at the size of the pictures, and at 224 pixels;
of norms and scales that a policy does not quantise, in float. Models and top-1 are kept in `--out`: what is there is
not made again.
"""

import argparse
import pathlib

import keras
import numpy as np
from accuracy import float_model
from results import kept
from rich.console import Console
from rich.table import Table

from keras_mnv4 import cost
from keras_mnv4 import data
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import PikeLPN
from keras_mnv4.qat.pikelpn import LINEAR_8_BIT
from keras_mnv4.qat.pikelpn import POWER_OF_TWO_4_BIT

LINEAR_4_BIT = qat.LastValueQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True)
LINEAR = {"depthwise": LINEAR_4_BIT, "pointwise": LINEAR_4_BIT}
POLICIES = {
    "4-bit weights, float norms and scales": qat.pikelpn_policy(**LINEAR, norm=None, scale_bits="float"),
    "+ naive norms": qat.pikelpn_policy(**LINEAR, norm=qat.NormQuantization(is_fused=False), scale_bits="float"),
    "+ QuantNorm": qat.pikelpn_policy(**LINEAR, scale_bits="float"),
    "+ naive norms of 4 bits": qat.pikelpn_policy(
        **LINEAR, norm=qat.NormQuantization(4, 4, is_fused=False), scale_bits="float"
    ),
    "+ QuantNorm of 4 bits": qat.pikelpn_policy(**LINEAR, norm=qat.NormQuantization(4, 4), scale_bits="float"),
    "+ QuantNorm, Double Quantization": qat.pikelpn_policy(**LINEAR),
    "+ QuantNorm, powers of two as scales": qat.pikelpn_policy(**LINEAR, scale_bits=None),
    "+ both, 8-bit depthwise, powers of two pointwise": qat.pikelpn_policy(),
    "+ both, powers of two everywhere": qat.pikelpn_policy(depthwise=POWER_OF_TWO_4_BIT),
    "+ both, powers of two depthwise, 8-bit pointwise": qat.pikelpn_policy(
        depthwise=POWER_OF_TWO_4_BIT, pointwise=LINEAR_8_BIT
    ),
}
NETWORKS = {
    "conv_small": MobileNetV4ConvSmall,
    "mobilenet_v1_050": lambda **arguments: PikeLPN(0.5, policy="float", **arguments),
}
UNFOLDED = cost.Arithmetic(norms="float", rescaling="float")


def measure(seed, pictures, arguments):
    """`{row: (top-1 calibrated, top-1 trained on)}` for one seed; each is kept as soon as it is there."""
    folder = arguments.out / arguments.network / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = float_model(pictures, seed, arguments, folder / "float.keras", NETWORKS[arguments.network])
    found = {}
    for row in ("float", *arguments.rows):
        name = "".join(letter if letter.isalnum() else "_" for letter in row)
        found[row] = (
            kept(folder / f"{name}_calibrated.json", calibrated, model, row, pictures),
            kept(folder / f"{name}.json", trained, model, row, pictures, seed, arguments)["top1"],
        )
        print(f"seed {seed}: {row}: {found[row]}", flush=True)
    return found


def calibrated(model, row, pictures):
    """Top-1 of a row without training on."""
    if row != "float":
        sample = pictures.train.arrays(limit=training.CALIBRATION_PICTURES)[0]
        model = qat.quantize_model(model, POLICIES[row], calibration_data=sample)
    return training.top1(model, pictures.test)


def trained(model, row, pictures, seed, arguments):
    """Top-1 of a row, trained on."""
    keras.utils.set_random_seed(seed)
    if row != "float":
        model = training.quantize(model, pictures, POLICIES[row], arguments.qat_epochs, verbose=2)
    return {"top1": training.top1(model, pictures.test)}


def profiles(network, size, classes, rows):
    """`{row: keras_mnv4.cost.Profile}` at a size; at 32 pixels, most maps of these networks have a pixel or four."""
    model = NETWORKS[network](weights=None, input_shape=(size, size, 3), classes=classes)
    models = {row: model if row == "float" else qat.quantize_model(model, POLICIES[row]) for row in rows}
    return {row: cost.profile(each, arithmetic=UNFOLDED) for row, each in models.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--network", choices=NETWORKS, default="conv_small")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--qat-epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="ROW")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pikelpn"))
    arguments = parser.parse_args()
    pictures = data.load_image_folder(arguments.folder, arguments.size, arguments.batch_size)
    results = [measure(seed, pictures, arguments) for seed in range(arguments.seeds)]
    columns = "calibrated", "top-1", "ACE", "ACEv2", "less than the second row, times", "at 224 pixels, times", "seeds"
    table = Table("", *columns)
    here = profiles(arguments.network, arguments.size, len(pictures.class_names), results[0])
    at_224 = profiles(arguments.network, 224, 1000, results[0])
    second = arguments.rows[0]
    for row, costs in here.items():
        before, top1 = np.transpose([result[row] for result in results])
        table.add_row(
            row,
            f"{before.mean():.2%}",
            f"{top1.mean():.2%}",
            f"{costs.ace():.3g}",
            f"{costs.ace_v2():.3g}",
            *(f"{each[second].ace_v2() / each[row].ace_v2():.2f}" for each in (here, at_224)),
            ", ".join(f"{each:.2%}" for each in top1),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
