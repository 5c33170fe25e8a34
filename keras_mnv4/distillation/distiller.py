"""`Distiller`: a student trained to give what its teacher gives."""

import keras
from keras import ops

from keras_mnv4.classifiers.outputs import log_probabilities
from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.distillation.losses import layer_names
from keras_mnv4.distillation.losses import make_adapter
from keras_mnv4.distillation.losses import match_size
from keras_mnv4.distillation.losses import picture_loss

LABELS, SOFT_LABELS = "labels", "soft_labels"


@keras.saving.register_keras_serializable(package="keras_mnv4")
class Distiller(keras.Model):
    """A student and its teacher as one Keras model: `fit` trains the student, `predict` asks it.

    The loss is `teacher_weight` times the cross-entropy of the student's probabilities with the teacher's, both at
    `temperature`; plus `distillation_losses`; plus the student's own regularisation; plus, if `compile` was given a
    `loss`, that loss with labels, times its `loss_weights`. The cross-entropy is not multiplied by anything else: at a
    temperature T its gradient is about T² times smaller, so give teacher_weight=T**2 for Hinton's form.

    `fit` and `evaluate` take, for pictures `x`:

    | teacher | `y` |
    |---|---|
    | given | labels, or nothing: without labels, there is neither a loss nor a metric of theirs |
    | None | the probabilities that a teacher gave earlier |
    | either | `{"soft_labels": probabilities, "labels": labels}`, or one of the two |

    Probabilities in `y` take the place of the teacher's. Pictures are resized to what student and teacher take, each
    for itself; values are not changed: a network that wants others needs its preprocessing inside. In training, what
    the model gives is a dictionary, the student's output in it; else it is the student's output.

    The teacher computes as at inference, always, and none of its weights is trained, whatever its `trainable` says.
    `student` is the result, a model like any other; one that `keras_mnv4.qat.quantize_model` made, for instance. A
    student whose last layer is this package's `Classifier`, or Keras's `Softmax`, is compared before the softmax, where
    no small probability is rounded off.

    Source: MobileNetV4 (arXiv 2404.10518), section 8 and appendix H, for the defaults: no temperature, no labels.
    Hinton et al. (arXiv 1503.02531) for the others.

    `keras.distillation.Distiller` takes the teacher first; here all but the student is given by name.

    Args:
        student: a built Keras model of pictures to probabilities or logits, `(batch, classes)`. Trained in place.
        teacher: another, maybe of more classes; None if its probabilities are stored with the pictures.
        temperature: what logits are divided by before the softmax.
        teacher_weight: factor of the cross-entropy with the teacher's probabilities; 0 to leave it out.
        teacher_classes: the teacher's class for each class of the student, a list of indices; None for the same ones.
        distillation_losses: losses of `keras.distillation`, computed with the networks' logits where Keras has their
            outputs. `FeatureDistillation` may compare layers of different shapes: the teacher's maps are resized to
            the student's, and a 1x1 convolution, or a dense layer, trained along, brings the student's channels to
            the teacher's. `adapters` holds those layers.
        distillation_loss_weights: their factors; None for 1 each.
        student_outputs: `"probabilities"` or `"logits"`; None to see it from the student's last layer.
        teacher_outputs: the same of the teacher.
        **kwargs: those of `keras.Model`. The dtype policy is that of the student unless given.

    Raises:
        ValueError: if a network is not built, if it is not clear what it gives, if the numbers of classes differ, or if
            a distillation loss does not fit.

    Example:

    >>> distiller = Distiller(MobileNetV4ConvSmall(weights=None), teacher=EfficientNetLite0())
    >>> distiller.compile("adamw", metrics=["accuracy"])
    >>> distiller.fit(pictures, labels, epochs=10)  # labels for the accuracy only
    >>> distiller.student.save("student.keras")
    """

    def __init__(
        self,
        student,
        *,
        teacher=None,
        temperature=1.0,
        teacher_weight=1.0,
        teacher_classes=None,
        distillation_losses=(),
        distillation_loss_weights=None,
        student_outputs=None,
        teacher_outputs=None,
        **kwargs,
    ):
        losses = keras.tree.flatten(distillation_losses)
        names = [layer_names(loss) for loss in losses]
        teachers_layers, students_layers = (sorted({pair[side] for pair in names} - {None}) for side in (0, 1))
        student_view = ClassifierView(student, "student", student_outputs, students_layers)
        teacher_view = None
        if teacher is not None:
            teacher_view = ClassifierView(teacher, "teacher", teacher_outputs, teachers_layers)
        elif teachers_layers:
            raise ValueError(f"`distillation_losses` name layers of a teacher, {teachers_layers}: give a `teacher`.")
        weights = [1.0] * len(losses) if distillation_loss_weights is None else list(distillation_loss_weights)
        if len(weights) != len(losses):
            raise ValueError(
                f"`distillation_loss_weights` must be {len(losses)}, one for each of `distillation_losses`. Received: "
                f"{weights}"
            )
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0. Received: {temperature}")
        if teacher is not None:
            _check_classes(student_view.classes, teacher_view.classes, teacher_classes)

        super().__init__(autocast=False, **{"dtype": student.dtype_policy, **kwargs})
        self.student = student
        self.teacher = teacher
        self.temperature = temperature
        self.teacher_weight = teacher_weight
        self.teacher_classes = None if teacher_classes is None else [int(index) for index in teacher_classes]
        self.distillation_loss_weights = weights
        self.student_outputs = student_outputs
        self.teacher_outputs = teacher_outputs
        self.adapters = []
        self._views = {"student": student_view, "teacher": teacher_view}
        self._cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True)
        self._distillation_losses = tuple(losses)
        self._picture_losses = tuple(map(picture_loss, losses))
        for theirs, ours in names:
            adapter = None
            if theirs is not None and ours is not None:
                features = teacher_view.features[theirs], student_view.features[ours]
                adapter = make_adapter(*features, self.dtype_policy)
            self.adapters.append(adapter)
        self.built = True

    @property
    def trainable_variables(self):
        return self._without_teacher(super().trainable_variables)

    @property
    def trainable_weights(self):
        return self._without_teacher(super().trainable_weights)

    @property
    def non_trainable_variables(self):
        return _without(self.variables, self.trainable_variables)

    @property
    def non_trainable_weights(self):
        return _without(self.weights, self.trainable_weights)

    def _without_teacher(self, variables):
        teacher = getattr(self, "teacher", None)
        return variables if teacher is None else _without(variables, teacher.variables)

    def call(self, inputs, training=False):
        view = self._views["student"]
        return view(inputs, training=True) if training else self.student(view.resize(inputs), training=False)

    def compute_output_shape(self, input_shape):
        return self.student.compute_output_shape(input_shape)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        labels, soft_labels = self._targets(y)
        terms = []
        if self._compile_loss is not None and labels is None:
            raise ValueError(
                "`compile` was given a `loss`, which compares with labels, and there are none. Give `fit` labels, or "
                "`compile` no loss."
            )
        if self._compile_loss is not None or self.losses:
            terms.append(super().compute_loss(x, labels, _output(y_pred), sample_weight, training))
        if self.teacher is None and soft_labels is None:
            if training:
                raise ValueError(
                    "There is nothing to learn from: without a `teacher`, `y` must hold its probabilities, as an "
                    f'array or under "{SOFT_LABELS}".'
                )
        else:
            terms += self._distillation_terms(x, y_pred, soft_labels, sample_weight)
        return sum(terms[1:], terms[0]) if terms else ops.zeros(())

    def _distillation_terms(self, x, y_pred, soft_labels, sample_weight):
        student, teacher = self._seen_by_student(x, y_pred), self._seen_by_teacher(x, soft_labels)
        if tuple(teacher["logits"].shape[1:]) != tuple(student["logits"].shape[1:]):
            raise ValueError(
                "Soft labels must be the teacher's probabilities for the classes of the student, "
                f"{tuple(student['logits'].shape)}; where there are more classes, say which with `teacher_classes`. "
                f"Received: {tuple(teacher['logits'].shape)}"
            )
        terms = []
        if self.teacher_weight:
            probabilities = ops.softmax(teacher["logits"] / self.temperature)
            logits = student["logits"] / self.temperature
            terms.append(self.teacher_weight * self._cross_entropy(probabilities, logits, sample_weight))
        for loss, own, weight, adapter in zip(
            self._distillation_losses,
            self._picture_losses,
            self.distillation_loss_weights,
            self.adapters,
            strict=True,
        ):
            of_teacher, of_student = layer_names(loss)
            theirs = teacher["logits"] if of_teacher is None else teacher["features"][of_teacher]
            ours = student["logits"] if of_student is None else student["features"][of_student]
            if of_teacher is not None and of_student is not None:
                theirs = match_size(theirs, ours)
            ours = ours if adapter is None else adapter(ours)
            terms.append(weight * self._term(loss, own, theirs, ours, sample_weight))
        return terms

    def _term(self, loss, own, teacher, student, sample_weight):
        if own is not None:
            return own(teacher, student, sample_weight)
        if sample_weight is not None:
            raise ValueError(
                f"{type(loss).__name__} gives one number for all pictures, so `sample_weight` cannot be honoured. Use "
                "`LogitsDistillation` or `FeatureDistillation` with a loss of your own."
            )
        loss.validate_outputs(teacher, student)
        return loss.compute_loss(teacher, student)

    def _seen_by_student(self, x, y_pred):
        if isinstance(y_pred, dict):
            return y_pred
        view = self._views["student"]
        return view(x) if view.sees_more else {"logits": view.logits(y_pred)}

    def _seen_by_teacher(self, x, soft_labels):
        """Logits, of the teacher's classes that the student has, and features."""
        view, seen = self._views["teacher"], {"features": {}}
        if soft_labels is None or (view is not None and view.features):
            seen = view(x)
        if soft_labels is not None:
            seen["logits"] = log_probabilities(soft_labels)
        if self.teacher_classes is not None:
            seen["logits"] = ops.take(seen["logits"], self.teacher_classes, axis=-1)
        return keras.tree.map_structure(ops.stop_gradient, seen)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        labels, _ = self._targets(y)
        if labels is None:
            return self._results_without_labels()
        return super().compute_metrics(x, labels, _output(y_pred), sample_weight)

    def get_metrics_result(self):
        # Keras cannot ask metrics that have seen no labels yet.
        is_asked = self._compile_metrics is None or self._compile_metrics.built
        return super().get_metrics_result() if is_asked else self._results_without_labels()

    def _results_without_labels(self):
        return {metric.name: metric.result() for metric in self.metrics if metric is not self._compile_metrics}

    def _targets(self, y):
        """Labels and soft labels; None where there are none."""
        if not isinstance(y, dict):
            return (None, y) if self.teacher is None else (y, None)
        unknown = sorted(y.keys() - {LABELS, SOFT_LABELS})
        if unknown:
            raise ValueError(f'`y` may hold "{SOFT_LABELS}" and "{LABELS}". Received: {unknown}')
        return y.get(LABELS), y.get(SOFT_LABELS)

    def get_config(self):
        return {
            **super().get_config(),
            "student": keras.saving.serialize_keras_object(self.student),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "temperature": self.temperature,
            "teacher_weight": self.teacher_weight,
            "teacher_classes": self.teacher_classes,
            "distillation_losses": [keras.saving.serialize_keras_object(each) for each in self._distillation_losses],
            "distillation_loss_weights": list(self.distillation_loss_weights),
            "student_outputs": self.student_outputs,
            "teacher_outputs": self.teacher_outputs,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for name in ("student", "teacher", "distillation_losses"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)


def _without(variables, others):
    left_out = set(map(id, others))
    return [variable for variable in variables if id(variable) not in left_out]


def _output(y_pred):
    return y_pred["output"] if isinstance(y_pred, dict) else y_pred


def _check_classes(ours, theirs, classes):
    if None in (ours, theirs):
        return
    if classes is None and ours != theirs:
        raise ValueError(
            f"The student has {ours} classes and the teacher {theirs}: give `teacher_classes`, the teacher's "
            "class for each of the student's."
        )
    if classes is not None and (len(classes) != ours or min(classes) < 0 or max(classes) >= theirs):
        raise ValueError(
            f"`teacher_classes` must hold {ours} indices, one for each class of the student, from 0 to {theirs - 1}. "
            f"Received: {list(classes)}"
        )
