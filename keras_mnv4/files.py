"""Files that are either whole or not there."""

import contextlib
import hashlib
import json
import numbers
import os
import pathlib
import tempfile

import keras
import numpy as np


@contextlib.contextmanager
def atomic_file(path, overwrite=False):
    """Gives a temporary file to write to; it takes the name `path` only if nothing went wrong.

    Args:
        path: the file to make.
        overwrite: whether an existing file may be replaced.

    Yields:
        Path of the temporary file, in the same folder and with the same ending.

    Raises:
        FileExistsError: if `path` exists and `overwrite` is False.
        OSError: if the folder is missing or cannot be written to.

    Example:

    >>> with atomic_file("model.tflite") as temporary:
    ...     temporary.write_bytes(content)
    """
    path = pathlib.Path(path)
    check_writable(path, overwrite)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = pathlib.Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


def write_json(path, content):
    """Writes a JSON file, in place of the one that may be there.

    Example:

    >>> write_json("network.json", {"name": "mine"})
    >>> pathlib.Path("network.json").exists()
    True
    """
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def check_plan(path, plan, contents, argument="directory"):
    """Raises if a folder is of another call; if it is a new one, writes down what is going to be in it.

    Args:
        path: the JSON file that says so, in the folder.
        plan: JSON-ready dictionary of all that what is in the folder depends on.
        contents: what that is, for the message.
        argument: what the folder was given as, for the message.

    Raises:
        ValueError: if the file has another plan; it names the keys that differ.

    Example:

    >>> check_plan("plan.json", {"seed": 0}, "numbers")
    >>> check_plan("plan.json", {"seed": 1}, "numbers")
    Traceback (most recent call last):
    ...
    ValueError: '.' has numbers of another seed: give another `directory`.
    """
    path, plan = pathlib.Path(path), json.loads(json.dumps(plan))
    if not path.exists():
        write_json(path, plan)
        return
    there = json.loads(path.read_text())
    odd = sorted(key for key in plan if there.get(key) != plan[key]) or sorted(there.keys() - plan.keys())
    if odd:
        raise ValueError(f"'{path.parent}' has {contents} of another {', '.join(odd)}: give another `{argument}`.")


def plan_entry(value):
    """What a plan, as `check_plan` takes it, says of an argument: JSON-ready, and of equal arguments the same.

    Example:

    >>> plan_entry({"rates": np.array([1.0, 2.0]), "loss": None})
    {'rates': [1.0, 2.0], 'loss': None}
    """
    if isinstance(value, dict):
        return {str(plan_entry(key)): plan_entry(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plan_entry(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (numbers.Number, np.generic, np.ndarray)):
        return np.asarray(value).tolist()
    if isinstance(value, keras.Model):
        return [list(value.input_shape), fingerprint(weight.numpy() for weight in value.weights)]
    if hasattr(value, "get_config"):  # names count layers up, and some draw their seed: no two have the same
        return [type(value).__name__, plan_entry({**value.get_config(), "name": None, "seed": None})]
    return getattr(value, "__name__", type(value).__name__)


def epochs_in(folder):
    """The number of epochs that a backup of `keras.callbacks.BackupAndRestore` was made after; 0 if there is none.

    Example:

    >>> epochs_in("backup/latest")
    0
    """
    file = pathlib.Path(folder) / "training_metadata.json"
    return json.loads(file.read_text())["epoch"] if file.exists() else 0


def fingerprint(arrays):
    """A hash of NumPy arrays, by which weights or pictures are known again.

    Example:

    >>> fingerprint([np.arange(3)]) == fingerprint([np.arange(3)])
    True
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_writable(path, overwrite=False):
    """Raises, before any long work, if `atomic_file(path, overwrite)` could not succeed.

    Example:

    >>> check_writable("new.tflite")
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"`path` is a folder: name a file in it. Received: {str(path)!r}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Give another `path`, or overwrite=True to replace it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder of `path` does not exist: make it first. Received: {str(path)!r}")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise PermissionError(
            f"The folder of `path` cannot be written to ({error}). Received: {str(path)!r}"
        ) from error
