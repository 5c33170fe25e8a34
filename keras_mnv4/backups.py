"""Backups: training that goes on where it was stopped, or killed."""

import contextlib
import json
import pathlib

import keras

from keras_mnv4.files import make_folder
from keras_mnv4.plans import check_plan
from keras_mnv4.plans import fingerprint
from keras_mnv4.plans import plan_entry
from keras_mnv4.qat.fake_quantize import FakeQuantize

LATEST = "latest"  # Keras's folder in that of a backup: of its own, for Keras deletes it
FINGERPRINT_PICTURES = 64  # by which a set of pictures is known again


@contextlib.contextmanager
def backed_up(backup_dir, model, data, epochs, **how):
    """Backs a training up, in a folder that is deleted when it has come to its end.

    Args:
        backup_dir: the folder, or None for no backup.
        model: what is trained.
        data: the `keras_mnv4.data.PictureData`.
        epochs: their number.
        **how: what else a training that goes on must have in common with that which made the backup.

    Yields:
        A list of callbacks for `fit`, and the number of epochs that are done already.

    Raises:
        ValueError: if the folder has backups of another training.
        NotADirectoryError, PermissionError: if there can be no such folder.

    Example:

    >>> with backed_up("backup", model, data, epochs=5) as (callbacks, epoch):
    ...     data.train.turn_to(epoch)
    ...     model.fit(data.train, epochs=5, callbacks=callbacks)
    """
    if backup_dir is None:
        yield [], 0
        return
    plan = make_folder(backup_dir, "backup_dir") / "plan.json"
    if not epochs_in(backup_dir):  # of a call that was stopped before or behind its backups
        plan.unlink(missing_ok=True)
    check_plan(plan, {**training_plan(model, data, epochs), **plan_entry(how)}, "backups", "backup_dir")
    yield [backup_callback(backup_dir)], epochs_in(backup_dir)
    plan.unlink()


def backup_callback(backup_dir, is_kept=False):
    """Keras's callback that backs a training up after every epoch, and goes on from there.

    Args:
        backup_dir: the folder.
        is_kept: whether the backup stays there when the training has come to its end.

    Example:

    >>> model.fit(pictures, labels, callbacks=[backup_callback("backup", is_kept=True)])
    >>> epochs_in("backup")
    1
    """
    latest = pathlib.Path(backup_dir) / LATEST
    return keras.callbacks.BackupAndRestore(
        latest,
        double_checkpoint=True,  # a kill while one is written spoils that one
        delete_checkpoint=not is_kept,
    )


def epochs_in(backup_dir):
    """The number of epochs that a backup of `backup_callback` was made after; 0 if there is none.

    Example:

    >>> epochs_in("backup")
    0
    """
    file = pathlib.Path(backup_dir) / LATEST / "training_metadata.json"
    return json.loads(file.read_text())["epoch"] if file.exists() else 0


def training_plan(model, data, epochs):
    """What a plan says of a training: the network's shape, the pictures, the epochs; not how it is done.

    Example:

    >>> training_plan(model, data, epochs=5)["epochs"]
    5
    """
    kinds = [[list(weight.shape), weight.trainable] for weight in model.weights]
    quantizers = [
        keras.saving.serialize_keras_object(layer.quantizer)["config"]
        for layer in model._flatten_layers()
        if isinstance(layer, FakeQuantize)
    ]
    return {
        "network": kinds,
        "quantizers": quantizers,
        "epochs": epochs,
        "batch_size": data.train.batch_size,
        "class_names": list(data.class_names),
        "size": data.train.size,
        "pictures": fingerprint([data.train.labels, *data.train.arrays(FINGERPRINT_PICTURES)]),
    }
