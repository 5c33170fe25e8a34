"""Files that are either whole or not there."""

import contextlib
import json
import os
import pathlib
import tempfile


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


def check_writable(path, overwrite=False, argument="path"):
    """Raises, before any long work, if `atomic_file(path, overwrite)` could not succeed.

    Args:
        path: the file to make.
        overwrite: whether an existing file may be replaced.
        argument: what `path` was given as, for the message.

    Example:

    >>> check_writable("new.tflite")
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"`{argument}` is a folder: name a file in it. Received: {str(path)!r}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Give another `{argument}`, or overwrite=True to replace it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder of `{argument}` does not exist: make it first. Received: {str(path)!r}")
    _check_can_write(path.parent, f"The folder of `{argument}`", path)


def check_folder(path, argument="directory"):
    """Raises, before any long work, if a folder is not there and cannot be made, or cannot be written to.

    Args:
        path: the folder.
        argument: what it was given as, for the message.

    Raises:
        NotADirectoryError: if `path`, or what should hold it, is a file.
        PermissionError: if nothing can be written there.

    Example:

    >>> check_folder("search")
    """
    path = pathlib.Path(path)
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise NotADirectoryError(
            f"`{argument}` must be a folder, or the name of a new one: {str(there)!r} is no folder. "
            f"Received: {str(path)!r}"
        )
    _check_can_write(there, f"`{argument}`", path)


def make_folder(path, argument="directory"):
    """Makes a folder, unless it is there.

    Args:
        path: the folder.
        argument: what it was given as, for the message.

    Returns:
        Its `pathlib.Path`.

    Raises:
        NotADirectoryError, PermissionError: as `check_folder`.

    Example:

    >>> make_folder("search/first").is_dir()
    True
    """
    check_folder(path, argument)
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _check_can_write(folder, what, path):
    """Raises if no file can be made in `folder`, which is `what` in the message; `path` is what was received."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PermissionError(f"{what} cannot be written to ({error}). Received: {str(path)!r}") from error
