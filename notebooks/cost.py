# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a network costs
#
# `keras_mnv4.cost` counts what a network computes, operation by operation, and prices the counts afterwards: counts are
# facts, prices are assumptions about hardware. `pip install 'keras-mnv4[plots]'` has what this notebook needs.

# %%
import dataclasses

import keras
import matplotlib.pyplot as plt

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import PikeLPN
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES
from keras_mnv4.cost import plots

model = MobileNetV4ConvSmall(weights=None)
costs = cost.profile(model)
print(f"{costs.parameters:,} parameters, {costs.macs:,} multiply-accumulates")
print(f"ACE {costs.ace():.3g}, ACEv2 {costs.ace_v2():.3g}, {costs.energy() / 1e6:.0f} microjoules at 45 nm")

# %% [markdown]
# ## Elementwise arithmetic in networks of few bits
#
# PikeLPN (arXiv 2404.00103) observes that once products have few bits, what is left in float dominates: normalisations,
# and the scales of quantisation. ACE, which counts products only, does not see it; ACEv2 does. Here is MobileNetV1 with
# its convolutions in 4 bits, norms and scales in float.

# %%
mobilenet = keras.applications.MobileNet(weights=None)
float_elementwise = cost.Arithmetic(norms="float", rescaling="float")
forms = {
    "float": cost.profile(mobilenet, arithmetic=float_elementwise),
    "8 bits, float norms and scales": cost.profile(qat.quantize_model(mobilenet, "w8a8"), arithmetic=float_elementwise),
    "4 bits, float norms and scales": cost.profile(qat.quantize_model(mobilenet, "w4a4"), arithmetic=float_elementwise),
    "4 bits, norms folded, integer scales": cost.profile(qat.quantize_model(mobilenet, "w4a4")),
    "4 bits, norms folded, scales of powers of two": cost.profile(
        qat.quantize_model(mobilenet, "w4a4"), arithmetic=cost.Arithmetic(rescaling="shift")
    ),
}
print(f"{'':48}{'ACE':>10}{'ACEv2':>10}  elementwise")
for name, form in forms.items():
    print(f"{name:48}{form.ace():10.2e}{form.ace_v2():10.2e}{form.elementwise_share():12.0%}")

# %%
integer_forms = {name: form for name, form in forms.items() if name != "float"}
figure, axes = plt.subplots(figsize=(10, 3.5), layout="constrained")
plots.plot_roles(list(integer_forms.values()), list(integer_forms), axes=axes)
plt.show()

# %% [markdown]
# PikeLPN's remedies are to quantise the norms (QuantNorm) and the scales (Double Quantization), and to give depthwise
# and pointwise kernels quantisers of their own: powers of two for the pointwise, whose products are shifts. ACE sees
# none of it.

# %%
four_bits = qat.LastValueQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True)
network = PikeLPN(policy="float")
policies = {
    "float norms and scales": qat.pikelpn_policy(pointwise=four_bits, norm=None, scale_bits="float"),
    "+ QuantNorm": qat.pikelpn_policy(pointwise=four_bits, scale_bits="float"),
    "+ Double Quantization": qat.pikelpn_policy(pointwise=four_bits),
    "+ powers of two pointwise: PikeLPN 1x": qat.pikelpn_policy(),
}
remedies = {
    name: cost.profile(qat.quantize_model(network, policy), arithmetic=float_elementwise)
    for name, policy in policies.items()
}
for name, form in remedies.items():
    print(f"{name:40}{form.ace():10.2e}{form.ace_v2():10.2e}{form.elementwise_share():6.0%} elementwise")
figure, axes = plt.subplots(figsize=(10, 3.2), layout="constrained")
plots.plot_roles(list(remedies.values()), list(remedies), axes=axes)
plt.show()

# %% [markdown]
# The share depends on the prices. The MAC's own sum is in it, at 32 bits; without it, as in ACE, the share is larger:

# %%
without_sums = dataclasses.replace(cost.PRICES["energy45"], name="energy45 without sums", counts_sums=False)
form = forms["4 bits, float norms and scales"]
for prices in (*cost.PRICES.values(), without_sums):
    print(f"{prices.name:24}{form.elementwise_share(prices):6.0%} elementwise")

# %% [markdown]
# ## Where a layer waits: the roofline
#
# A layer takes the longer of two times, that of its arithmetic and that of its memory. Which is longer depends on the
# hardware's ridge point: the MACs it does in the time that it moves a byte. The paper of MobileNetV4 (arXiv 2404.10518,
# section 3) sweeps it from 0, where only MACs count, to 500, accelerators.

# %%
profiler = cost.TableProfiler()  # from the tables alone: no Keras model is built
family = {name: profiler.profile(architecture) for name, architecture in ARCHITECTURES.items() if "AA" not in name}
figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
plots.plot_roofline(list(family.values()), list(family), axes=axes)
plt.show()

# %% [markdown]
# ## Cost against quality
#
# ImageNet top-1 of the paper's table 6 over the time on an Edge TPU's roofline:

# %%
top1 = {
    "MobileNetV4ConvSmall": 73.8,
    "MobileNetV4ConvMedium": 79.9,
    "MobileNetV4HybridMedium": 80.7,
    "MobileNetV4ConvLarge": 82.9,
    "MobileNetV4HybridLarge": 83.4,
}
points = [(cost.roofline(family[name], "pixel_8_edgetpu").time, quality) for name, quality in top1.items()]
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
plots.plot_pareto(points, list(top1), axes=axes).set(xlabel="roofline time, in bytes", ylabel="top-1, %")
plt.show()

# %% [markdown]
# A network that is Pareto-optimal at every ridge point is worth having on every kind of hardware:

# %%
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
plots.plot_universal([family[name] for name in top1], list(top1.values()), list(top1), axes=axes)
plt.show()
