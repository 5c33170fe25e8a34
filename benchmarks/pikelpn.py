"""What each part of PikeLPN does to accuracy and to cost: an ablation, over several seeds.

`python benchmarks/pikelpn.py FOLDER --size 32 --epochs 10` trains a float network on a folder of images from scratch,
then trains it on under each policy. MACs are counted for the size of the pictures; norms and scales that a policy does
not quantise, in float. Models and figures are kept in `--out`: what is there is not made again.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from accuracy import float_model
from rich.console import Console
from rich.table import Table

from keras_mnv4 import cost
from keras_mnv4 import data
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import PikeLPN
from keras_mnv4.files import atomic_file
from keras_mnv4.qat.pikelpn import LINEAR_8_BIT
from keras_mnv4.qat.pikelpn import POWER_OF_TWO_4_BIT

LINEAR_4_BIT = qat.LastValueQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True)
LINEAR = {"depthwise": LINEAR_4_BIT, "pointwise": LINEAR_4_BIT}
POLICIES = {
    "4-bit weights, float norms and scales": qat.pikelpn_policy(**LINEAR, norm=None, scale_bits="float"),
    "+ naive norms": qat.pikelpn_policy(**LINEAR, norm=qat.NormQuantization(is_fused=False), scale_bits="float"),
    "+ QuantNorm": qat.pikelpn_policy(**LINEAR, scale_bits="float"),
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
    """`{row: {figure: value}}` for one seed; each row is kept as soon as it is there."""
    folder = arguments.out / arguments.network / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = float_model(pictures, seed, arguments, folder / "float.keras", NETWORKS[arguments.network])
    found = {}
    for row, policy in {"float": None, **POLICIES}.items():
        record = folder / f"{''.join(letter if letter.isalnum() else '_' for letter in row)}.json"
        if not record.exists():
            keras.utils.set_random_seed(seed)
            trained = model
            if policy is not None:
                trained = training.quantize(model, pictures, policy, arguments.qat_epochs, verbose=2)
            costs = cost.profile(trained, arithmetic=UNFOLDED)
            figures = {"top1": training.top1(trained, pictures.test), "ace": costs.ace(), "ace_v2": costs.ace_v2()}
            with atomic_file(record) as temporary:
                temporary.write_text(json.dumps(figures))
            print(f"seed {seed}: {row}: {figures}", flush=True)
        found[row] = json.loads(record.read_text())
    return found


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
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pikelpn"))
    arguments = parser.parse_args()
    pictures = data.load_image_folder(arguments.folder, arguments.size, arguments.batch_size)
    results = [measure(seed, pictures, arguments) for seed in range(arguments.seeds)]
    table = Table("", "top-1", "ACE", "ACEv2", "of the second row's", "seeds")
    reference = results[0][next(iter(POLICIES))]["ace_v2"]
    for row, figures in results[0].items():
        top1 = np.array([result[row]["top1"] for result in results])
        costs = f"{figures['ace']:.3g}", f"{figures['ace_v2']:.3g}", f"{figures['ace_v2'] / reference:.2f}"
        table.add_row(row, f"{top1.mean():.2%}", *costs, ", ".join(f"{each:.2%}" for each in top1))
    Console().print(table)


if __name__ == "__main__":
    main()
