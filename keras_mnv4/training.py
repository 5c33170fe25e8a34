"""Training with good defaults: what the command line and the demo do between `import` and `export`."""

import keras
from keras import layers

from keras_mnv4 import qat
from keras_mnv4.recipes import fit_classifier

WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.02
CALIBRATION_PICTURES = 256
CORRECTION_PICTURES = 32
# Of quantisation-aware training. At 8 bits there is little to mend, and more would move the network away from what was
# trained; at 4 bits that is what it takes.
LEARNING_RATE_8_BITS = 2e-5
LEARNING_RATE_FEWER_BITS = 5e-4


def train(model, data, epochs, learning_rate=2e-3, flip=True, verbose="auto", backup_dir=None):
    """Trains a classifier: AdamW, a warm-up and a cosine, small shifts and zooms of the pictures.

    Args:
        model: a Keras model of pictures to probabilities. Trained in place; it need not be compiled.
        data: a `keras_mnv4.data.PictureData`.
        epochs: passes over the training set.
        learning_rate: peak learning rate.
        flip: whether a picture and its mirror image are the same thing; for digits they are not.
        verbose: as for `keras.Model.fit`; `"auto"` is a progress bar on a terminal, else one line an epoch.
        backup_dir: folder for a backup after every epoch: weights, ranges and the optimizer's state. If training is
            stopped, the same call goes on from there. The backup is deleted at the end. None for no backup.

    Returns:
        The `keras.callbacks.History`.
    """
    steps = epochs * len(data.train)
    warmup = max(1, int(WARMUP_SHARE * steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=learning_rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=qat.RANGE_NAMES)
    return fit_classifier(model, data, optimizer, epochs, _augmentation(flip), verbose, backup_dir)


def quantize(model, data, policy="w8a8", epochs=3, learning_rate=None, flip=True, verbose="auto", backup_dir=None):
    """Quantises a trained classifier and trains it on, so that it keeps its accuracy.

    Ranges are calibrated and biases corrected first; then the weights are trained, with the normalisations' statistics
    frozen: those of a few batches would move the network more than rounding does. Where nothing is trained, weights are
    rounded with `keras_mnv4.qat.optimize_rounding` instead.

    Args:
        model: a trained float model. Left as it was.
        data: a `keras_mnv4.data.PictureData`; some of its training set calibrate the ranges.
        policy: name of a policy or a `keras_mnv4.qat.Policy`.
        epochs: passes over the training set after calibration; 0 for post-training quantisation.
        learning_rate: peak learning rate; None for 2e-5 where everything has 8 bits, a hundredth of that of float
            training, and 5e-4 where something has fewer.
        flip: as for `train`.
        verbose: as for `train`.
        backup_dir: as for `train`; another folder than that of float training.

    Returns:
        The fake-quantised model.
    """
    quantized = qat.quantize_model(model, policy)
    pictures = data.train.arrays(limit=CALIBRATION_PICTURES)[0]
    qat.calibrate(quantized, pictures)
    correction = pictures[:CORRECTION_PICTURES]
    if not epochs:
        qat.optimize_rounding(quantized, correction)
    else:
        qat.correct_biases(quantized, correction)
        qat.freeze_statistics(quantized)
        if learning_rate is None:
            learning_rate = LEARNING_RATE_8_BITS if least_bits(quantized) >= 8 else LEARNING_RATE_FEWER_BITS
        train(quantized, data, epochs, learning_rate, flip, verbose, backup_dir)
    return quantized


def least_bits(model):
    """The fewest bits that anything in a fake-quantised model is rounded to."""
    return min(layer.quantizer.num_bits for layer in model._flatten_layers() if isinstance(layer, qat.FakeQuantize))


def top1(model, pictures, limit=None):
    """Share of a `PictureSet` that `model` gets right; of `limit` pictures that are spread over it, if given."""
    inputs, labels = pictures.arrays(limit)
    return float((model.predict(inputs, verbose=0).argmax(-1) == labels).mean())


def _augmentation(flip):
    shift_and_zoom = [
        layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
        layers.RandomZoom(0.1, fill_mode="nearest"),
    ]
    return [layers.RandomFlip("horizontal"), *shift_and_zoom] if flip else shift_and_zoom
