"""Recipes: how networks of papers were trained, as data with a `fit`."""

import dataclasses
import math

import keras

from keras_mnv4.classifiers.outputs import trains_on_logits
from keras_mnv4.data import PictureSet
from keras_mnv4.distillation.augmentation import D1
from keras_mnv4.distillation.augmentation import D2
from keras_mnv4.distillation.augmentation import D3
from keras_mnv4.distillation.augmentation import Augmentation
from keras_mnv4.distillation.dataset_mix import DatasetMix
from keras_mnv4.distillation.dataset_mix import Source
from keras_mnv4.fitting import SmoothedCrossEntropy
from keras_mnv4.fitting import WarmupCosineCooldown
from keras_mnv4.fitting import decay_kernels
from keras_mnv4.fitting import fit_classifier

BATCH = 256  # that learning rates of `SGDRecipe` are for
EMA_SHARE = 0.1  # of a training, that a moving average of weights reaches back at most


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

    Raises:
        ValueError: if warm-up and cool-down leave no epoch between them.

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
        warmup, cooldown = (int(epochs * steps_per_epoch) for epochs in (self.warmup_epochs, self.cooldown_epochs))
        peak = self.learning_rate * batch_size / BATCH
        return WarmupCosineCooldown(peak, self.epochs * steps_per_epoch, warmup, cooldown)

    def fit(self, model, data, augmentation=(), verbose="auto", backup_dir=None):
        """Trains a classifier from scratch; `keras_mnv4.fitting.fit_classifier` says what the arguments are.

        Its kernels decay from here on, until it is saved and loaded.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: if a kernel has a regulariser of its own, or if it is not clear from the last layer what the
                model gives.
        """
        decay_kernels(model, self.l2)
        schedule = self.schedule(data.train.batch_size, len(data.train))
        optimizer = keras.optimizers.SGD(schedule, self.momentum, nesterov=True)
        return fit_classifier(model, data, optimizer, self.epochs, augmentation, verbose, backup_dir)


@dataclasses.dataclass(frozen=True)
class AdamWRecipe:
    """AdamW with a warm-up and a cosine, as MobileNetV4 was trained. `MOBILENET_V4` has the numbers of each variant.

    Only kernels decay, in both ways: biases, normalisations, layer scales and ranges of quantisers do not.

    Source: MobileNetV4 (arXiv 2404.10518), appendix C, Table 10. A reconstruction in three points. The paper has one
    batch a variant: for another, rates are scaled with the square root of its size, which is the rule for Adam
    (arXiv 2205.10287). It has no shorter training: where the average of the weights would reach back more than a tenth
    of all steps, `ema` is lessened until it does not. The published configuration excludes normalisations alone from
    the decay.

    Args:
        size: height and width of the pictures.
        batch_size: pictures a batch that `learning_rate` is for.
        learning_rate: at its peak.
        epochs: passes over the training set.
        warmup_epochs: the first of them, with a rising learning rate.
        floor: where the cosine ends, as a share of the peak.
        weight_decay: of AdamW, taken times the learning rate.
        beta_1: decay of AdamW's mean of gradients.
        beta_2: decay of AdamW's mean of their squares.
        epsilon: of AdamW.
        ema: momentum of the moving average of the weights, which are its values after training; None for none.
        l2: half of it times the sum of squares of every kernel is added to the loss.
        label_smoothing: share of each label that is spread over all classes.
        dropout_rate: before the classifier, for `model_arguments`.
        drop_path_rate: what stochastic depth grows towards, for `model_arguments`: block `i` of `n`, counted from 0,
            has `i / n` of it.
        augmentations: an `Augmentation` for each source of pictures, for `mix`.
        ratio: of the sources, pictures of each, for `mix`.
        mixup_chance: of a batch to be mixed, by Mixup or by CutMix, 1 : 1; their parameters are 0.8 and 1.0. The
            paper's number: neither `mix` nor `fit` does it.

    Raises:
        ValueError: if the warm-up leaves no epoch, or there are not as many ratios as augmentations.

    Example:

    >>> recipe = dataclasses.replace(MOBILENET_V4["MobileNetV4ConvSmall"], epochs=30)
    >>> model = MobileNetV4ConvSmall(weights=None, classes=10, **recipe.model_arguments())
    >>> recipe.fit(model, data)
    """

    size: int = 256
    batch_size: int = 4096
    learning_rate: float = 0.004
    epochs: int = 500
    warmup_epochs: float = 5
    floor: float = 0.0
    weight_decay: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    ema: float | None = None
    l2: float = 0.0
    label_smoothing: float = 0.1
    dropout_rate: float = 0.2
    drop_path_rate: float = 0.0
    augmentations: tuple[Augmentation, ...] = (D1,)
    ratio: tuple[float, ...] = (1,)
    mixup_chance: float = 0.0

    def __post_init__(self):
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"`warmup_epochs` must leave some of `epochs`. Received: {self}")
        if len(self.ratio) != len(self.augmentations):
            raise ValueError(
                f"`ratio` must hold {len(self.augmentations)} numbers, one an augmentation. Received: {self.ratio}"
            )

    def model_arguments(self):
        """What constructors of `keras_mnv4.applications` take of the recipe."""
        return {"dropout_rate": self.dropout_rate, "drop_path_rate": self.drop_path_rate}

    def mix(self, *pictures, batch_size=32, **kwargs):
        """The recipe's pictures: of its size, changed by its augmentations, mixed in its ratio.

        Mixup is done where an augmentation has it, as `D2`; that of whole batches, `mixup_chance`, is not.

        Args:
            *pictures: for each of `augmentations` those that it changes: a `keras_mnv4.data.PictureSet`, or, without
                labels, what `keras_mnv4.distillation.Source` takes. Crops are sharper of pictures larger than `size`.
            batch_size: pictures a batch; that of the recipe is what its rates are for.
            **kwargs: others of `keras_mnv4.distillation.DatasetMix`, such as `classes` to have labels.

        Returns:
            A `keras_mnv4.distillation.DatasetMix`.

        Raises:
            ValueError: if there are not as many as augmentations, or labels are probabilities.

        Example:

        >>> recipe = MOBILENET_V4_DISTILLATION["MobileNetV4ConvSmall"]
        >>> mix = recipe.mix(photos, photos, pool, batch_size=8)
        >>> mix.size, mix.ratio
        (224, (1.0, 1.0, 2.0))
        """
        if len(pictures) != len(self.augmentations):
            raise ValueError(f"`mix` must be given {len(self.augmentations)} sources. Received: {len(pictures)}")
        sources = [_source(each, augmentation) for each, augmentation in zip(pictures, self.augmentations, strict=True)]
        return DatasetMix(sources, self.size, self.ratio, batch_size, **kwargs)

    def schedule(self, batch_size, steps_per_epoch):
        """The learning rate of each step, a `WarmupCosineCooldown`."""
        peak = self.learning_rate * math.sqrt(batch_size / self.batch_size)
        warmup = int(self.warmup_epochs * steps_per_epoch)
        return WarmupCosineCooldown(peak, self.epochs * steps_per_epoch, warmup, floor=self.floor)

    def optimizer(self, model, batch_size, steps_per_epoch):
        """AdamW for a model; for the student, where a `keras_mnv4.distillation.Distiller` trains it.

        Example:

        >>> distiller.compile(recipe.optimizer(distiller.student, 32, steps_per_epoch=len(mix)))
        """
        average = {}
        if self.ema is not None:
            reach = max(EMA_SHARE * self.epochs * steps_per_epoch, 1)
            average = {"use_ema": True, "ema_momentum": min(self.ema, 1 - 1 / reach)}
        optimizer = keras.optimizers.AdamW(
            self.schedule(batch_size, steps_per_epoch),
            weight_decay=self.weight_decay,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            **average,
        )
        others = [variable for variable in model.trainable_variables if len(variable.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=others)
        return optimizer

    def fit(self, model, data, augmentation=(), verbose="auto", backup_dir=None):
        """Trains a classifier from scratch; `keras_mnv4.fitting.fit_classifier` says what the arguments are.

        Pictures are those of `data`, changed by `augmentation`: `size`, `augmentations`, `ratio` and `mixup_chance` are
        not used; nor are `dropout_rate` and `drop_path_rate`, which the model was built with. For a training on what
        `mix` gives, `optimizer` has the rest of the recipe.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: if a kernel has a regulariser of its own, and the recipe has an `l2`; or if it is not clear from
                the last layer what the model gives.
        """
        if self.l2:
            decay_kernels(model, self.l2)
        optimizer = self.optimizer(model, data.train.batch_size, len(data.train))
        loss = SmoothedCrossEntropy(self.label_smoothing, trains_on_logits(model))
        return fit_classifier(model, data, optimizer, self.epochs, augmentation, verbose, backup_dir, loss)


def _source(pictures, augmentation):
    if not isinstance(pictures, PictureSet):
        return Source(pictures, augmentation=augmentation)
    if pictures.labels.ndim > 1:
        raise ValueError("Labels of what `mix` is given must be classes. Received: probabilities")
    return Source(pictures.pictures, pictures.labels, augmentation)


def _crop_and_randaugment(magnitude, probability):
    return (Augmentation(operations=2, magnitude=magnitude, probability=probability),)


# MobileNetV4 (arXiv 2404.10518), Table 10. There is no Cutout in any, and no clipping of gradients. The published
# configurations differ in points: ConvLarge has a flat stochastic depth of 0.2 and Mixup at 0.2; ConvSmall's average
# begins at step 1,560; classes are 1,001, one of them background.
MOBILENET_V4 = {
    "MobileNetV4ConvSmall": AdamWRecipe(
        size=224,
        learning_rate=0.002,
        epochs=9600,
        weight_decay=0.01,
        beta_1=0.6,
        epsilon=1e-6,
        ema=0.9999,
        l2=1e-5,
        dropout_rate=0.3,
        augmentations=_crop_and_randaugment(9, 0.5),
    ),
    "MobileNetV4ConvMedium": AdamWRecipe(drop_path_rate=0.075, augmentations=_crop_and_randaugment(15, 0.7)),
    "MobileNetV4HybridMedium": AdamWRecipe(
        batch_size=16384,
        learning_rate=0.016,
        warmup_epochs=20,
        drop_path_rate=0.075,
        augmentations=_crop_and_randaugment(15, 0.7),
    ),
    "MobileNetV4ConvLarge": AdamWRecipe(
        size=384,
        batch_size=16384,
        warmup_epochs=20,
        weight_decay=0.2,
        drop_path_rate=0.35,
        augmentations=_crop_and_randaugment(15, 1.0),
        mixup_chance=0.3,
    ),
    "MobileNetV4HybridLarge": AdamWRecipe(
        size=384,
        batch_size=16384,
        learning_rate=0.01,
        warmup_epochs=20,
        floor=0.001,
        weight_decay=0.2,
        drop_path_rate=0.35,
        augmentations=_crop_and_randaugment(15, 1.0),
        mixup_chance=0.3,
    ),
}


def _distilled(recipe):
    return dataclasses.replace(
        recipe,
        batch_size=16384,
        learning_rate=recipe.learning_rate * math.sqrt(16384 / recipe.batch_size),
        epochs=2000,
        ema=None,
        l2=0.0,
        label_smoothing=0.0,
        drop_path_rate=0.0,
        augmentations=(D1, D2, D3),
        ratio=(1, 1, 2),
        mixup_chance=0.0,
    )


# Section 8 and appendix H: AdamW, a cosine with warm-up, batches of 16,384, the classifier's dropout as the one
# regulariser, D1, D2 and D3 mixed 1 : 1 : 2 for 2,000 epochs of ImageNet's size (400 in the comparison of mixtures). A
# reconstruction: the paper gives no rates nor decays, so those of training without a teacher are kept, of the same
# rate at the same batch. The text has 500 replicas of D1, Table 8 has 1,000.
MOBILENET_V4_DISTILLATION = {name: _distilled(recipe) for name, recipe in MOBILENET_V4.items()}
