"""What the Kotlin code of `examples/android` expects of an `app` file, and how the file gets there."""

import pathlib
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import randomize_statistics
from conftest import tiny_network

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.export import metadata
from keras_mnv4.export.android import ASSET
from keras_mnv4.export.android import SOURCES
from keras_mnv4.export.android import check_android_project
from keras_mnv4.export.android import install_android
from keras_mnv4.export.tflite_file import read_tflite

EXAMPLE = pathlib.Path(__file__).parent.parent.parent / "examples" / "android"
LABELS = ["Katze", "naïve dog", "第三"]

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def files(real_photos, tmp_path_factory):
    """The same small model for the targets `app` and `edgetpu`."""
    folder = tmp_path_factory.mktemp("files")
    photos = real_photos(8, 32).astype("float32")
    model = qat.quantize_model(randomize_statistics(tiny_network()))
    qat.calibrate(model, photos)
    for target in ("app", "edgetpu"):
        export.to_litert(model, folder / f"{target}.tflite", target, samples=photos, class_names=LABELS)
    return folder


@pytest.fixture
def project(tmp_path):
    (tmp_path / "project" / SOURCES).mkdir(parents=True)
    return tmp_path / "project"


def kotlin(name):
    """The source of one of the app's files."""
    (path,) = EXAMPLE.rglob(name)
    return path.read_text(encoding="utf-8")


def constant(name, source):
    """The value of a string constant in Kotlin."""
    return re.search(rf'const val {name} = "(.*)"', source)[1]


def test_the_app_file_is_what_the_kotlin_code_expects(files):
    content = (files / "app.tflite").read_bytes()
    file = read_tflite(content)
    (picture,), (scores,) = file.inputs, file.outputs
    kinds = re.findall(r"(input|output)\.dataType\(\) == DataType\.(\w+)", kotlin("Classifier.kt"))
    assert dict(kinds) == {"input": picture.dtype, "output": scores.dtype}
    sides = re.findall(r"(height|width) = input\.shape\(\)\[(\d)\]", kotlin("Classifier.kt"))
    assert {side: picture.shape[int(axis)] for side, axis in sides} == {"height": 32, "width": 32}
    assert picture.shape[3] == int(re.search(r"const val CHANNELS = (\d)", kotlin("Picture.kt"))[1])
    # Pictures go in as bytes, as the code has them, whatever the scale of the input; of the output there is one.
    assert (scores.scales, scores.zero_points) == ((1 / 256,), (0,))
    assert constant("LABELS_FILE", kotlin("Labels.kt")) == metadata.LABELS_FILE
    assert metadata.read_class_names(content) == LABELS
    assert scores.shape == (1, len(LABELS))


def test_scores_are_what_the_kotlin_formula_gives(files, real_photos):
    model = export.LiteRTModel(files / "app.tflite")
    scale, zero_point = model.outputs[0]["quantization"]
    photos = real_photos(2, 32)
    codes = model.predict_codes(photos)
    assert "scale * (code.toUByte().toInt() - zeroPoint)" in kotlin("Scores.kt")
    np.testing.assert_array_equal(model.predict(photos), np.float32(scale) * (codes.astype(int) - zero_point))


def test_the_model_goes_where_the_app_looks_for_it(files, project):
    assert constant("MODEL_FILE", kotlin("Classifier.kt")) == ASSET.name
    assert ASSET.as_posix() in (EXAMPLE / ".gitignore").read_text().splitlines()
    installed = install_android(files / "app.tflite", project)
    assert installed == project / "app" / "src" / "main" / "assets" / "vision.tflite"
    assert installed.read_bytes() == (files / "app.tflite").read_bytes()
    assert list(installed.parent.iterdir()) == [installed]


def test_an_existing_model_is_kept_unless_told_otherwise(files, project):
    install_android(files / "app.tflite", project).write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        install_android(files / "app.tflite", project)
    assert (project / ASSET).read_text() == "mine"
    install_android(files / "app.tflite", project, overwrite=True)
    assert (project / ASSET).read_bytes() == (files / "app.tflite").read_bytes()


def without_labels(content):
    return content[: content.index(b"PK\x03\x04")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda files: (files / "edgetpu.tflite").read_bytes(), "takes INT8 and gives INT8 instead of UINT8"),
        (lambda files: without_labels((files / "app.tflite").read_bytes()), "has no labels"),
        (lambda files: b"PK\x03\x04 and the rest", "is not a TFLite file"),
        (lambda files: b"", "is not a TFLite file"),
    ],
)
def test_files_of_other_targets_are_errors(make, message, files, project, tmp_path):
    (tmp_path / "other.tflite").write_bytes(make(files))
    with pytest.raises(ValueError, match=rf"`model_file`.* {message}: export .*other\.tflite"):
        install_android(tmp_path / "other.tflite", project)
    assert not list((project / SOURCES).iterdir())


def test_labels_must_be_as_many_as_outputs(files, project, tmp_path):
    content = without_labels((files / "app.tflite").read_bytes())
    content = metadata.add_classifier_metadata(content, "tiny", ["one", "two"], 0.0, 1.0)
    (tmp_path / "two.tflite").write_bytes(content)
    with pytest.raises(ValueError, match="2 labels for 3 outputs"):
        install_android(tmp_path / "two.tflite", project)


def test_folders_that_are_no_android_project_are_errors(files, project, tmp_path):
    with pytest.raises(FileNotFoundError, match="`model_file` does not exist"):
        install_android(tmp_path / "none.tflite", project)
    for wrong in (tmp_path, tmp_path / "none", project / "app"):
        with pytest.raises(FileNotFoundError, match=r"`project` must be .* copy `examples/android`"):
            install_android(files / "app.tflite", wrong)
        with pytest.raises(FileNotFoundError, match="`project`"):
            check_android_project(wrong)


def test_the_example_is_a_project():
    assert check_android_project(EXAMPLE, overwrite=True) == EXAMPLE / ASSET


def test_what_the_project_names_is_there():
    """Resources, classes and versions: what a build of it would miss first."""
    main = EXAMPLE / SOURCES
    texts = {path: path.read_text(encoding="utf-8") for path in EXAMPLE.rglob("*") if path.suffix in (".kt", ".xml")}
    for path in main.rglob("*.xml"):
        ElementTree.parse(path)
    files = {(path.parent.name, path.stem) for path in main.glob("res/*/*.xml")}
    values = re.findall(r'<(string|style) name="([\w.]+)"', "".join(texts.values()))
    ids = [("id", name) for name in re.findall(r"@\+id/(\w+)", "".join(texts.values()))]
    named = re.findall(r"(?:\bR\.|\"@)(id|layout|string|style|xml)[./]([\w.]+)", "".join(texts.values()))
    assert named
    assert set(named) <= files | set(values) | set(ids)
    manifest = texts[main / "AndroidManifest.xml"]
    (activity,) = re.findall(r'android:name="\.(\w+)"', manifest)
    assert f"class {activity}" in kotlin(f"{activity}.kt")
    catalog = (EXAMPLE / "gradle" / "libs.versions.toml").read_text()
    aliases = set(re.findall(r"^([\w-]+) = \{", catalog, re.MULTILINE))
    used = re.findall(r"\blibs\.(?:plugins\.)?([\w.]+)", "".join(path.read_text() for path in EXAMPLE.rglob("*.kts")))
    assert {name.replace(".", "-") for name in used} == aliases
    versions = set(re.findall(r"^(\w+) = \"", catalog, re.MULTILINE))
    assert set(re.findall(r'version\.ref = "(\w+)"', catalog)) == versions
