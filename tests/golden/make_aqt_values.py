"""Writes `aqt_values.npz`: what AQT's quantisers and statistics make of random numbers. Needs aqtp 0.9, not TensorFlow.

`codes_*` and `gradients_*` are rounded values and their gradients; `bounds_*` what averages over batches come to.
"""

import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

# AQT's cost tools ask for a module that TensorFlow no longer has; nothing here uses it.
PROTOCOL = types.ModuleType("hlo_pb2")
PROTOCOL.__getattr__ = lambda name: object
PARENT = types.ModuleType("tensorflow.compiler.xla.service")
PARENT.hlo_pb2 = PROTOCOL
sys.modules[PARENT.__name__] = PARENT

from aqt.jax_legacy.jax import get_bounds  # noqa: E402
from aqt.jax_legacy.jax import quant_config  # noqa: E402
from aqt.jax_legacy.jax import quantization  # noqa: E402

PATH = pathlib.Path(__file__).with_name("aqt_values.npz")
BITS = (2, 3, 4, 8)
BATCHES = 7
RULES = {  # in AQT's terms
    "mean_of_max": {"use_mean_of_max": True},
    "absdev": {},
    "rms": {"mix_coeff": 1.0},
    "mixed": {"mix_coeff": 0.3},
}


def rounded(values, operations):
    """What comes of `values`, and the gradient of its sum weighted by 1, 2, 3 and so on."""
    weights = jnp.arange(values.size, dtype="float32").reshape(values.shape) + 1.0

    def total(inputs):
        outputs = operations.from_quantized(operations.to_quantized(inputs, dtype=jnp.float32), dtype=jnp.float32)
        return jnp.sum(weights * outputs), outputs

    gradients, outputs = jax.grad(total, has_aux=True)(values)
    return np.asarray(outputs), np.asarray(gradients)


def final_bounds(batches, granularity, exclude_zeros, rule):
    """The bounds after all batches."""
    coefficients = {"stddev_coeff": 3.0, "absdev_coeff": 3.0, "mix_coeff": 0.0, **rule}
    module = get_bounds.GetBounds(
        hyper=get_bounds.GetBounds.Hyper(
            initial_bound=-1.0, granularity=granularity, ema_coeff=0.1, exclude_zeros=exclude_zeros, **coefficients
        )
    )

    def params(update_bounds):
        return get_bounds.GetBounds.Params(update_stats=True, update_bounds=update_bounds)

    state = module.init(jax.random.PRNGKey(0), batches[0], bounds_params=params(False))
    for index, batch in enumerate(batches):
        is_last = index == len(batches) - 1
        _, state = module.apply(state, batch, bounds_params=params(is_last), mutable="get_bounds")
    return np.asarray(state["get_bounds"]["bounds"]).ravel()


def main():
    random = np.random.default_rng(0)
    values = random.normal(0, 1.5, (64, 5)).astype("float32")
    values[:, 0] *= 0.01
    bound = np.abs(random.normal(1.5, 1.0, 5)).astype("float32")
    values[:3, 1] = 0.0, bound[1], -bound[1]
    results = {"values": values, "bound": bound}
    symmetric = {"half_shift": False}
    for bits in BITS:
        largest = np.abs(values).max(axis=0)
        cases = {
            "weights": quantization.QuantOps.create_symmetric(bounds=largest, prec=bits, **symmetric),
            "signed": quantization.QuantOps.create_symmetric(bounds=bound, prec=bits, **symmetric),
            "unsigned": quantization.QuantOps.create_positive(bounds=bound, prec=bits),
        }
        for name, operations in cases.items():
            results[f"codes_{name}_{bits}"], results[f"gradients_{name}_{bits}"] = rounded(values, operations)
    batches = np.maximum(random.normal(0.3, 1.0, (BATCHES, 6, 4, 5)), 0.0).astype("float32")
    batches[:, :, :, 2] = -batches[:, :, :, 2]
    batches[:4, :, :, 3] = 0.0  # dead for some batches
    batches[:, :, :, 4] = 0.0  # and for all
    results["batches"] = batches
    for granularity in ("PER_TENSOR", "PER_CHANNEL"):
        for exclude_zeros in (False, True):
            for name, rule in RULES.items():
                found = final_bounds(batches, getattr(quant_config.QuantGranularity, granularity), exclude_zeros, rule)
                results[f"bounds_{granularity.lower()}_{exclude_zeros}_{name}"] = found
    np.savez_compressed(PATH, **results)


if __name__ == "__main__":
    main()
