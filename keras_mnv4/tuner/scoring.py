"""Pictures that candidates are scored on: as they are, or as weights see them in training."""

import numpy as np
from keras import ops

from keras_mnv4.files import atomic_file
from keras_mnv4.tuner.strategies.strategy import labeller
from keras_mnv4.tuner.supernet import BATCH

CALIBRATION_PICTURES = 1024
SCORED_PICTURES = 4000  # at least, where they are changed: each is, as often as that takes


def scoring_data(data, scored_by, teacher, augmentation, path, seed):
    """What `UIBTuner.search` scores candidates on.

    Args:
        data: a `keras_mnv4.data.PictureData`.
        scored_by: `"labels"` or `"teacher"`, as for `keras_mnv4.tuner.search`.
        teacher: as there, and so is `augmentation`.
        path: a `.npz` file that keeps pictures which were changed, so that a search that goes on has the same.
        seed: of the order in which they are changed, of which layers make batches that mix pictures.

    Returns:
        A dictionary of `validation_data` and `calibration_data`.
    """
    pictures, labels = data.validation.arrays()
    calibration = data.train.arrays(CALIBRATION_PICTURES)[0]
    if scored_by == "labels":
        return {"validation_data": (pictures, labels), "calibration_data": calibration}
    if not path.exists():
        random, ask = np.random.default_rng(seed), labeller(teacher)
        times = -(-SCORED_PICTURES // len(pictures))
        several = [_changed(pictures[random.permutation(len(pictures))], augmentation) for _ in range(times)]
        pictures = np.concatenate(several)
        with atomic_file(path) as temporary:
            np.savez(
                temporary,
                pictures=pictures,
                labels=np.concatenate([ops.convert_to_numpy(ask(each)) for each in _batches(pictures)]),
                calibration=_changed(calibration[random.permutation(len(calibration))], augmentation),
            )
    with np.load(path) as kept:
        return {"validation_data": (kept["pictures"], kept["labels"]), "calibration_data": kept["calibration"]}


def _changed(pictures, augmentation):
    """Pictures as layers change them in training, in bytes."""
    several = []
    for batch in _batches(pictures):
        for layer in augmentation:
            batch = layer(batch, training=True)
        several.append(np.clip(np.round(ops.convert_to_numpy(batch)), 0, 255).astype("uint8"))
    return np.concatenate(several)


def _batches(pictures):
    for start in range(0, len(pictures), BATCH):
        yield ops.convert_to_tensor(pictures[start : start + BATCH].astype("float32"))
