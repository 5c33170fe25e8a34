"""`Canvas`: pictures as the weights of a model, so that `fit` paints them."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.datafree.listening import listening
from keras_mnv4.datafree.listening import normalizations_of

# ImageNet's, in bytes: the unit in which pictures are painted, whatever the teacher takes.
MEAN = np.array([123.675, 116.28, 103.53], "float32")
STD = np.array([58.395, 57.12, 57.375], "float32")
BETAS = {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-8}
WARMUP_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of painting at one resolution.

    Each step looks at a window of the canvas, another one each time, and paints in it: the regional update.

    Args:
        steps: how many.
        window: height and width of what the teacher is shown, in pixels.
        pool: how many pixels of the canvas, in both directions, are averaged into one; the canvas must divide by it.

    Raises:
        ValueError: if one of them is below 1.

    Example:

    >>> Stage(steps=2000, window=112, pool=2)
    Stage(steps=2000, window=112, pool=2)
    """

    steps: int
    window: int
    pool: int = 1

    def __post_init__(self):
        if min(self.steps, self.window, self.pool) < 1:
            raise ValueError(f"`steps`, `window` and `pool` must be 1 or more. Received: {self}")

    def check_fits(self, size):
        """Raises a ValueError unless it fits on a canvas of `size` pixels."""
        if size % self.pool or self.window > size // self.pool:
            raise ValueError(f"`{self}` does not fit on a canvas of {size} pixels.")


class Canvas(keras.Model):
    """Pictures that `fit` paints, one window of them a step.

    They are its only trainable weight; the teacher computes as at inference and stays as it is. What `fit` takes for
    data are the windows, as `Windows` draws them.

    Args:
        teacher: a built Keras model of pictures to probabilities or logits, with batch normalisations.
        count: number of pictures.
        size: height and width of the canvas, in pixels.
        stage: a `Stage`.
        objective: an `Objective`.
        preprocess: function from bytes, floats from 0 to 255, to what the teacher takes; None if it takes them.
        outputs: `"probabilities"` or `"logits"`; None to see it from the teacher's last layer.

    Raises:
        ValueError: if the teacher has no normalisations, or the stage does not fit on the canvas.
    """

    def __init__(self, teacher, count, size, stage, objective, preprocess=None, outputs=None):
        super().__init__(autocast=False, dtype="float32")
        stage.check_fits(size)
        self.teacher = teacher
        self.stage = stage
        self.objective = objective
        self.preprocess = preprocess
        self._view = ClassifierView(teacher, "teacher", outputs)
        self._normalizations = normalizations_of(teacher)
        self.pictures = self.add_weight(
            name="pictures",
            shape=(count, size, size, 3),
            dtype="float32",
            initializer="zeros",
            constraint=within_bytes,
        )
        self.labels = self.add_weight(
            name="labels", shape=(count, self._view.classes), dtype="float32", initializer="zeros", trainable=False
        )
        self._trackers = {
            name: keras.metrics.Mean(name) for name in ("classification", "variation", "squares", "features")
        }
        self.built = True

    @property
    def trainable_variables(self):
        return [self.pictures]

    @property
    def trainable_weights(self):
        return [self.pictures]

    @property
    def non_trainable_variables(self):
        return [each for each in self.variables if each is not self.pictures]

    @property
    def non_trainable_weights(self):
        return [each for each in self.weights if each is not self.pictures]

    def call(self, draw, training=False):
        """The terms of the objective, of a window `(1, 3)`: first row, first column, and whether it is mirrored."""
        row, column, flip = (draw[0, place] for place in range(3))
        pictures = ops.convert_to_tensor(self.pictures)
        if self.stage.pool > 1:
            pictures = ops.average_pool(pictures, self.stage.pool, self.stage.pool, data_format="channels_last")
        side = self.stage.window
        pictures = ops.slice(pictures, (0, row, column, 0), (pictures.shape[0], side, side, 3))
        pictures = ops.where(flip > 0, ops.flip(pictures, axis=2), pictures)
        with listening(self._normalizations) as heard:
            seen = self.look(pictures * ops.convert_to_tensor(STD) + ops.convert_to_tensor(MEAN))
        terms = self.objective.terms(pictures, ops.convert_to_tensor(self.labels), seen["logits"], heard)
        return {**terms, "logits": seen["logits"]}

    def look(self, pictures):
        """What the teacher sees in pictures, floats from 0 to 255: a dictionary with its logits."""
        return self._view(as_taken(pictures, self.preprocess), training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        for name, tracker in self._trackers.items():
            tracker.update_state(y_pred[name])
        return sum(y_pred[name] for name in self._trackers)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return self.get_metrics_result()

    @property
    def metrics(self):
        return [*super().metrics, *getattr(self, "_trackers", {}).values()]

    def paint(self, start, labels, seed, learning_rate, verbose=0):
        """Paints pictures.

        Args:
            start: float32 array `(count, size, size, 3)`.
            labels: probabilities `(count, classes)`.
            seed: of the windows, a number or a tuple of them.
            learning_rate: peak learning rate of Adam, behind a warm-up and before a cosine.
            verbose: as for `keras.Model.fit`.

        Returns:
            Array like `start`.
        """
        steps = self.stage.steps
        if not self.compiled:
            warmup = min(WARMUP_STEPS, steps // 2)
            schedule = keras.optimizers.schedules.CosineDecay(
                0.0, steps - warmup, warmup_target=learning_rate, warmup_steps=warmup
            )
            # XLA's convolutions are slow where TensorFlow runs on a processor.
            jit = False if keras.backend.backend() == "tensorflow" else "auto"
            self.compile(keras.optimizers.Adam(schedule, **BETAS), jit_compile=jit)
            self.optimizer.build(self.trainable_variables)
        for variable in self.optimizer.variables:
            if variable is not self.optimizer._learning_rate:
                variable.assign(ops.zeros(variable.shape, variable.dtype))
        self.pictures.assign(start)
        self.labels.assign(labels)
        self.fit(Windows(self.stage, self.pictures.shape[1], seed), epochs=1, verbose=verbose, shuffle=False)
        return ops.convert_to_numpy(self.pictures)


class Windows(keras.utils.PyDataset):
    """Windows on a canvas, one a step, drawn by chance: the first row and column, and whether it is mirrored.

    Args:
        stage: a `Stage`.
        size: height and width of the canvas.
        seed: a number or a tuple of them.
    """

    def __init__(self, stage, size, seed):
        super().__init__()
        random = np.random.default_rng(seed)
        room = size // stage.pool - stage.window
        places = random.integers(0, room + 1, (stage.steps, 1, 2))
        self.draws = np.concatenate([places, random.integers(0, 2, (stage.steps, 1, 1))], axis=-1).astype("int32")

    def __len__(self):
        return len(self.draws)

    def __getitem__(self, index):
        return (self.draws[index],)


def within_bytes(pictures):
    """Painted pictures without what is darker than black or brighter than white."""
    return ops.clip(pictures, ops.convert_to_tensor((0 - MEAN) / STD), ops.convert_to_tensor((255 - MEAN) / STD))


def as_taken(pictures, preprocess=None):
    """Pictures, floats from 0 to 255 and channels last, as a model takes them."""
    if keras.config.image_data_format() == "channels_first":
        pictures = ops.transpose(pictures, (0, 3, 1, 2))
    return pictures if preprocess is None else preprocess(pictures)


def as_bytes(pictures):
    """Painted pictures as uint8."""
    return np.clip(np.rint(np.asarray(pictures) * STD + MEAN), 0, 255).astype("uint8")


def middle(pictures, size):
    """The middle `size` by `size` pixels of pictures `(count, height, width, 3)`."""
    top, left = ((side - size) // 2 for side in pictures.shape[1:3])
    return pictures[:, top : top + size, left : left + size]
