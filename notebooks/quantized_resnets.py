# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Is 4-bit worth it?
#
# "Pareto-Optimal Quantized ResNet Is Mostly 4-bit" (arXiv 2105.03536) trains ResNets of many sizes at several bit
# widths, and asks which of them give the best accuracy for what they cost. This notebook draws that figure from the
# records of a study with this package: ResNet-18 of several widths on CIFAR-10, in float, in 8 bits, and in 4 bits with
# 8 in the first and the last layer. `docs/quantized_resnets.md` says how they were trained.

# %%
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from keras_mnv4 import cost
from keras_mnv4.cost import plots

docs = next(folder for folder in (pathlib.Path("docs"), pathlib.Path("../docs")) if folder.is_dir())
records = json.loads((docs / "quantized_resnets.json").read_text())
print(cost.study_report(records))

# %% [markdown]
# The headline figure is over the *linear* cost: every product counts as many bits as the multiplier that it needs, 4, 8
# or 16, which is how accelerators are rated. What is not quantised counts as bfloat16. Steps are Pareto fronts.

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
plots.plot_curves(records, "linear", axes=axes)
plt.show()

# %% [markdown]
# Other costs of the same networks: the product of both widths, which is what the area of a multiplier grows with; the
# bits of the kernels; and ACEv2, which counts normalisations and changes of scale as well. They were computed in float
# here, so that fewer bits save less by that measure.

# %%
figure, rows = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for kind, axes in zip(("quadratic", "memory", "ace_v2"), rows, strict=True):
    plots.plot_curves(records, kind, axes=axes)
plt.show()

# %% [markdown]
# The paper finds that quantisation regularises: the accuracy on pictures that were trained on exceeds that on others by
# less. These networks were trained so briefly that hardly one knows its pictures better than others; the gap of each
# policy and width, mean over the seeds:

# %%
train, evaluation = (cost.study_curves(records, score=score) for score in ("top1_train", "top1_eval"))
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
for place, policy in enumerate(train):
    gaps = [above - below for (_, above), (_, below) in zip(train[policy], evaluation[policy], strict=True)]
    axes.bar(np.arange(len(gaps)) + 0.25 * place, gaps, width=0.22, label=policy)
axes.set(ylabel="top-1, training set less test set", xlabel="width, from the narrowest")
axes.set_xticks([])
axes.legend()
plt.show()

# %% [markdown]
# ## A study of your own
#
# `benchmarks/pareto.py` made the records. What it comes to is a grid and a function that trains:
#
# ```python
# def train(model, run, backups):
#     SGDRecipe(epochs=20, warmup_epochs=1, cooldown_epochs=5).fit(model, data, backup_dir=backups)
#     return {"top1_train": ..., "top1_eval": ...}
#
#
# study = cost.ParetoStudy(
#     "study",
#     networks={"resnet18": lambda width: ResNet18(alpha=width, classes=10, input_shape=(64, 64, 3))},
#     widths=(0.25, 0.5, 1.0),
#     policies={"float": None, "w4a4": aqt_policy(4, 4, first_last_bits=8)},
#     seeds=(0, 1, 2),
#     train=train,
# )
# study.run()
# ```
#
# It keeps a record of each run as soon as that is done, so that it may be stopped at any moment and started again; and
# started as Keras Tuner's distributed search is, several processes share the runs.
