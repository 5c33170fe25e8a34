"""`install_android`: an `app` file as the model of an Android project."""

import math
import pathlib

from keras_mnv4.export.metadata import read_class_names
from keras_mnv4.export.tflite_file import read_tflite
from keras_mnv4.files import atomic_file
from keras_mnv4.files import check_writable

SOURCES = pathlib.PurePath("app", "src", "main")  # of a Gradle project with the usual layout
ASSET = SOURCES / "assets" / "vision.tflite"


def install_android(model_file, project, *, overwrite=False):
    """Copies an `app` file into an Android project, where the app of `examples/android` looks for its model.

    Args:
        model_file: a `.tflite` file that `to_litert` wrote for the target `"app"`.
        project: folder of the Gradle project: a copy of `examples/android`, or any other with `app/src/main` in it.
        overwrite: whether an existing model may be replaced.

    Returns:
        Path of the copy, `<project>/app/src/main/assets/vision.tflite`.

    Raises:
        FileNotFoundError: if there is no such file, or no Android project.
        ValueError: if the file is not of the target `"app"`: one picture of bytes in, one uint8 score for each label
            out, and the labels in its metadata.
        FileExistsError: if the project has a model and `overwrite` is False.

    Example:

    >>> report = to_litert(quantized, "vision.tflite", target="app", class_names=["cat", "dog"])
    >>> pathlib.Path("project/app/src/main").mkdir(parents=True)  # or a copy of examples/android
    >>> install_android(report.path, "project").name
    'vision.tflite'
    """
    model_file = pathlib.Path(model_file)
    if not model_file.is_file():
        raise FileNotFoundError(f"`model_file` does not exist. Received: {str(model_file)!r}")
    content = model_file.read_bytes()
    _check_app_file(content, model_file)
    asset = check_android_project(project, overwrite)
    asset.parent.mkdir(exist_ok=True)
    with atomic_file(asset, overwrite) as temporary:
        temporary.write_bytes(content)
    return asset


def check_android_project(project, overwrite=False):
    """Raises, before any long work, if `install_android` could not write into `project`; returns what it would write.

    Args:
        project: folder of the Gradle project.
        overwrite: whether an existing model may be replaced.

    Returns:
        Path of the project's model.

    Example:

    >>> pathlib.Path("project/app/src/main").mkdir(parents=True)  # or a copy of examples/android
    >>> check_android_project("project").name
    'vision.tflite'
    """
    project = pathlib.Path(project)
    if not (project / SOURCES).is_dir():
        raise FileNotFoundError(
            f"`project` must be the folder of an Android project, with {SOURCES} in it: copy `examples/android`. "
            f"Received: {str(project)!r}"
        )
    asset = project / ASSET
    if asset.exists() and not overwrite:
        raise FileExistsError(f"`project` has a model, {str(asset)!r}: pass overwrite=True to replace it.")
    # Where the folder of assets is yet to be made, the one above it must be writable.
    check_writable(asset if asset.parent.exists() else asset.parent, overwrite)
    return asset


def _check_app_file(content, model_file):
    """Raises a ValueError unless `content` is a file of the target `"app"`."""
    file = read_tflite(content) if content[4:8] == b"TFL3" else None
    fault = "it is not a TFLite file" if file is None else _fault(file, read_class_names(content))
    if fault:
        raise ValueError(
            f"`model_file` must be of the target `app`, but {fault}: export the model with target='app' and its "
            f"`class_names`. Received: {str(model_file)!r}"
        )


def _fault(file, class_names):
    """What keeps `file` from being of the target `"app"`, or an empty text."""
    if len(file.inputs) != 1 or len(file.outputs) != 1:
        return f"it has {len(file.inputs)} inputs and {len(file.outputs)} outputs"
    (picture,), (scores,) = file.inputs, file.outputs
    if picture.dtype != "UINT8" or scores.dtype != "UINT8":
        return f"it takes {picture.dtype} and gives {scores.dtype} instead of UINT8"
    if len(picture.shape) != 4 or picture.shape[0] != 1 or picture.shape[3] != 3:
        return f"its input is of shape {picture.shape} instead of (1, height, width, 3)"
    if len(scores.scales) != 1:
        return "its output has no scale"
    if not class_names:
        return "it has no labels"
    if len(class_names) != math.prod(scores.shape):
        return f"it has {len(class_names)} labels for {math.prod(scores.shape)} outputs"
    return ""
