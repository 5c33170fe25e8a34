"""Training with good defaults: what the command line and the demo do between `import` and `export`."""

import contextlib
import dataclasses
import math

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_mnv4 import distillation
from keras_mnv4 import qat
from keras_mnv4.backups import backed_up
from keras_mnv4.classifiers.outputs import cross_entropy_of
from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.classifiers.view import Probabilities
from keras_mnv4.data import PictureSet
from keras_mnv4.data import read_picture
from keras_mnv4.fitting import adamw
from keras_mnv4.fitting import fit_classifier
from keras_mnv4.progress import resolve_verbose

HEAD_EPOCHS, HEAD_RATE = 40, 3e-3  # of a new classifier, alone
CALIBRATION_PICTURES = 256
CORRECTION_PIXELS = 32 * 224**2  # small pictures tell little each: of those it takes more
MOST_CORRECTION_PICTURES = 1024
ASKED_AT_ONCE = 256  # pictures of a pool
# Of quantisation-aware training. At 8 bits there is little to mend, and more would move the network away from what was
# trained; at 4 bits that is what it takes.
LEARNING_RATE_8_BITS = 2e-5
LEARNING_RATE_FEWER_BITS = 5e-4


def train(model, data, epochs, learning_rate=2e-3, flip=True, verbose="auto", backup_dir=None, start=None):
    """Trains a classifier: AdamW, a warm-up and a cosine, small shifts and zooms of the pictures.

    Args:
        model: a Keras model of pictures to probabilities or logits. Trained in place; it need not be compiled.
        data: a `keras_mnv4.data.PictureData`.
        epochs: passes over the training set.
        learning_rate: peak learning rate.
        flip: whether a picture and its mirror image are the same thing; for digits they are not.
        verbose: as for `keras.Model.fit`; `"auto"` is a progress bar on a terminal, else one line an epoch.
        backup_dir: folder for a backup after every epoch: weights, ranges and the optimizer's state. If training is
            stopped, the same call goes on from there, with pictures in the orders that they would have had; mirrors,
            shifts and dropout are drawn anew. The backup is deleted at the end. None for no backup.
        start: what training begins with, such as a model, where a backup that began with another is to be refused.

    Returns:
        The `keras.callbacks.History`.

    Raises:
        ValueError: if it is not clear from the last layer what the model gives.

    Example:

    >>> train(model, data, epochs=15)
    """
    optimizer = adamw(learning_rate, epochs * len(data.train))
    return fit_classifier(model, data, optimizer, epochs, small_changes(flip), verbose, backup_dir, start=start)


def fine_tune(model, data, epochs, learning_rate=1e-4, flip=True, verbose="auto", backup_dir=None):
    """Trains a pretrained network for other classes: its new classifier first, then all of it.

    The classifier is trained on what the network gives for each picture, which is computed once. Then all of it is
    trained as by `train`, but for the normalisations, which are frozen: statistics of small batches of other pictures
    would spoil what the network knows. They stay so in the model (`keras_mnv4.qat.freeze_statistics`); to train them
    later, set their `trainable`.

    Args:
        model: a pretrained classifier with a new last layer, such as `keras_mnv4.applications.replace_classifier`
            makes. Trained in place.
        data: a `keras_mnv4.data.PictureData`.
        epochs: passes over the training set with all weights; 0 for the classifier alone.
        learning_rate: peak learning rate of those passes.
        flip: as for `train`.
        verbose: as for `train`.
        backup_dir: as for `train`, for the training of all weights; that of the classifier is done again.

    Returns:
        The `keras.callbacks.History` of the last training.

    Raises:
        ValueError: if it is not clear from the last layer what the model gives.

    Example:

    >>> pretrained = EfficientNetLite0(weights="imagenet", dropout_rate=0.2)
    >>> model = replace_classifier(pretrained, classes=len(data.class_names))
    >>> fine_tune(model, data, epochs=2)
    """
    classifier = next(layer for layer in reversed(model.layers) if layer.weights)
    body = keras.Model(model.input, classifier.input)
    head = keras.Model(classifier.input, model.output)
    head.compile(keras.optimizers.AdamW(HEAD_RATE), cross_entropy_of(model, data.train.labels), metrics=["accuracy"])
    shown = _outputs(body, data.validation)
    history = head.fit(*_outputs(body, data.train), validation_data=shown, epochs=HEAD_EPOCHS, verbose=0)
    if not epochs:
        return history
    qat.freeze_statistics(model)
    return train(model, data, epochs, learning_rate, flip, verbose, backup_dir, start=body)


def distill(
    student,
    teacher,
    data,
    epochs,
    *,
    ratio=(1, 1, 0),
    pictures=None,
    pool=None,
    store=None,
    learning_rate=2e-3,
    flip=True,
    verbose="auto",
    backup_dir=None,
):
    """Trains a classifier to give what its teacher gives, on mixed data sets: D1, D2 and D3 of MobileNetV4.

    D1 and D2 are the training set's pictures, changed by RandAugment and by Mixup. D3 are pictures without labels,
    those that the teacher finds relevant, as many of each class. Optimizer and schedule are those of `train`. Labels
    serve the accuracy that is shown, on the validation set, and nothing else.

    Source: MobileNetV4 (arXiv 2404.10518), section 8; the parts are in `keras_mnv4.distillation`.

    Args:
        student: a Keras model of pictures to probabilities or logits. Trained in place; it need not be compiled.
        teacher: another, of the same classes.
        data: a `keras_mnv4.data.PictureData`.
        epochs: passes over as many pictures as the training set has.
        ratio: parts of D1, D2 and D3; 0 to leave one out.
        pictures: the training set's pictures, where larger ones than those of `data` are at hand to crop from: a uint8
            array, or a list of files.
        pool: files of pictures without labels, for D3. Those that cannot be read are left out.
        store: folder for the teacher's probabilities, in TensorFlow's files. They are written there first, with the
            pictures, and read in each step; if writing was stopped, the same call goes on. None to ask the teacher in
            each step.
        learning_rate: peak learning rate.
        flip: as for `train`.
        verbose: as for `train`.
        backup_dir: as for `train`.

    Returns:
        The `keras.callbacks.History`.

    Raises:
        ValueError: if `ratio` is not three parts, if there is a D3 without `pool` or the other way round, or if the
            teacher has other classes.

    Example:

    >>> student = MobileNetV4ConvSmall(weights=None, classes=10, dropout_rate=0.2)
    >>> distill(student, keras.models.load_model("teacher.keras"), data, epochs=30)
    """
    check_ratio(ratio, bool(pool))
    classes, theirs = len(data.class_names), teacher.output_shape[-1]
    if theirs != classes:
        raise ValueError(
            f"`teacher` must have the classes of the data: {classes}. Received: one of {theirs} classes. Fine-tune it "
            "on the data first, with a head of its own."
        )
    train = data.train
    pictures = train.pictures if pictures is None else pictures
    if pool:
        pool, probabilities = _ask(teacher, pool, teacher.input_shape[1] or train.size)
        chosen = distillation.select_relevant(probabilities, -(-len(pictures) // classes))
        pool = [pool[index] for index in chosen]
    sources = [
        (distillation.Source(each, augmentation=dataclasses.replace(augmentation, flip=flip)), part)
        for each, augmentation, part in zip(
            (pictures, pictures, pool), (distillation.D1, distillation.D2, distillation.D3), ratio, strict=True
        )
        if part
    ]
    sources, parts = zip(*sources, strict=True)
    mix = distillation.DatasetMix(sources, train.size, parts, train.batch_size, epoch_size=len(pictures))
    optimizer = adamw(learning_rate, epochs * len(mix))
    shown, labels = data.validation.arrays()
    shares = np.eye(classes, dtype="float32")[labels] if labels.ndim == 1 else labels
    soft_labels = Probabilities(ClassifierView(teacher, "teacher")).predict(shown, verbose=0)
    distiller = distillation.Distiller(student, teacher=teacher if store is None else None)
    distiller.compile(optimizer, metrics=["categorical_accuracy"])
    optimizer.build(distiller.trainable_variables)
    verbose = resolve_verbose(verbose)
    if store is not None:
        store = distillation.write_soft_labels(mix, teacher, store, epochs, verbose=verbose)
    how = {"optimizer": optimizer, "ratio": ratio, "flip": flip, "teacher": teacher, "has_store": store is not None}
    with backed_up(backup_dir, student, data, epochs, **how) as (callbacks, epoch):
        mix.turn_to(epoch)
        batches = mix
        if store is not None:
            rest = store.tf_data(train.batch_size, flip=flip, start=epoch * len(mix))
            batches = rest.concatenate(store.tf_data(train.batch_size, flip=flip, verify=False).repeat())
        return distiller.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=None if store is None else len(mix),
            validation_data=(shown, {"labels": shares, "soft_labels": soft_labels}),
            shuffle=False,
            verbose=verbose,
            callbacks=callbacks,
        )


def check_ratio(ratio, has_pool, names=("ratio", "pool")):
    """Raises, before any long work, unless `distill` can mix its sources so.

    Args:
        ratio: as for `distill`.
        has_pool: whether there are pictures without labels.
        names: what `ratio` and `pool` were given as, for the messages.

    Raises:
        ValueError: if `ratio` is not three parts, or if there is a D3 without a pool or the other way round.

    Example:

    >>> check_ratio((1, 1, 0), has_pool=False)
    """
    of_ratio, of_pool = names
    if len(ratio) != 3 or not all(0 <= part < math.inf for part in ratio) or not any(ratio):
        raise ValueError(
            f"`{of_ratio}` must be three parts, of D1, D2 and D3: 0 or more, and not all of them 0. Received: {ratio}"
        )
    if has_pool != bool(ratio[2]):
        raise ValueError(
            f"D3 takes its pictures from `{of_pool}`: give both, or a `{of_ratio}` that ends in 0. Received: "
            f"{of_ratio} {ratio} and {'a' if has_pool else 'no'} {of_pool}"
        )


def _ask(teacher, files, size):
    """The files that can be read, and a teacher's probabilities for them. A few pictures are in memory at a time."""
    probabilities = Probabilities(ClassifierView(teacher, "teacher"))
    readable, found = [], []
    for start in range(0, len(files), ASKED_AT_ONCE):
        pictures = {}
        for file in files[start : start + ASKED_AT_ONCE]:
            with contextlib.suppress(Exception):  # of damaged and of huge files, Pillow raises many kinds
                pictures[file] = read_picture(file, size)
        if pictures:
            readable += pictures
            found.append(probabilities.predict(np.stack(list(pictures.values())), verbose=0))
    if not found:
        raise ValueError(f"`pool` must be image files. Received {len(files)} files, none of which can be read.")
    return readable, np.concatenate(found)


def quantize(model, data, policy="w8a8", epochs=2, learning_rate=None, flip=True, verbose="auto", backup_dir=None):
    """Quantises a trained classifier and trains it on, so that it keeps its accuracy.

    Ranges are calibrated and biases corrected first; then the weights are trained, with the normalisations frozen:
    statistics of a few batches would move the network more than rounding does. Where nothing is trained, weights are
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
        backup_dir: as for `train`; another folder than that of float training. Of no use where nothing is trained.

    Returns:
        The fake-quantised model.

    Example:

    >>> quantized = quantize(model, data, policy="w4a8", epochs=5)
    """
    quantized = qat.quantize_model(model, policy)
    qat.calibrate(quantized, data.train.arrays(limit=CALIBRATION_PICTURES)[0])
    correction = correction_pictures(data.train)
    if not epochs:
        qat.optimize_rounding(quantized, correction)
    else:
        qat.correct_biases(quantized, correction)
        qat.freeze_statistics(quantized)
        if learning_rate is None:
            learning_rate = LEARNING_RATE_8_BITS if least_bits(quantized) >= 8 else LEARNING_RATE_FEWER_BITS
        train(quantized, data, epochs, learning_rate, flip, verbose, backup_dir, start=model)
    return quantized


def correction_pictures(pictures):
    """Those of a set that `quantize` corrects biases and rounding on: 32 of 224 pixels, or more of smaller ones.

    Args:
        pictures: a `keras_mnv4.data.PictureSet`.

    Returns:
        A uint8 array `(count, size, size, 3)`, evenly spread over the set: 1,024 pictures at most.

    Example:

    >>> qat.correct_biases(quantized, correction_pictures(data.train))
    """
    few = min(max(1, CORRECTION_PIXELS // pictures.size**2), MOST_CORRECTION_PICTURES)
    return pictures.arrays(limit=few)[0]  # of all classes: the set may be sorted by them


def least_bits(model):
    """The fewest bits that anything in a fake-quantised model is rounded to.

    Raises:
        ValueError: if nothing is.

    Example:

    >>> least_bits(quantize_model(model, "w4a8"))
    4
    """
    bits = [layer.quantizer.num_bits for layer in model._flatten_layers() if isinstance(layer, qat.FakeQuantize)]
    if not bits:
        raise ValueError(f"`model` must be fake-quantised, as `quantize_model` makes it. Received: {model.name}")
    return min(bits)


def top1(model, pictures, limit=None):
    """Share of a `PictureSet` that `model` gets right; of `limit` pictures that are spread over it, if given.

    Example:

    >>> 0 <= top1(model, data.test) <= 1
    True
    """
    if limit is not None:
        pictures = PictureSet(*pictures.arrays(limit), pictures.size, pictures.batch_size)
    outputs, labels = _outputs(model, pictures)
    return float((outputs.argmax(-1) == (labels if labels.ndim == 1 else labels.argmax(-1))).mean())


def _outputs(model, pictures):
    """What a model gives for all pictures of a `PictureSet`, batch by batch, and their labels."""
    batches = (pictures[index] for index in range(len(pictures)))
    pairs = [(ops.convert_to_numpy(model.predict_on_batch(inputs)), labels) for inputs, labels in batches]
    return tuple(np.concatenate(each) for each in zip(*pairs, strict=True))


def small_changes(flip=True):
    """Layers that shift and zoom pictures by a tenth, and mirror them: those of `train`.

    Args:
        flip: as for `train`.

    Example:

    >>> fit_classifier(model, data, "adamw", epochs=3, augmentation=small_changes())
    """
    shift_and_zoom = [
        layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
        layers.RandomZoom(0.1, fill_mode="nearest"),
    ]
    return [layers.RandomFlip("horizontal"), *shift_and_zoom] if flip else shift_and_zoom
