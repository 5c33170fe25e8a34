"""`fit_classifier`, and what it is given: optimizers, schedules of their rates, losses, decay of kernels."""

import math

import keras
from keras import ops

from keras_mnv4.backups import backed_up
from keras_mnv4.classifiers.outputs import cross_entropy_of
from keras_mnv4.progress import resolve_verbose
from keras_mnv4.qat.fake_quantize import RANGE_NAMES


def fit_classifier(
    model,
    data,
    optimizer,
    epochs,
    augmentation=(),
    verbose="auto",
    backup_dir=None,
    loss=None,
    start=None,
):
    """Trains a classifier.

    Args:
        model: a Keras model of pictures to probabilities or logits. Trained in place; it need not be compiled.
        data: a `keras_mnv4.data.PictureData`.
        optimizer: as for `keras.Model.compile`.
        epochs: passes over the training set.
        augmentation: Keras layers that change pictures in training.
        verbose: as for `keras.Model.fit`; `"auto"` is a progress bar on a terminal, else one line an epoch.
        backup_dir: folder for a backup after every epoch, from which the same call goes on if training is stopped.
            None for no backup.
        loss: as for `keras.Model.compile`; None for the cross-entropy with the labels, whole numbers or probabilities,
            of what the model gives, probabilities or logits, as its last layer says, poolings and the like aside.
        start: what training begins with, such as a model, where a backup that began with another is to be refused.

    Returns:
        The `keras.callbacks.History`.

    Raises:
        ValueError: if the folder has backups of another training, or if `loss` is None and it is not clear from the
            last layer what the model gives.

    Example:

    >>> fit_classifier(model, data, keras.optimizers.Adam(1e-3), epochs=10)
    """
    loss = loss or cross_entropy_of(model, data.train.labels)
    trained = keras.Sequential([keras.Input(model.input_shape[1:]), *augmentation, model])
    trained.compile(optimizer, loss, metrics=["accuracy"])
    # A train step that makes no variables is traced once instead of twice: half the wait on TensorFlow.
    trained.optimizer.build(trained.trainable_variables)
    how = {"optimizer": trained.optimizer, "loss": loss, "augmentation": augmentation, "start": start}
    with backed_up(backup_dir, model, data, epochs, **how) as (callbacks, epoch):
        if callbacks:
            data.train.turn_to(epoch)
        return trained.fit(
            data.train,
            validation_data=data.validation,
            epochs=epochs,
            shuffle=not data.train.shuffle,  # which then has orders of its own
            verbose=resolve_verbose(verbose),
            callbacks=callbacks,
        )


def adamw(learning_rate, steps, warmup_share=0.1, weight_decay=0.02):
    """AdamW with a rate that rises and falls along a cosine to zero; ranges of quantisers do not decay.

    Args:
        learning_rate: at its peak.
        steps: of the whole training.
        warmup_share: share of them in which the rate rises; one step at least.
        weight_decay: as for `keras.optimizers.AdamW`.

    Example:

    >>> model.compile(adamw(2e-3, steps=10 * len(data.train)), "sparse_categorical_crossentropy")
    """
    warmup = max(1, int(warmup_share * steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=learning_rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=RANGE_NAMES)
    return optimizer


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


@keras.saving.register_keras_serializable(package="keras_mnv4")
class SmoothedCrossEntropy(keras.losses.Loss):
    """The cross-entropy with labels of which a share is spread over all classes.

    Labels are whole numbers, or probabilities of the shape of the outputs.

    Args:
        label_smoothing: that share, from 0 to 1.
        from_logits: whether outputs are logits and not probabilities.
        **kwargs: those of `keras.losses.Loss`.

    Example:

    >>> float(SmoothedCrossEntropy(0.1)(np.array([0]), np.array([[0.95, 0.05]])))
    0.1985
    """

    def __init__(self, label_smoothing=0.0, from_logits=False, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        if len(y_true.shape) < 2 or y_true.shape[-1] != y_pred.shape[-1]:
            y_true = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing, "from_logits": self.from_logits}


def decay_kernels(model, l2):
    """Adds half of `l2` times the sum of squares of every kernel to the losses of a model.

    Kernels are the trainable variables of more than one axis; biases and normalisations are left alone.

    Raises:
        ValueError: if a kernel has a regulariser of its own.

    Example:

    >>> decay_kernels(model, l2=1e-4)
    >>> len(model.losses) > 0
    True
    """
    kernels = [variable for variable in model.trainable_variables if len(variable.shape) > 1]
    for kernel in kernels:
        if kernel.regularizer is not None and not isinstance(kernel.regularizer, KernelDecay):
            raise ValueError(f"`{kernel.path}` has a regulariser of its own: build the model without.")
    for kernel in kernels:
        kernel.regularizer = KernelDecay(0.5 * l2)


class KernelDecay(keras.regularizers.L2):
    """What `decay_kernels` sets, told apart from a regulariser of the user's own.

    Example:

    >>> decay_kernels(model, l2=1e-4)
    >>> isinstance(model.layers[-1].conv.kernel.regularizer, KernelDecay)
    True
    """
