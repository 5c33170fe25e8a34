"""The examples in docstrings, as they stand: on tiny networks, with one pass of training where they have many.

What an example takes for granted, such as `model` or `photos`, is in `Things`. What it prints is compared where it says
so, numbers to a part in a thousand.
"""

import ast
import dataclasses
import doctest
import functools
import importlib
import inspect
import json
import pathlib
import re
import shutil
import textwrap
import types

import keras
import keras_tuner
import numpy as np
import PIL.Image
import pytest
from conftest import SMALL
from conftest import TINY_RESNET
from conftest import photo_crops
from test_docs_site import INNER
from test_docs_site import MODULES
from test_docs_site import PACKAGES
from test_docs_site import fit_once
from test_docs_site import public_names

from keras_mnv4 import applications
from keras_mnv4 import cost
from keras_mnv4 import datafree
from keras_mnv4 import distillation
from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4 import tuner
from keras_mnv4.applications import mobilenet_v4
from keras_mnv4.data import load_image_folder
from keras_mnv4.demo import run_demo

pytestmark = [pytest.mark.once, pytest.mark.tensorflow]

# Constructors differ by the name alone: one of each family.
ALIKE = re.compile(
    r"applications\.(MobileNetV4(Conv(AA|Blur|[LM])|Hybrid)|EfficientNetLite[12]|ResNet(29|34|\d{3})|PikeLPN[236])"
)
# These want the real network.
REAL = ("applications.feature_pyramid", "cost.profile", "tuner.coarse_space", "tuner.small_space")
SLOW = {
    *("cost.FileLatency", "cost.ParetoStudy", "datafree.SoftLabelLoss", "datafree.SyntheticSet", "demo.run_demo"),
    *("distillation.DatasetMix", "export.to_onnx", "training.distill", "training.quantize"),
    *("tuner.DARTS", "tuner.EvolutionOracle", "tuner.ProxylessNAS", "tuner.ReinforceOracle", "tuner.SuperNet"),
    *("tuner.TuNAS", "tuner.UIBTuner", "tuner.gradient_search", "tuner.search", "tuner.search_batches"),
    "tuner.two_stage_search",
}
# Where a word means another thing than elsewhere.
MEANS = {
    "training.distill": {"MobileNetV4ConvSmall": lambda things: lambda **_: things.tiny(classes=2)},
    "cost.roofline": {"model": lambda things: things.small},
    "cost.ParetoStudy": {"train": lambda things: things.training},
}
# Nothing to run: exceptions, what functions give, and values; pages of the reference have their examples.
WITHOUT = {
    *("applications.CHECKPOINTS", "cost.ENERGIES", "cost.PRICES", "cost.RIDGE_POINTS", "cost.ROLES"),
    *("datafree.PAPER", "datafree.RELATIVE"),
    *("distillation.D1", "distillation.D2", "distillation.D3", "qat.RANGE_NAMES"),
    *("export.Agreement", "export.EdgeTPUReport", "export.ExportError", "export.ExportReport", "export.Finding"),
    *("export.PartAgreement", "export.run_onnx"),
}


def get(name):
    """The object of a name such as `qat.Policy.to_json`."""
    parts = ["keras_mnv4", *name.split(".")]
    count = next(count for count in range(len(parts) - 1, 0, -1) if _is_module(".".join(parts[:count])))
    found = importlib.import_module(".".join(parts[:count]))
    return functools.reduce(getattr, parts[count:], found)


@functools.cache
def _is_module(path):
    try:
        importlib.import_module(path)
    except ModuleNotFoundError:
        return False
    return True


def has_example(value):
    return ">>>" in (vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None) or "")


def examples():
    """All public names, and methods of public classes, that have an example."""
    for name in public_names((*MODULES, *INNER)):
        value = get(name)
        if not callable(value) or ALIKE.match(name) or name in WITHOUT:
            continue
        yield name
        for method, inner in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isroutine(inner) and has_example(getattr(inner, "__func__", inner)):
                yield f"{name}.{method}"


def functions():
    """All public functions, constructors and methods with a docstring, by name: where it is said, and what is run."""
    for name in public_names((*MODULES, *INNER)):
        value = get(name)
        if not inspect.isclass(value):
            yield name, value, value
            continue
        for method, inner in vars(value).items():
            inner = getattr(inner, "fget", getattr(inner, "__func__", inner))
            if method in ("__init__", "__post_init__"):
                yield name, value, inner
            elif not method.startswith("_") and inspect.isfunction(inner) and inner.__doc__:
                yield f"{name}.{method}", inner, inner


def may_raise(function):
    """Whether the body of a function raises a ValueError or a TypeError, or has a function that checks for it."""
    if not is_written_out(function):
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {getattr(each, "id", getattr(each, "attr", "")) for each in called}
    return not names.isdisjoint({"ValueError", "TypeError"}) or any(name.startswith("check_") for name in names)


def is_written_out(function):
    """Whether the source of a function is in its own module: not made by another function, or by `dataclass`."""
    return inspect.isfunction(function) and inspect.getsourcefile(function) == inspect.getmodule(function).__file__


class Things:
    """What examples take for granted, made when they ask for it; and what they have too much of, made small."""

    def __init__(self, text, data):
        self.data = data
        self.files = sorted(pathlib.Path("photos").glob("*/*.jpg"))
        self.pictures, self.labels = self.data.train.arrays(8)
        self.photos = self.pool = self.other_pictures = self.training_pictures = self.pictures
        self.validation_pictures = self.pictures
        self.other_labels = self.validation_labels = self.labels
        self.photo = self.photos[0]
        self.content = b"content"
        self.size = 224 if "size=224)[0]" in text or "arrays(size=224)" in text else 32
        self._write_files(text)

    def _write_files(self, text):
        if "cat.jpg" in text:
            shutil.copy(self.files[0], "cat.jpg")
        if "teacher.keras" in text:
            self.tiny(classes=2).save("teacher.keras")
        if "network.json" in text and "search/" in text:
            pathlib.Path("search").mkdir()
            pathlib.Path("search/network.json").write_text(json.dumps(SMALL.to_dict()))
        if '"vision.tflite")' in text:
            model = applications.build_network(SMALL, input_shape=(32, 32, 3))
            export.to_litert(qat.quantize_model(model, "w8a8", self.photos), "vision.tflite", samples=self.photos)
        if 'SyntheticSet("' in text:
            self.synthesize(self.model, 8, "pictures_of_lite0")
        if 'SoftLabelStore("' in text:
            distillation.write_soft_labels(self.mix, self.model, "soft_labels", verbose=0)

    @property
    def model(self):
        model = self.tiny(classes=2, input_shape=(self.size, self.size, 3))
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    teacher = student = model

    @property
    def labeller(self):
        return keras.Sequential([keras.layers.Lambda(lambda pictures: np.eye(2)[[0, 1] * 4])])

    @property
    def quantized(self):
        quantized = qat.quantize_model(self.model, "w8a8", self.photos if self.size == 32 else None)
        quantized.compile("adam", "sparse_categorical_crossentropy")
        return quantized

    @property
    def distiller(self):
        distiller = distillation.Distiller(self.model, teacher=self.model)
        distiller.compile("adam")
        return distiller

    @property
    def mix(self):
        source = distillation.Source(self.files, augmentation=distillation.D1)
        return distillation.DatasetMix([source], size=32, batch_size=8)

    @property
    def made(self):
        return self.synthesize(self.model, 8, "made")

    @property
    def space(self):
        return tuner.tiny_space()

    @property
    def candidate(self):
        return self.space.sample(np.random.default_rng(0))

    @property
    def costs(self):
        return tuner.CostModel(self.space, {}, (32, 32, 3), 2)

    @property
    def gates(self):
        return tuner.Gates(self.space)

    @property
    def supernet(self):
        return tuner.SuperNet(self.space, (32, 32, 3), 2)

    @property
    def small(self):
        return cost.TableProfiler().profile(mobilenet_v4.ARCHITECTURES["MobileNetV4ConvSmall"])

    @property
    def large(self):
        return cost.TableProfiler().profile(mobilenet_v4.ARCHITECTURES["MobileNetV4ConvMedium"])

    @property
    def models(self):
        return [self.small, self.large, self.small]

    @property
    def recipe(self):
        return importlib.import_module("keras_mnv4.recipes").MOBILENET_V4["MobileNetV4ConvSmall"]

    def training(self, network, *_):
        for _ in range(2):
            network(self.photos, training=True)
        return {"top1_train": 0.5, "top1_eval": 0.5}

    @property
    def MyGate(self):
        return type("MyGate", (keras.layers.Layer,), {})

    @property
    def MyQuantizeConfig(self):
        asked = ("get_weights_and_quantizers", "get_output_quantizers", "get_activations_and_quantizers")
        return type("MyQuantizeConfig", (), {name: lambda self, layer: [] for name in asked})

    @property
    def tiny(self):
        return functools.partial(applications.build_network, SMALL)

    @staticmethod
    def synthesize(teacher, num_images, directory, **how):
        few = {"classes": range(2), "rounds": 1, "size": 32, "steps": 2, "batch_size": 4, "verbose": 0}
        return datafree.synthesize(teacher, 4, directory, **{**how, **few})


class Checker(doctest.OutputChecker):
    """Compares where an example says what it prints; numbers roughly, shapes on every backend alike."""

    NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

    def check_output(self, want, got, optionflags):
        got = re.sub(r"TensorShape\(\[(.*?)\]\)", r"(\1)", got)
        if not want or super().check_output(want, got, optionflags):
            return True
        if self.NUMBER.sub("", want).split() != self.NUMBER.sub("", got).split():
            return False
        return np.allclose(*([float(each) for each in self.NUMBER.findall(text)] for text in (want, got)), rtol=1e-3)


def smaller(function, **less):
    """`function` with arguments as given, whatever an example says."""

    def call(*arguments, **keywords):
        bound = inspect.signature(function).bind(*arguments, **keywords)
        given = bound.arguments.pop("kwargs", {})
        return function(**{**bound.arguments, **given, **less})

    return call


def namespace(name, things):
    """What an example sees: all public names, its own module, and small things in place of large ones."""
    seen = {"np": np, "keras": keras, "PIL": PIL, "dataclasses": dataclasses, "pathlib": pathlib}
    for package in PACKAGES:
        found = importlib.import_module(f"keras_mnv4.{package}")
        seen.update({package: found, **{each: getattr(found, each) for each in found.__all__}})
    seen.update(vars(inspect.getmodule(get(name))))
    if name in REAL:
        return seen
    build = things.tiny
    for constructor in ("MobileNetV4ConvSmall", "EfficientNetLite0", "EfficientNetLite2"):
        seen[constructor] = lambda *arguments, weights=None, **keywords: build(*arguments, **keywords)
    seen["ResNet18"] = functools.partial(applications.build_network, TINY_RESNET)
    seen["small_space"] = seen["coarse_space"] = tuner.tiny_space
    shape = {"input_shape": (32, 32, 3), "classes": 2}
    seen["CostModel"], seen["SuperNet"] = smaller(tuner.CostModel, **shape), smaller(tuner.SuperNet, **shape)
    seen["UIBHyperModel"] = smaller(tuner.UIBHyperModel, **shape)
    seen["keras_tuner"] = types.SimpleNamespace(RandomSearch=smaller(keras_tuner.RandomSearch, max_trials=1))
    seen["EvolutionOracle"] = smaller(tuner.EvolutionOracle, population=2, generations=1)
    seen["ReinforceOracle"] = smaller(tuner.ReinforceOracle, max_trials=2)
    seen["search_batches"] = smaller(tuner.search_batches, batch_size=4)
    few = {"epochs": 1, "verbose": 0}
    seen["gradient_search"] = smaller(tuner.gradient_search, **few)
    few |= {"population": 2, "generations": 1}
    seen["search"], seen["two_stage_search"] = smaller(tuner.search, **few), smaller(tuner.two_stage_search, **few)
    seen["AQTActivationQuantizer"] = smaller(qat.AQTActivationQuantizer, start_step=0)
    seen["DatasetMix"] = smaller(distillation.DatasetMix, size=32, batch_size=8)
    seen["write_soft_labels"] = smaller(distillation.write_soft_labels, replicas=1)
    seen["run_demo"] = smaller(run_demo, build=build, size=32)
    return seen


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos in two classes, and what `load_image_folder` reads of it."""
    top = tmp_path_factory.mktemp("photos")
    for index, (crop, label) in enumerate(photo_crops(24, 64)):
        folder = top / ("china", "flower")[label]
        folder.mkdir(exist_ok=True)
        PIL.Image.fromarray(crop).save(folder / f"{index}.jpg")
    return top, load_image_folder(top, 32, batch_size=8)


def test_every_public_name_has_an_example():
    assert not [name for name in examples() if not has_example(get(name))]


def test_what_raises_says_so():
    silent = {name for name, said, run in functions() if may_raise(run) and "Raises" not in (said.__doc__ or "")}
    assert not sorted(silent)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in examples()]
)
def test_the_example_runs(name, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("photos").symlink_to(photos[0])
    monkeypatch.setattr(keras.Model, "fit", fit_once)
    text = inspect.getdoc(get(name))
    things = Things(text, photos[1])
    seen = namespace(name, things)
    parser = doctest.DocTestParser()
    for each in set(re.findall(r"\b[A-Za-z_]\w*", "".join(example.source for example in parser.get_examples(text)))):
        if each in MEANS.get(name, {}):
            seen[each] = MEANS[name][each](things)
        elif not each.startswith("_") and (each in vars(things) or hasattr(Things, each)):
            seen[each] = getattr(things, each)
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    printed = []
    runner.run(parser.get_doctest(text, seen, name, None, None), out=printed.append)
    assert not runner.failures, "".join(printed)
