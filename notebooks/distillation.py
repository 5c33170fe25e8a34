# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A teacher for a small network
#
# EfficientNet-Lite0, which has seen ImageNet, learns from five labelled pictures a class, and teaches
# MobileNetV4ConvSmall, which begins from nothing. The recipe is that of MobileNetV4 (arXiv 2404.10518, section 8):
# pictures are changed beforehand, the teacher's probabilities are written down beside them, and the student learns
# those, without labels. `pip install 'keras-mnv4[lite,plots]' scikit-image scikit-learn` has what this notebook needs;
# a folder of photos of your own makes a better example.

# %%
import tempfile

import keras
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_mnv4 import distillation
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.applications import MobileNetV4ConvSmall

# %% tags=["parameters"]
SIZE = 64  # pixels
LABELLED = 5  # pictures of each class for the teacher
PICTURES = 384  # without labels, for the student
EPOCHS = 6
BATCH = 16

# %%
photos = {name: getattr(skimage.data, name)() for name in ("astronaut", "cat", "coffee", "rocket")}
photos.update(zip(("china", "flower"), load_sample_images().images, strict=True))


def crops(count, seed):
    """As many of each photo, and which one each is of."""
    random = np.random.default_rng(seed)
    pictures, labels = [], np.arange(count) % len(photos)
    for label in labels:
        photo = list(photos.values())[label]
        side = random.integers(80, 160)
        top, left = (random.integers(length - side) for length in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + side, left : left + side])
        pictures.append(np.asarray(crop.resize((SIZE, SIZE))))
    return np.stack(pictures), labels


classes = len(photos)
pictures, _ = crops(PICTURES, seed=0)
few, few_labels = crops(LABELLED * classes, seed=1)
test, test_labels = crops(300, seed=2)
print(f"{PICTURES} pictures without labels, {len(few)} with, {len(test)} to test on; of {', '.join(photos)}")

# %% [markdown]
# ## The teacher
#
# ImageNet's features and a linear head are a teacher already; with more labels, fine-tune all of it.

# %%
keras.utils.set_random_seed(0)
shape = (SIZE, SIZE, 3)
body = EfficientNetLite0(weights="imagenet", include_top=False, pooling="avg", input_shape=shape)
head = keras.Sequential([keras.Input(body.output_shape[1:]), keras.layers.Dense(classes, "softmax")])
head.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
head.fit(body(few.astype("float32")), few_labels, epochs=40, verbose=0)
teacher = keras.Model(body.input, head(body.output))


def top1(model):
    return (np.argmax(model(test.astype("float32")), -1) == test_labels).mean()


print(f"teacher: test top-1 {top1(teacher):.1%}")

# %% [markdown]
# ## Pictures
#
# D1 is an Inception crop and RandAugment, D2 an Inception crop and Mixup; here they are mixed 1 : 1. Over each of some,
# what the teacher thinks of it.

# %%
changes = (distillation.D1, distillation.D2)
sources = [distillation.Source(pictures, augmentation=change) for change in changes]
mix = distillation.DatasetMix(sources, SIZE, batch_size=BATCH, epoch_size=PICTURES)

figure, axes = plt.subplots(1, 8, figsize=(11, 1.8), layout="constrained")
for axis, picture, guess in zip(axes, mix.batch(0)[0], teacher.predict_on_batch(mix.batch(0)[0]), strict=False):
    axis.imshow(picture / 255)
    best, second = guess.argsort()[:-3:-1]
    names = list(photos)
    axis.set_title(f"{names[best]} {guess[best]:.0%}\n{names[second]} {guess[second]:.0%}", fontsize=8)
    axis.axis("off")
plt.show()

# %%
folder = tempfile.mkdtemp()
store = distillation.write_soft_labels(mix, teacher, folder, replicas=EPOCHS, verbose=0)
size = sum(path.stat().st_size for path in store.shards)
print(f"{store.num_pictures:,} pictures with the teacher's probabilities, {size / 1e6:.1f} MB")

# %% [markdown]
# ## The student
#
# One picture in two is mirrored once more while the student trains; nothing else is random. Labels are for the curve
# only.

# %%
steps = EPOCHS * len(mix)
warmup = steps // 10
rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=4e-3, warmup_steps=warmup)

student = MobileNetV4ConvSmall(weights=None, classes=classes, input_shape=shape)
distiller = distillation.Distiller(student)
distiller.compile(keras.optimizers.AdamW(rate, weight_decay=0.02), metrics=["categorical_accuracy"])
history = distiller.fit(
    store.tf_data(BATCH).repeat(),
    epochs=EPOCHS,
    steps_per_epoch=len(mix),
    validation_data=(test, {"labels": np.eye(classes)[test_labels]}),
    shuffle=False,
    verbose=0,
)
print(f"student: test top-1 {top1(student):.1%}; its teacher: {top1(teacher):.1%}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
epochs = np.arange(EPOCHS) + 1
left.plot(epochs, history.history["loss"])
left.set(xlabel="epoch", ylabel="cross-entropy with the teacher")
right.plot(epochs, np.array(history.history["val_categorical_accuracy"]) * 100, label="student")
right.axhline(top1(teacher) * 100, linestyle="--", color="black", label="teacher")
right.axhline(100 / classes, linestyle=":", color="black", label="by chance")
right.set(xlabel="epoch", ylabel="test top-1, %", ylim=(0, 100))
right.legend()
plt.show()

# %% [markdown]
# So few passes over so few pictures are enough to see it learn, and no more. What a teacher gains over labels in equal
# steps is in `docs/distillation.md`, with the command that measures it; `mnv4 distill` does all of this in one call.
