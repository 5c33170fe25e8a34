"""Recipes: how networks of papers were trained, as data with a `fit`."""

import dataclasses
import math
import pathlib
import sys

import keras
from keras import ops

BATCH = 256  # that learning rates of recipes are for


@keras.saving.register_keras_serializable(package="keras_mnv4")
class WarmupCosineCooldown(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises, falls along a cosine, and is taken down to zero at the end.

    It is the product of three factors: a line from 0 to 1 over the warm-up; half a cosine from 1 to `floor` over the
    steps between warm-up and cool-down; and a line from 1 to 0 over the cool-down.

    Source: the training code of "Pareto-Optimal Quantized ResNet Is Mostly 4-bit" (arXiv 2105.03536).

    Args:
        peak: the learning rate without the factors.
        total_steps: training steps.
        warmup_steps: the first of them.
        cooldown_steps: the last of them.
        floor: where the cosine ends, as a share of `peak`.

    Raises:
        ValueError: if warm-up and cool-down leave no step between them.

    Example:

    >>> schedule = WarmupCosineCooldown(0.1, total_steps=1000, warmup_steps=20, cooldown_steps=200)
    >>> float(schedule(10))
    0.05
    """

    def __init__(self, peak, total_steps, warmup_steps=0, cooldown_steps=0, floor=0.001):
        if min(warmup_steps, cooldown_steps) < 0 or warmup_steps + cooldown_steps >= total_steps:
            raise ValueError(
                "`warmup_steps` and `cooldown_steps` must leave steps between them. Received: "
                f"total_steps={total_steps}, warmup_steps={warmup_steps}, cooldown_steps={cooldown_steps}"
            )
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.cooldown_steps = cooldown_steps
        self.floor = floor

    def __call__(self, step):
        step = ops.cast(step, "float32")
        between = self.total_steps - self.warmup_steps - self.cooldown_steps
        progress = ops.clip((step - self.warmup_steps) / between, 0.0, 1.0)
        cosine = (1.0 - self.floor) * 0.5 * (1.0 + ops.cos(math.pi * progress)) + self.floor
        warmup = ops.minimum(step / max(self.warmup_steps, 1), 1.0) if self.warmup_steps else 1.0
        cooldown = ops.clip((self.total_steps - step) / max(self.cooldown_steps, 1), 0.0, 1.0)
        return self.peak * cosine * warmup * cooldown

    def get_config(self):
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "cooldown_steps": self.cooldown_steps,
            "floor": self.floor,
        }


@dataclasses.dataclass(frozen=True)
class SGDRecipe:
    """Momentum SGD from scratch, with the schedule and the decay of ResNets. The defaults are those for ImageNet.

    Source: the training code of "Pareto-Optimal Quantized ResNet Is Mostly 4-bit" (arXiv 2105.03536), which has no
    label smoothing.

    Args:
        epochs: passes over the training set.
        warmup_epochs: the first of them, with a rising learning rate.
        cooldown_epochs: the last of them, with a learning rate that falls to zero.
        learning_rate: peak learning rate for batches of 256; it is scaled with the batch.
        momentum: of Nesterov's kind.
        l2: half of it times the sum of squares of every kernel is added to the loss.

    Example:

    >>> SGDRecipe(epochs=20, warmup_epochs=1, cooldown_epochs=4).fit(model, data)
    """

    epochs: int = 250
    warmup_epochs: float = 5
    cooldown_epochs: float = 50
    learning_rate: float = 0.1
    momentum: float = 0.9
    l2: float = 1e-4

    def __post_init__(self):
        if (
            min(self.warmup_epochs, self.cooldown_epochs) < 0
            or self.warmup_epochs + self.cooldown_epochs >= self.epochs
        ):
            raise ValueError(f"`warmup_epochs` and `cooldown_epochs` must leave some between them. Received: {self}")

    def schedule(self, batch_size, steps_per_epoch):
        """The learning rate of each step, a `WarmupCosineCooldown`."""
        warmup, cooldown = (round(epochs * steps_per_epoch) for epochs in (self.warmup_epochs, self.cooldown_epochs))
        peak = self.learning_rate * batch_size / BATCH
        return WarmupCosineCooldown(peak, self.epochs * steps_per_epoch, warmup, cooldown)

    def fit(self, model, data, augmentation=(), verbose="auto", backup_dir=None):
        """Trains a classifier of whole-number labels from scratch.

        Its kernels decay from here on, until it is saved and loaded.

        Args:
            model: a Keras model of pictures to probabilities. Trained in place.
            data: a `keras_mnv4.data.PictureData`.
            augmentation: Keras layers that change pictures in training.
            verbose: as for `keras.Model.fit`; `"auto"` is a progress bar on a terminal, else one line an epoch.
            backup_dir: folder for a backup after every epoch, from which the same call goes on if training is stopped.
                None for no backup.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: if a kernel has a regulariser of its own.
        """
        decay_kernels(model, self.l2)
        schedule = self.schedule(data.train.batch_size, len(data.train))
        optimizer = keras.optimizers.SGD(schedule, self.momentum, nesterov=True)
        return fit_classifier(model, data, optimizer, self.epochs, augmentation, verbose, backup_dir)


def fit_classifier(model, data, optimizer, epochs, augmentation=(), verbose="auto", backup_dir=None):
    """Trains a classifier of whole-number labels; `SGDRecipe.fit` says what the arguments are.

    Returns:
        The `keras.callbacks.History`.
    """
    trained = keras.Sequential([keras.Input(model.input_shape[1:]), *augmentation, model])
    trained.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    # A train step that makes no variables is traced once instead of twice: half the wait on TensorFlow.
    trained.optimizer.build(trained.trainable_variables)
    callbacks = []
    if backup_dir is not None:  # in a sub-folder, for Keras deletes it at the end; two, for a kill spoils one
        callbacks.append(keras.callbacks.BackupAndRestore(pathlib.Path(backup_dir) / "latest", double_checkpoint=True))
    return trained.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        verbose=(1 if sys.stdout.isatty() else 2) if verbose == "auto" else verbose,
        callbacks=callbacks,
    )


def decay_kernels(model, l2):
    """Adds half of `l2` times the sum of squares of every kernel to the losses of a model.

    Kernels are the trainable variables of more than one axis; biases and normalisations are left alone.

    Raises:
        ValueError: if a kernel has a regulariser of its own.
    """
    kernels = [variable for variable in model.trainable_variables if len(variable.shape) > 1]
    for kernel in kernels:
        if kernel.regularizer is not None and not isinstance(kernel.regularizer, KernelDecay):
            raise ValueError(f"`{kernel.path}` has a regulariser of its own: build the model without.")
    for kernel in kernels:
        kernel.regularizer = KernelDecay(0.5 * l2)


class KernelDecay(keras.regularizers.L2):
    """What `decay_kernels` sets, told apart from a regulariser of the user's own."""
