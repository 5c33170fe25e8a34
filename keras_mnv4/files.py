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
