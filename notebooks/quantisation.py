# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Eight bits, and four
#
# What becomes of a network when its numbers have few bits: by calibration alone, and by training on. On handwritten
# digits, so that it takes two minutes. `pip install 'keras-mnv4[demo,plots]'` has what this notebook needs.

# %%
import pathlib
import tempfile

import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4 import training
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.data import load_digits

# %% tags=["parameters"]
SIZE = 48  # pixels
WIDTH = 0.5  # of the network
EPOCHS = 12
QAT_EPOCHS = 3
POLICIES = {"w8a8": "8-bit weights, 8-bit activations", "w4a8": "4-bit weights", "w4a4": "4 bits throughout"}

# %%
keras.utils.set_random_seed(0)
digits = load_digits(SIZE)
model = MobileNetV4ConvSmall(weights=None, alpha=WIDTH, classes=10, input_shape=(SIZE, SIZE, 3))
training.train(model, digits, EPOCHS, flip=False, verbose=0)
print(f"float: {training.top1(model, digits.test):.2%} of the test set")

# %% [markdown]
# ## After training, and in training
#
# `training.quantize` gives the same layers and weights with a fake-quantiser wherever an integer machine rounds. A few
# pictures tell how large activations become, and with `epochs=0` which way each weight is better rounded, up or down:
# no labels are needed. With epochs, the network learns to live with its rounding.

# %%
calibrated = {policy: training.quantize(model, digits, policy, epochs=0) for policy in POLICIES}
trained = {
    policy: training.quantize(model, digits, policy, epochs=QAT_EPOCHS, flip=False, verbose=0) for policy in POLICIES
}
scores = {
    name: {policy: training.top1(form, digits.test) for policy, form in forms.items()}
    for name, forms in (("after training", calibrated), ("in training", trained))
}
print(f"{'':36}{'after':>12}{'in training':>12}")
for policy, meaning in POLICIES.items():
    print(f"{meaning:36}{scores['after training'][policy]:12.2%}{scores['in training'][policy]:12.2%}")

# %%
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
places = np.arange(len(POLICIES))
for offset, (name, found) in zip((-0.2, 0.2), scores.items(), strict=True):
    axes.bar(places + offset, [100 * score for score in found.values()], width=0.38, label=name)
axes.axhline(100 * training.top1(model, digits.test), linestyle="--", color="black", label="float")
axes.set_xticks(places, POLICIES)
axes.set(ylabel="test top-1, %")
axes.legend(loc="lower left")
plt.show()

# %% [markdown]
# ## A kernel, before and after
#
# Each channel of a kernel has a scale of its own: 8 bits leave it 255 values, 4 bits 15. Below, what is left of the
# first pointwise convolution, all channels together and one of them alone.

# %%
figure, axes = plt.subplots(2, 1 + len(POLICIES), figsize=(12, 4.5), layout="constrained", sharex="row")
for column, policy in enumerate(("float", *POLICIES)):
    layer = (model if policy == "float" else calibrated[policy]).get_layer("block_1")
    kernel = keras.ops.convert_to_numpy(layer.quantized_kernel())
    axes[0, column].hist(kernel.ravel(), bins=200)
    axes[0, column].set_title(f"{policy}: {len(np.unique(kernel)):,} different values")
    axes[1, column].plot(np.sort(kernel[..., 0].ravel()), np.linspace(0, 100, kernel[..., 0].size))
    axes[1, column].set(xlabel="weight")
axes[0, 0].set_ylabel("weights")
axes[1, 0].set_ylabel("% below it, first channel")
plt.show()

# %% [markdown]
# ## What each part became
#
# The report has a line for each: how its kernel is rounded, how its results are, and why not, where they are not.

# %%
report = qat.quantization_report(calibrated["w4a8"])
for part in (*report.parts[:6], *report.parts[-2:]):
    print(f"{part.path:24}{part.weights:44}{part.outputs or part.why}")

# %% [markdown]
# ## Files
#
# Integer files for a CPU keep 4-bit kernels as packed INT4, two to a byte; 4-bit activations travel in bytes. Each
# file is verified, operator by operator, before it gets its name.

# %%
out = pathlib.Path(tempfile.mkdtemp())
samples = digits.test.arrays(limit=8)[0]
sizes = {"float": export.to_litert(model, out / "float.tflite", target="float", samples=samples).size}
for policy in POLICIES:
    sizes[policy] = export.to_litert(trained[policy], out / f"{policy}.tflite", target="cpu", samples=samples).size
for name, size in sizes.items():
    print(f"{name:8}{size / 1e6:6.2f} MB{size / sizes['float']:8.0%}")

# %% [markdown]
# Weights of powers of two, normalisations that stay in place and scales that are themselves rounded are in
# `cost.ipynb`; how policies are written, in `docs/policies.md`.
