# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From your photos to an Edge TPU and a phone
#
# A network that knows ImageNet learns your classes, becomes integers, and leaves as two verified files. Your photos lie
# in a folder with one sub-folder for each class: say where, in the second cell. Without one, crops of six pictures
# stand in, which are easy to tell apart. `pip install 'keras-mnv4[lite,plots]' scikit-image scikit-learn` has what this
# notebook needs.

# %%
import pathlib
import tempfile

import keras
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_mnv4 import export
from keras_mnv4 import training
from keras_mnv4.applications import EfficientNetLite0
from keras_mnv4.applications import efficientnet_lite
from keras_mnv4.applications import replace_classifier
from keras_mnv4.data import load_image_folder

# %% tags=["parameters"]
PHOTOS = None  # a folder with a sub-folder of photos for each class
SIZE = 128  # pixels
CROPS = 40  # of each picture, where there is no folder
EPOCHS = 2

# %% [markdown]
# ## What it knows already
#
# Constructors are those of `keras.applications`: 1,000 classes, pixels from 0 to 255.

# %%
keras.utils.set_random_seed(0)
pretrained = EfficientNetLite0(weights="imagenet", input_shape=(SIZE, SIZE, 3), dropout_rate=0.2)
cat = np.asarray(Image.fromarray(skimage.data.cat()).resize((SIZE, SIZE)))
for _, name, score in efficientnet_lite.decode_predictions(pretrained.predict(cat[None], verbose=0), top=3)[0]:
    print(f"{name:20}{score:6.1%}")

# %% [markdown]
# ## Photos


# %%
def crops_of_six_pictures(folder):
    pictures = {name: getattr(skimage.data, name)() for name in ("astronaut", "cat", "coffee", "rocket")}
    pictures.update(zip(("china", "flower"), load_sample_images().images, strict=True))
    random = np.random.default_rng(0)
    for name, picture in pictures.items():
        (folder / name).mkdir()
        for index in range(CROPS):
            side = random.integers(100, 200)
            top, left = (random.integers(length - side) for length in picture.shape[:2])
            Image.fromarray(picture[top : top + side, left : left + side]).save(folder / name / f"{index}.jpg")
    return folder


out = pathlib.Path(tempfile.mkdtemp())
photos = load_image_folder(PHOTOS or crops_of_six_pictures(pathlib.Path(tempfile.mkdtemp())), SIZE)
print(
    f"{', '.join(photos.class_names)}: {photos.train.num_pictures} to learn from, {photos.test.num_pictures} to test on"
)

shown, labels = photos.test.arrays(limit=12)
figure, axes = plt.subplots(2, 6, figsize=(11, 4), layout="constrained")
for axis, picture, label in zip(axes.flat, shown, labels, strict=False):
    axis.imshow(picture)
    axis.set_title(photos.class_names[label], fontsize=9)
for axis in axes.flat:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Train
#
# A new classifier takes the place of the old one. `fine_tune` trains it alone first, then everything.

# %%
model = replace_classifier(pretrained, classes=len(photos.class_names))
training.fine_tune(model, photos, epochs=EPOCHS, verbose=0)
print(f"float: {training.top1(model, photos.test):.1%} of the test set")

# %% [markdown]
# ## Quantise
#
# The same layers and weights, with all arithmetic rounded to what 8-bit integers can do. Here without further training;
# `epochs=2` would train what is left to mend.

# %%
quantized = training.quantize(model, photos, policy="w8a8", epochs=0)
print(f"8 bits: {training.top1(quantized, photos.test):.1%} of the test set")

# %% [markdown]
# ## Export
#
# `to_litert` compares each operator of a file with the layer that it came from before the file gets its name.

# %%
samples = photos.test.arrays(limit=8)[0]
names = photos.class_names
edgetpu = export.to_litert(quantized, out / "vision.tflite", target="edgetpu", samples=samples)
app = export.to_litert(quantized, out / "app.tflite", target="app", class_names=names, samples=samples)
print(edgetpu.edgetpu)
for report in (edgetpu, app):
    print(f"{report.path.name:15}{report.size / 1e6:6.2f} MB; {len(report.parts)} operators; {report.agreement}")

# %% [markdown]
# ## The file, as a phone would run it
#
# Bytes in, scores out. Over each photo, what the file says, in red where it is wrong.

# %%
test, labels = photos.test.arrays()
scores = export.LiteRTModel(out / "app.tflite").predict(test)
guesses = scores.argmax(-1)
print(f"app.tflite: {(guesses == labels).mean():.1%} of the test set")

figure, axes = plt.subplots(2, 6, figsize=(11, 4.2), layout="constrained")
order = np.argsort(scores.max(-1))  # the least certain first
for axis, index in zip(axes.flat, order, strict=False):
    axis.imshow(test[index])
    color = "black" if guesses[index] == labels[index] else "red"
    axis.set_title(f"{names[guesses[index]]} {scores[index].max():.0%}", fontsize=9, color=color)
for axis in axes.flat:
    axis.axis("off")
plt.show()

# %% [markdown]
# On the command line this is `mnv4 train`, `mnv4 quantize` and `mnv4 export`. Where each file runs is in
# `deployment.ipynb`; fewer bits than 8 in `quantisation.ipynb`.
