"""Writes `qkeras_values.npz`: what QKeras's quantisers make of random numbers. Needs QKeras 0.9 beside TensorFlow."""

import os
import pathlib

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import qkeras

PATH = pathlib.Path(__file__).with_name("qkeras_values.npz")
QUANTIZERS = {
    "po2_3": qkeras.quantized_po2(3),
    "po2_4": qkeras.quantized_po2(4),
    "po2_5": qkeras.quantized_po2(5),
    "linear_4": qkeras.quantized_bits(4, 0, symmetric=True, alpha=1.0),
    "linear_8": qkeras.quantized_bits(8, 0, symmetric=True, alpha=1.0),
}


def main():
    random = np.random.default_rng(0)
    inputs = (random.normal(size=512) * np.exp2(random.uniform(-6, 4, 512))).astype("float32")
    inputs[0] = 0.0
    values = {name: quantizer(inputs).numpy() for name, quantizer in QUANTIZERS.items()}
    np.savez_compressed(PATH, inputs=inputs, **values)


if __name__ == "__main__":
    main()
