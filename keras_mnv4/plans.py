"""Plans: what a folder is of, written down in it, by which a call that would mix other things in is refused."""

import hashlib
import json
import numbers
import pathlib

import keras
import numpy as np

from keras_mnv4.files import write_json


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


def has_plan(path, plan):
    """Whether a file, as `check_plan` writes it, is there and has this plan.

    Example:

    >>> has_plan("plan.json", {"seed": 0})
    False
    """
    path = pathlib.Path(path)
    return path.exists() and json.loads(path.read_text()) == json.loads(json.dumps(plan))


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
    if isinstance(value, keras.Model) and not value.weights:  # all that it is are its layers
        return [type(value).__name__, plan_entry(value.layers)]
    if isinstance(value, keras.Model):
        return [list(value.input_shape), fingerprint(weight.numpy() for weight in value.weights)]
    if hasattr(value, "get_config"):  # names count layers up, and some draw their seed: no two have the same
        return [type(value).__name__, plan_entry({**value.get_config(), "name": None, "seed": None})]
    return getattr(value, "__name__", type(value).__name__)


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
