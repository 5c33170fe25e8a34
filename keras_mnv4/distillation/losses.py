"""The losses of `keras.distillation`, as `Distiller` computes them: picture by picture, between layers of any shape."""

import keras
from keras import ops
from keras.distillation import FeatureDistillation
from keras.distillation import LogitsDistillation

from keras_mnv4.classifiers.resizing import resize
from keras_mnv4.classifiers.resizing import sides_of


class PictureLoss(keras.losses.Loss):
    """A loss that is one number a picture, so that sample weights count and `tf.distribute` shares it out.

    Args:
        function: function of the teacher's and the student's values that gives one or several numbers a picture.
    """

    def __init__(self, function):
        super().__init__(name="distillation")
        self.function = function

    def call(self, y_true, y_pred):
        values = self.function(y_true, y_pred)
        return ops.mean(ops.reshape(values, (ops.shape(values)[0], -1)), axis=-1)


def picture_loss(loss):
    """The `PictureLoss` of a loss of `keras.distillation`; None for one of another class.

    The default of `LogitsDistillation` is the Kullback-Leibler divergence. Keras 3.15.1 takes it between logits, for
    it looks for a loss object and has a function; here it is between probabilities, and times the temperature's
    square, as Keras documents it.

    Args:
        loss: a `keras.distillation.DistillationLoss`.

    Raises:
        ValueError: if `loss` holds several losses, for several outputs.
    """
    if type(loss) not in (FeatureDistillation, LogitsDistillation):
        return None
    if keras.tree.is_nested(loss.loss):
        raise ValueError(f"`distillation_losses` must be for one output. Received a {type(loss).__name__} of several.")
    function = loss.loss.call if isinstance(loss.loss, keras.losses.Loss) else loss.loss
    if type(loss) is FeatureDistillation:
        return PictureLoss(function)
    temperature = loss.temperature
    if not (isinstance(loss.loss, keras.losses.KLDivergence) or function is keras.losses.kl_divergence):
        return PictureLoss(lambda teacher, student: function(teacher / temperature, student / temperature))

    def divergence(teacher, student):
        return temperature**2 * function(ops.softmax(teacher / temperature), ops.softmax(student / temperature))

    return PictureLoss(divergence)


def layer_names(loss):
    """The teacher's and the student's layer that a loss compares; None where it is the logits."""
    return getattr(loss, "teacher_layer_name", None), getattr(loss, "student_layer_name", None)


def make_adapter(teacher, student, dtype):
    """A layer from the channels of the student's features to those of the teacher's; None if they are as many.

    Source: the regressors of FitNets (arXiv 1412.6550).

    Args:
        teacher: the teacher's features, symbolic.
        student: the student's.
        dtype: the layer's dtype policy.

    Raises:
        ValueError: if one are maps and the others are not.
    """
    if len(teacher.shape) != len(student.shape):
        raise ValueError(
            "`distillation_losses` must be between layers of as many axes. Received: teacher's "
            f"{tuple(teacher.shape)} and student's {tuple(student.shape)}"
        )
    is_map = len(student.shape) == 4
    axis = 1 if is_map and keras.config.image_data_format() == "channels_first" else -1
    if teacher.shape[axis] == student.shape[axis]:
        return None
    channels = teacher.shape[axis]
    layer = keras.layers.Conv2D(channels, 1, dtype=dtype) if is_map else keras.layers.Dense(channels, dtype=dtype)
    layer.build(student.shape)
    return layer


def match_size(teacher, student):
    """The teacher's features; maps of another size resized to that of the student's."""
    return resize(teacher, sides_of(student)) if len(teacher.shape) == 4 else teacher
