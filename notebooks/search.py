# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A network of one's own
#
# MobileNetV4 (arXiv 2404.10518, section 6) was searched for in two stages: first how many channels and blocks, then
# which depthwise convolutions each block has. Here is the same on handwritten digits, within a limit on what the
# network may cost. `pip install 'keras-mnv4[demo,plots]'` has what this notebook needs.

# %%
import pathlib
import tempfile

import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_mnv4 import training
from keras_mnv4 import tuner
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import MobileNetV4
from keras_mnv4.applications import choice
from keras_mnv4.cost import plots
from keras_mnv4.data import load_digits

# %% tags=["parameters"]
SUPERNET_EPOCHS = 25
POPULATION = 20
GENERATIONS = 5
EPOCHS = 15  # of the networks that are trained from scratch
RANDOM = 3  # networks drawn by chance, to hold the one that was found against

# %% [markdown]
# ## The space
#
# It is a table with `choice(...)` where a number, or a whole row, may be one or another. A choice with a name is made
# once, wherever it stands.

# %%
SIZE = 32
digits = load_digits(SIZE)


def stage(name, filters, stride):
    """Two inverted bottlenecks, the second of which may be left out."""
    filters = choice(*filters, name=f"{name}/filters")
    block = {"expand": 4, "middle": 3}
    return UIB(filters, stride=stride, **block), choice(None, UIB(filters, **block))


space = tuner.SearchSpace(
    Architecture(
        "digits",
        (
            Conv(16, kernel=3, stride=2),
            *stage("stage_1", (8, 12, 16, 24), stride=1),
            *stage("stage_2", (16, 24, 32, 48), stride=2),
            *stage("stage_3", (24, 32, 48, 64), stride=2),
            Conv(96, kernel=1),
        ),
        default_size=SIZE,
        head_filters=None,
    )
)
limits = {"macs": 2e6}
costs = tuner.CostModel(space, limits, (SIZE, SIZE, 3), classes=10)
random = np.random.default_rng(0)
macs = np.array([costs.cost(space.sample(random), "macs") for _ in range(500)])
cheap = np.mean(macs <= limits["macs"])
print(f"{np.prod([len(values) for values in space.decisions.values()]):,} tables; of 500 drawn by chance:")
print(f"{macs.min() / 1e6:.2f} to {macs.max() / 1e6:.2f} M multiply-accumulates, {cheap:.0%} within the limit")

# %% [markdown]
# ## First stage: channels and blocks
#
# One supernet has the weights of all networks, and a network of its own is trained in every step. Evolution then scores
# networks with these weights, which takes no training, on pictures that the weights have not seen.
# `tuner.two_stage_search` does both stages in one call.

# %%
how = {
    "limits": limits,
    "epochs": SUPERNET_EPOCHS,
    "population": POPULATION,
    "generations": GENERATIONS,
    "verbose": 0,
}
folder = pathlib.Path(tempfile.mkdtemp())
coarse = tuner.search(space, digits, folder / "coarse", **how)
for row in coarse.best_architecture().blocks:
    print(row)

# %% [markdown]
# ## Second stage: kernels
#
# Channels stay as they were found. Each block may have a depthwise convolution before its expansion, one behind it,
# both or neither, of 3x3 or 5x5 pixels: ConvNext, inverted bottleneck, ExtraDW or FFN.

# %%
fine_space = tuner.fine_space(coarse.best_architecture())
fine = tuner.search(fine_space, digits, folder / "fine", **how)
for row in fine.best_architecture().blocks:
    print(row)

# %% [markdown]
# ## What was looked at
#
# Each dot is a network, as the supernet scores it; on the line are those that are worth their cost.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained", sharey=True)
for panel, (name, stage_tuner) in zip(axes, {"channels": coarse, "kernels": fine}.items(), strict=True):
    points = [(each["costs"]["macs"] / 1e6, 100 * each["accuracy"]) for each in stage_tuner.results()]
    plots.plot_pareto(points, label=f"{len(points)} networks", axes=panel)
    panel.set(title=name, xlabel="M multiply-accumulates", ylabel="score on validation pictures, %")
plt.show()

# %% [markdown]
# ## From scratch
#
# Shared weights are for telling networks apart. The one that was found is trained anew, and so are some of the same
# space and limit that chance drew.


# %%
def trained(architecture, seed):
    keras.utils.set_random_seed(seed)
    model = MobileNetV4(architecture, classes=10, input_shape=(SIZE, SIZE, 3))
    training.train(model, digits, EPOCHS, flip=False, verbose=0)
    return training.top1(model, digits.test)


fine_costs = tuner.CostModel(fine_space, limits, (SIZE, SIZE, 3), classes=10)
best = fine.best_candidate()
print(f"found: {trained(fine.best_architecture(), seed=0):.1%} of the test set, ", end="")
print(f"{fine_costs.cost(best, 'macs') / 1e6:.2f} M multiply-accumulates")
for seed in range(RANDOM):
    candidate = costs.sample(random)
    print(f"by chance: {trained(space.architecture_of(candidate), seed):.1%}, ", end="")
    print(f"{costs.cost(candidate, 'macs') / 1e6:.2f} M")

# %% [markdown]
# ## The table
#
# `save_results` writes the rows of every network that was scored, the best first; `mnv4 search` writes the best one
# into `network.json`, of which `MobileNetV4("network.json")` builds the network again.

# %%
fine.save_results(folder / "results.json")
print(f"{(folder / 'results.json').stat().st_size / 1e3:.0f} kB for {len(fine.results())} networks")
