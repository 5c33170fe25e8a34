"""The documentation's pages, without building them: `make docs` does that."""

import dataclasses
import functools
import importlib
import itertools
import pathlib
import re
import shlex
import subprocess
import sys

import keras
import pytest
from conftest import SMALL

from keras_mnv4 import applications
from keras_mnv4.cli.parser import make_parser
from keras_mnv4.data import PictureSet

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Those whose code is there to be copied; the others' takes what went before for granted.
PAGES_WITH_CODE = (
    *("index", "concepts", "policies"),
    *(f"{folder}/{path.stem}" for folder in ("guides", "reference") for path in sorted((DOCS / folder).glob("*.md"))),
)
SLOW = {"guides/deployment", "guides/head", "guides/search_space", "reference/export"}
PACKAGES = ("applications", "cost", "datafree", "distillation", "export", "layers", "qat", "tuner")
MODULES = ("cost.plots", "data", "demo", "fitting", "recipes", "training")
# Not in the reference; their examples are tested, too.
INNER = ("backups", "batches", "files", "gradients", "plans", "progress")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.once


def name_of(page):
    return page.relative_to(DOCS).as_posix()


def blocks(page, language):
    return [code for kind, code in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def public_names(modules=MODULES):
    for package in PACKAGES:
        for name in importlib.import_module(f"keras_mnv4.{package}").__all__:
            yield f"{package}.{name}"
    for module in modules:
        found = importlib.import_module(f"keras_mnv4.{module}")
        for name, value in vars(found).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == found.__name__:
                yield f"{module}.{name}"


def test_import_of_the_package_gives_all_of_it():
    """In a process of its own: here they were imported before."""
    code = "\n".join(["import keras_mnv4", *(f"keras_mnv4.{name}" for name in (*PACKAGES, *MODULES))])
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    there = set(re.findall(r"^::: keras_mnv4\.(\S+)$", pages, re.MULTILINE))
    there |= set(re.findall(r"^ +heading: keras_mnv4\.(\S+)$", pages, re.MULTILINE))
    assert not sorted(set(public_names()) - there)


def test_the_reference_has_nothing_that_is_not_there():
    for page in (DOCS / "reference").glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, name = path.rsplit(".", 1)
            assert hasattr(importlib.import_module(module), name), path


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"[\w/]+\.md$", navigation, re.MULTILINE)) == sorted(map(name_of, PAGES))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page):
    """Options and their values, without running any."""
    parser = make_parser()
    for block in blocks(page, ""):
        for line in block.splitlines():
            if line.startswith("mnv4 "):
                parser.parse_args(shlex.split(line, comments=True)[1:])


def test_messages_of_the_troubleshooting_are_those_of_the_package():
    """Each quoted message is in the package, word for word but for what differs from case to case."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "keras_mnv4").rglob("*.py"))
    sources = flat(re.sub(r'"\s*\n\s*f?"', "", sources))  # texts over several lines
    lines = (DOCS / "guides" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for line, below in itertools.pairwise(lines) if below.startswith(":   ")]
    messages = re.findall(r'"(.+?)"(?:, |$| \()', "\n".join(quoted), re.MULTILINE)
    assert len(messages) >= 50
    parts = [(message, flat(part)) for message in messages for part in re.split(r"\.\.\.|'\.\.\.'", message)]
    assert not [message for message, part in parts if part not in sources]


def flat(text):
    """Letters and single spaces alone: quotes, and what is filled in, differ."""
    return " ".join(re.sub(r"\{[^{}]*\}|[^A-Za-z]", " ", text).split())


DEEP = dataclasses.replace(SMALL, blocks=(*SMALL.blocks, *3 * (applications.UIB(16, expand=2, middle=3, stride=2),)))
FIT = keras.Model.fit


def fit_once(self, *arguments, **keywords):
    """`keras.Model.fit` for one pass of two batches at most, without compiling."""
    self.run_eagerly = True
    limits = {}
    if isinstance(arguments[0], PictureSet):
        limits = {"steps_per_epoch": min(2, len(arguments[0])), "validation_steps": 1}
    return FIT(self, *arguments, **{**keywords, **limits, "epochs": 1, "verbose": 0})


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PAGES_WITH_CODE]
)
def test_the_code_of_a_page_runs(name, photo_folder, monkeypatch):
    """Block after block, on networks of a few blocks and with little training."""
    page = DOCS / f"{name}.md"
    monkeypatch.chdir(photo_folder.parent)
    monkeypatch.setattr(keras.Model, "fit", fit_once)
    for constructor, table in (("MobileNetV4ConvSmall", SMALL), ("EfficientNetLite0", DEEP)):
        monkeypatch.setattr(applications, constructor, functools.partial(build, table))
    namespace = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


def build(table, *arguments, weights=None, **keywords):
    return applications.build_network(table, *arguments, **keywords)
