"""`backed_up`: training that goes on where it was stopped."""

import contextlib
import pathlib

import keras

from keras_mnv4.files import check_plan
from keras_mnv4.files import epochs_in
from keras_mnv4.files import fingerprint
from keras_mnv4.files import plan_entry
from keras_mnv4.qat.fake_quantize import FakeQuantize

FINGERPRINT_PICTURES = 16  # by which those of a backup are known again


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
    """
    if backup_dir is None:
        yield [], 0
        return
    backup = pathlib.Path(backup_dir)
    latest, plan = backup / "latest", backup / "plan.json"  # two, for Keras deletes the one itself
    backup.mkdir(parents=True, exist_ok=True)
    if not epochs_in(latest):  # of a call that was stopped before or behind its backups
        plan.unlink(missing_ok=True)
    check_plan(plan, {**_training_plan(model, data, epochs), **plan_entry(how)}, "backups", "backup_dir")
    yield [keras.callbacks.BackupAndRestore(latest, double_checkpoint=True)], epochs_in(latest)  # a kill spoils one
    plan.unlink()


def _training_plan(model, data, epochs):
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
