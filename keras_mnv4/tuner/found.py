"""`train_found`: from what a search has found to a trained network."""

import pathlib

import keras

from keras_mnv4 import training
from keras_mnv4.applications import build_network
from keras_mnv4.backups import training_plan
from keras_mnv4.files import atomic_file
from keras_mnv4.files import write_json
from keras_mnv4.plans import has_plan
from keras_mnv4.tuner.search import BACKUP

FLOAT, PLAN = "float.keras", "float.json"


def train_found(space, candidate, data, epochs, directory, *, flip=True, verbose="auto"):
    """Trains the network of a candidate from scratch; where its blocks have bits, quantises it and trains it on.

    If it is stopped, or killed, the same call goes on where it was. For that, a network that is to be quantised is kept
    in float, too: `float.keras` in the folder, and in `float.json` how it was trained. Both stay there, until a call of
    another architecture, other pictures or epochs trains anew and replaces them.

    Args:
        space: the `SearchSpace` that was searched.
        candidate: what was found in it.
        data: a `keras_mnv4.data.PictureData`.
        epochs: passes over the training set, in float; those after quantisation are as many as
            `keras_mnv4.training.quantize` has by default.
        directory: folder for backups and `float.keras`, such as that of the search; made if it is not there.
        flip: as for `keras_mnv4.training.train`.
        verbose: as for `keras_mnv4.training.train`.

    Returns:
        The trained model, fake-quantised where its blocks have bits.

    Raises:
        ValueError: if the folder has backups of another training.

    Example:

    >>> model = train_found(space, candidate, data, epochs=20, directory="search")
    """
    directory = pathlib.Path(directory)
    architecture, policy = space.architecture_of(candidate), space.policy_of(candidate)
    shape = (data.train.size, data.train.size, 3)
    model = build_network(architecture, input_shape=shape, classes=len(data.class_names))
    backups, how = directory / BACKUP, {"flip": flip, "verbose": verbose}
    if policy is None:
        training.train(model, data, epochs, **how, backup_dir=backups / "float")
        return model
    plan = {**training_plan(model, data, epochs), "architecture": architecture.to_dict(), "flip": flip}
    path, plan_path = directory / FLOAT, directory / PLAN
    if path.exists() and has_plan(plan_path, plan):
        model = keras.models.load_model(path)
    else:
        training.train(model, data, epochs, **how, backup_dir=backups / "float")
        plan_path.unlink(missing_ok=True)  # of the network that is replaced
        with atomic_file(path, overwrite=True) as temporary:
            model.save(temporary)
        write_json(plan_path, plan)
    return training.quantize(model, data, policy, **how, backup_dir=backups / "quantized")
