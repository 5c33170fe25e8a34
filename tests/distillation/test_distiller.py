"""`Distiller`: its loss against NumPy, what it trains and what it leaves alone, and all that `fit` does with it."""

import keras
import numpy as np
import pytest
from classifiers import LABELS
from classifiers import PICTURES
from classifiers import convolutional
from classifiers import cross_entropy
from classifiers import linear
from classifiers import outputs
from classifiers import softmax
from classifiers import values
from devices import on_one_and_two
from keras.distillation import DistillationLoss
from keras.distillation import FeatureDistillation
from keras.distillation import LogitsDistillation
from keras.ops import convert_to_numpy

from keras_mnv4 import layers
from keras_mnv4 import qat
from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.distillation import Distiller


def loss_of(distiller, y=LABELS, sample_weight=None, training=False, x=PICTURES):
    y_pred = distiller(x, training=training)
    return float(distiller.compute_loss(x, y, y_pred, sample_weight, training=training))


def with_labels(distiller, weight):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=distiller.student_outputs == "logits")
    distiller.compile("sgd", loss, loss_weights=weight)
    return distiller


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("activations", [(None, None), ("softmax", None), (None, "softmax"), ("softmax", "softmax")])
def test_loss_by_hand(temperature, activations):
    student, teacher = linear(activation=activations[0]), linear(activation=activations[1], seed=1)
    ours, theirs = outputs(student), outputs(teacher)
    ours = np.log(ours) if activations[0] else ours
    theirs = np.log(theirs) if activations[1] else theirs
    by_hand = cross_entropy(softmax(theirs / temperature), ours / temperature).mean()
    kind = "probabilities" if activations[0] else "logits"
    distiller = Distiller(student, teacher=teacher, temperature=temperature, student_outputs=kind)
    assert loss_of(distiller, y=None) == pytest.approx(by_hand, rel=1e-5)
    assert loss_of(distiller, training=True) == pytest.approx(by_hand, rel=1e-5)  # labels are for metrics
    distiller = Distiller(student, temperature=temperature, student_outputs=kind)
    assert loss_of(distiller, softmax(theirs)) == pytest.approx(by_hand, rel=1e-5)
    assert loss_of(distiller, {"soft_labels": softmax(theirs)}) == pytest.approx(by_hand, rel=1e-5)

    distiller = Distiller(student, teacher=teacher, temperature=temperature, teacher_weight=16.0, student_outputs=kind)
    of_labels = cross_entropy(np.eye(3)[LABELS], ours).mean()
    expected = 16 * by_hand + 0.3 * of_labels
    assert loss_of(with_labels(distiller, 0.3)) == pytest.approx(expected, rel=1e-5)
    both = {"soft_labels": softmax(theirs), "labels": LABELS}
    distiller = Distiller(student, temperature=temperature, teacher_weight=16.0, student_outputs=kind)
    assert loss_of(with_labels(distiller, 0.3), both) == pytest.approx(expected, rel=1e-5)


def test_sample_weights_and_regularisation_count():
    student, teacher = linear(regularizer=keras.regularizers.L2(0.1)), linear(seed=1)
    weights = np.linspace(0, 2, 12).astype("float32")
    ours, theirs = outputs(student), outputs(teacher)
    squares = 0.1 * (values(student)["predictions/kernel"] ** 2).sum()
    terms = cross_entropy(softmax(theirs), ours), ((ours - theirs) ** 2).mean(-1)
    distiller = Distiller(
        student, teacher=teacher, distillation_losses=[FeatureDistillation()], distillation_loss_weights=[5]
    )
    expected = (terms[0] * weights).mean() + 5 * (terms[1] * weights).mean() + squares
    assert loss_of(distiller, None, weights) == pytest.approx(expected, rel=1e-5)
    teacher = linear(seed=1, regularizer=keras.regularizers.L2(0.1))
    expected = terms[0].mean() + squares  # the teacher's own is nobody's concern
    assert loss_of(Distiller(student, teacher=teacher), None) == pytest.approx(expected, rel=1e-5)


def test_other_resolutions_and_a_part_of_the_classes():
    student, teacher = linear(), linear(classes=7, activation="softmax", size=12, seed=1)
    larger = convert_to_numpy(keras.ops.image.resize(PICTURES, (12, 12), antialias=True))
    theirs = outputs(teacher, larger)[:, [6, 0, 3]]
    by_hand = cross_entropy(theirs / theirs.sum(-1, keepdims=True), outputs(student)).mean()
    distiller = Distiller(student, teacher=teacher, teacher_classes=[6, 0, 3])
    assert loss_of(distiller, None) == pytest.approx(by_hand, rel=1e-4)
    # Pictures in the teacher's resolution are made smaller for the student.
    smaller = convert_to_numpy(keras.ops.image.resize(larger, (8, 8), antialias=True))
    by_hand = cross_entropy(theirs / theirs.sum(-1, keepdims=True), outputs(student, smaller)).mean()
    assert loss_of(distiller, None, x=larger) == pytest.approx(by_hand, rel=1e-4)
    np.testing.assert_allclose(outputs(distiller, larger), outputs(student, smaller), rtol=1e-4, atol=1e-5)


@pytest.mark.tensorflow
def test_other_resolutions_can_be_compiled_with_xla():
    distiller = Distiller(linear(), teacher=linear(size=6, seed=1))
    distiller.compile("sgd", jit_compile=True)
    assert distiller.evaluate(PICTURES, verbose=0) == pytest.approx(loss_of(distiller, None), rel=1e-5)


def test_fit_trains_the_student_and_nothing_else():
    student, teacher = convolutional(), convolutional(filters=8, seed=1)
    distiller = Distiller(student, teacher=teacher)
    distiller.compile(keras.optimizers.SGD(0.5), metrics=["accuracy"])
    before = values(student), values(teacher)
    data = PICTURES, LABELS
    history = distiller.fit(PICTURES, batch_size=12, epochs=3, validation_data=data, verbose=0).history
    assert sorted(history) == ["loss", "val_accuracy", "val_loss"]  # there are no labels in training
    assert history["val_loss"][-1] < history["val_loss"][0]
    np.testing.assert_equal(values(teacher), before[1])
    assert all(np.any(value != before[0][path]) for path, value in values(student).items())
    assert {variable.path for variable in distiller.trainable_variables} == {
        variable.path for variable in student.trainable_variables
    }
    assert len(distiller.variables) == len(distiller.trainable_variables) + len(distiller.non_trainable_variables)
    assert distiller.student is student
    probabilities = outputs(student)
    by_hand = cross_entropy(outputs(teacher), np.log(probabilities)).mean()
    assert history["val_loss"][-1] == pytest.approx(by_hand, rel=1e-4)
    assert history["val_accuracy"][-1] == pytest.approx((probabilities.argmax(-1) == LABELS).mean())


def test_quantised_students_learn_behind_their_softmax():
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(keras.layers.Rescaling(1 / 64, -2)(image))
    student = keras.Model(image, layers.Classifier(3, "softmax", name="predictions")(x))
    # A bias of 5 makes the others' probabilities less than half of 1/256: rounded, they are zeros.
    student.get_layer("predictions").conv.bias.assign([5.0, -2.0, -2.0])
    student = qat.quantize_model(student, "w4a8")
    distiller = Distiller(student, teacher=linear(seed=1))
    distiller.compile(keras.optimizers.SGD(1.0))
    before = values(student)
    assert np.all(distiller.predict(PICTURES, verbose=0)[:, 1:] == 0)
    losses = distiller.fit(PICTURES, batch_size=12, epochs=8, verbose=0).history["loss"]
    assert losses[0] < 10  # at zeros, it would be 20
    assert losses[-1] < 0.5 * losses[0]
    after = values(distiller.student)
    for name in ("predictions/conv/kernel", "predictions/conv/output_quantizer/range_max"):
        assert np.any(after[name] != before[name])
    kernel = convert_to_numpy(student.get_layer("predictions").conv.quantized_kernel())[..., 0]
    assert len(np.unique(kernel)) <= 15


@pytest.mark.once
def test_quantised_students_are_judged_behind_their_softmax_too():
    student, teacher = convolutional(), linear(seed=1)
    student.get_layer("predictions").conv.bias.assign([8.0, 0.0, 0.0])
    student = qat.quantize_model(student, calibration_data=PICTURES)
    distiller = Distiller(student, teacher=teacher)
    assert loss_of(distiller, None) == pytest.approx(loss_of(distiller, None, training=True), rel=0.05)
    np.testing.assert_allclose(distiller.predict(PICTURES, verbose=0), outputs(student), atol=1 / 256)
    rounded = np.log(np.maximum(outputs(student), 1e-12))
    assert loss_of(distiller, None) < 0.5 * cross_entropy(softmax(outputs(teacher)), rounded).mean()


@pytest.mark.once
def test_statistics_freeze_and_the_teacher_stays_frozen():
    student, teacher = convolutional(), convolutional(filters=8, seed=1)
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("sgd")
    before = values(student), values(teacher)
    distiller.fit(PICTURES, batch_size=6, verbose=0, callbacks=[qat.FreezeStatistics(0)])
    assert all(np.any(value != before[0][path]) != ("moving" in path) for path, value in values(student).items())
    np.testing.assert_equal(values(teacher), before[1])


@pytest.mark.once
def test_logits_of_this_packages_classifier_are_the_real_ones():
    student, teacher = convolutional(), linear(seed=1)
    read = Distiller(student, teacher=teacher)(PICTURES, training=True)
    logits = convert_to_numpy(read["logits"])
    np.testing.assert_allclose(softmax(logits), convert_to_numpy(read["output"]), rtol=1e-5)
    assert np.abs(logits - np.log(convert_to_numpy(read["output"]))).max() > 1e-3


def test_losses_of_keras_by_hand():
    student, teacher = linear(), linear(activation="softmax", seed=1)
    ours, theirs = outputs(student), np.log(outputs(teacher))
    t, s = softmax(theirs / 3), softmax(ours / 3)
    cases = {
        LogitsDistillation(3.0): 9 * (t * np.log(t / s)).sum(-1).mean(),
        LogitsDistillation(3.0, keras.losses.KLDivergence()): 9 * (t * np.log(t / s)).sum(-1).mean(),
        LogitsDistillation(3.0, "mse"): ((theirs / 3 - ours / 3) ** 2).mean(),
        FeatureDistillation(keras.losses.MeanAbsoluteError()): np.abs(theirs - ours).mean(),
    }
    for loss, by_hand in cases.items():
        distiller = Distiller(student, teacher=teacher, teacher_weight=0.0, distillation_losses=loss)
        assert loss_of(distiller, None) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.once
def test_layers_of_other_shapes_are_compared():
    student, teacher = convolutional(), convolutional(filters=6, size=12, seed=1)
    loss = FeatureDistillation("mse", teacher_layer_name="stem", student_layer_name="stem")
    distiller = Distiller(student, teacher=teacher, teacher_weight=0.0, distillation_losses=[loss])
    (adapter,) = distiller.adapters
    assert adapter.kernel.shape == (1, 1, 4, 6)
    maps = keras.Model(student.input, student.get_layer("stem").output)(PICTURES)
    larger = keras.ops.image.resize(PICTURES, (12, 12), antialias=True)
    theirs = keras.Model(teacher.input, teacher.get_layer("stem").output)(larger)
    theirs = convert_to_numpy(keras.ops.image.resize(theirs, (4, 4), antialias=True))
    by_hand = ((convert_to_numpy(adapter(maps)) - theirs) ** 2).mean()
    assert loss_of(distiller, None) == pytest.approx(by_hand, rel=1e-4)
    assert any(variable is adapter.kernel for variable in distiller.trainable_variables)
    assert all(variable is not adapter.kernel for variable in student.weights)


class Own(DistillationLoss):
    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return keras.ops.max(keras.ops.abs(teacher_outputs - student_outputs))


@pytest.mark.once
def test_losses_of_classes_of_the_users():
    student, teacher = linear(), linear(seed=1)
    distiller = Distiller(student, teacher=teacher, teacher_weight=0.0, distillation_losses=[Own()])
    assert loss_of(distiller, None) == pytest.approx(np.abs(outputs(student) - outputs(teacher)).max(), rel=1e-5)
    with pytest.raises(ValueError, match="Own gives one number for all pictures"):
        loss_of(distiller, None, np.ones(12))


@pytest.mark.once
def test_saved_and_loaded_it_is_the_same(tmp_path):
    losses = [FeatureDistillation("mse", "stem", "stem"), LogitsDistillation(2.0)]
    teacher = convolutional(5, filters=8, seed=1)
    distiller = Distiller(
        convolutional(),
        teacher=teacher,
        temperature=2.0,
        teacher_weight=0.7,
        teacher_classes=[4, 0, 2],
        distillation_losses=losses,
        distillation_loss_weights=[0.5, 2.0],
        teacher_outputs="probabilities",
    )
    with_labels(distiller, 0.3)
    distiller.optimizer.build(distiller.trainable_variables)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert loss_of(loaded) == pytest.approx(loss_of(distiller), rel=1e-5)
    assert len(loaded.trainable_variables) == len(distiller.trainable_variables)
    own = {key: value for key, value in distiller.get_config().items() if key not in ("student", "teacher")}
    assert own == {key: value for key, value in loaded.get_config().items() if key in own}
    distiller.student.save(tmp_path / "student.keras")
    student = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(outputs(student), outputs(distiller.student))


@pytest.mark.parametrize("policy", [pytest.param("mixed_float16", marks=pytest.mark.once), "mixed_bfloat16"])
def test_trains_in_mixed_precision(policy):
    teacher = convolutional(filters=8, seed=1)
    keras.config.set_dtype_policy(policy)
    try:
        student = convolutional()
    finally:
        keras.config.set_dtype_policy("float32")
    loss = FeatureDistillation("mse", "stem", "stem")
    distiller = Distiller(student, teacher=teacher, distillation_losses=[loss])
    distiller.compile(keras.optimizers.SGD(0.2))
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    losses = distiller.fit(PICTURES, batch_size=6, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.95 * losses[0]
    assert all(np.isfinite(value).all() for value in values(student).values())


def trained():
    losses = [FeatureDistillation("mse", "predictions", "predictions"), LogitsDistillation(2.0)]
    student = linear(regularizer=keras.regularizers.L2(0.01))
    distiller = Distiller(
        student, teacher=linear(4, seed=1), temperature=2.0, teacher_classes=[3, 1, 0], distillation_losses=losses
    )
    distiller.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", loss_weights=0.1)
    weights = np.linspace(0, 2, 12).astype("float32")
    distiller.fit(PICTURES, LABELS, batch_size=4, shuffle=False, sample_weight=weights, verbose=0)
    return values(student)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras trains on one device there")
def test_two_devices_train_like_one(tmp_path):
    one, two = on_one_and_two(trained, tmp_path)
    for path in one:
        np.testing.assert_allclose(two[path], one[path], rtol=0, atol=1e-5, err_msg=path)
    assert np.any(one["predictions/kernel"] != values(linear())["predictions/kernel"])


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "`temperature` must be above 0"),
        ({"teacher": "resnet"}, "`teacher` must be a built"),
        ({"student_outputs": "scores"}, "`student_outputs` must be"),
        ({"teacher_classes": [0, 1]}, "`teacher_classes` must hold 3 indices"),
        ({"teacher_classes": [0, 1, 3]}, "from 0 to 2"),
        ({"distillation_losses": [LogitsDistillation()], "distillation_loss_weights": [1, 2]}, "must be 1, one for"),
        ({"distillation_losses": [FeatureDistillation("mse", "stem", "pool")]}, "No such layer"),
        ({"distillation_losses": [FeatureDistillation(["mse", "mae"])]}, "must be for one output"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    arguments = {"student": linear(), "teacher": linear(seed=1), **arguments}
    with pytest.raises(ValueError, match=message):
        Distiller(**arguments)


@pytest.mark.once
def test_networks_that_do_not_fit_are_named():
    with pytest.raises(TypeError, match="positional"):  # Keras's order, by which the teacher would be trained
        Distiller(linear(seed=1), linear())
    with pytest.raises(ValueError, match=r"3 classes and the teacher 5: give `teacher_classes`"):
        Distiller(linear(), teacher=linear(5))
    with pytest.raises(ValueError, match=r"last layer of `teacher`.*teacher_outputs"):
        Distiller(linear(), teacher=linear(activation="sigmoid"))
    with pytest.raises(ValueError, match="give a `teacher`"):
        Distiller(linear(), distillation_losses=[FeatureDistillation("mse", "stem", "predictions")])
    maps = FeatureDistillation("mse", "predictions", "stem")
    with pytest.raises(ValueError, match="layers of as many axes"):
        Distiller(convolutional(), teacher=linear(), distillation_losses=[maps])


@pytest.mark.once
@pytest.mark.parametrize(
    ("data_format", "shape", "is_refused"),
    [
        ("channels_last", (3, 16, 16), True),
        ("channels_first", (16, 16, 3), True),
        ("channels_last", (16, 16, 3), False),
        ("channels_first", (3, 16, 16), False),
        ("channels_last", (3, 3, 64), False),  # maps, not pictures
        ("channels_last", (1, 100, 64), False),
        ("channels_last", (3, None, None), True),
    ],
)
def test_pictures_of_the_other_data_format_are_refused(data_format, shape, is_refused, monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: data_format)
    inputs = keras.Input(shape)
    teacher = keras.Model(inputs, keras.layers.Activation("softmax")(keras.layers.GlobalMaxPooling2D()(inputs)))
    if is_refused:
        with pytest.raises(ValueError, match=rf"`teacher` takes pictures of shape .*Keras is set to {data_format}"):
            ClassifierView(teacher, "teacher")
    else:
        ClassifierView(teacher, "teacher")


@pytest.mark.once
def test_missing_targets_are_named():
    with pytest.raises(ValueError, match="nothing to learn from"):
        loss_of(Distiller(linear()), {"labels": LABELS}, training=True)
    assert loss_of(Distiller(linear()), {"labels": LABELS}) == 0  # evaluated for the metrics
    with pytest.raises(ValueError, match="`compile` no loss"):
        loss_of(with_labels(Distiller(linear(), teacher=linear(seed=1)), 1.0), None)
    with pytest.raises(ValueError, match=r"\(12, 3\).*Received: \(12,\)"):
        loss_of(Distiller(linear()), LABELS)  # labels are no soft labels
    with pytest.raises(ValueError, match="say which with `teacher_classes`"):
        loss_of(Distiller(linear()), outputs(linear(5, "softmax")))
    with pytest.raises(ValueError, match=r"Received: \['label'\]"):
        loss_of(Distiller(linear(), teacher=linear(seed=1)), {"label": LABELS})


class Subclassed(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.built = True

    def call(self, pictures, training=False):
        return self.inner(pictures, training=training)


@pytest.mark.once
def test_subclassed_models_distil_if_it_is_said_what_they_give():
    student, teacher = Subclassed(linear()), Subclassed(linear(activation="softmax", seed=1))
    with pytest.raises(ValueError, match="student_outputs="):
        Distiller(student, teacher=teacher)
    kinds = {"student_outputs": "logits", "teacher_outputs": "probabilities"}
    by_hand = cross_entropy(outputs(teacher), outputs(student)).mean()
    assert loss_of(Distiller(student, teacher=teacher, **kinds), None) == pytest.approx(by_hand, rel=1e-5)
    with pytest.raises(ValueError, match="only if it is a Functional"):
        Distiller(
            student, teacher=linear(), distillation_losses=FeatureDistillation("mse", "predictions", "inner"), **kinds
        )


@pytest.mark.once
def test_what_networks_give_is_seen_in_their_last_layer():
    body = linear()
    image = keras.Input((8, 8, 3))
    for last in (keras.layers.Softmax(), keras.layers.Activation("softmax")):
        student = keras.Model(image, last(body(image)))
        read = Distiller(student, teacher=linear(seed=1))(PICTURES, training=True)
        np.testing.assert_allclose(read["logits"], outputs(body), rtol=1e-5)
    nested = keras.Sequential([image, linear(activation="softmax")])
    read = Distiller(nested, teacher=linear(seed=1))(PICTURES, training=True)
    np.testing.assert_allclose(softmax(convert_to_numpy(read["logits"])), outputs(nested), rtol=1e-4)
    quantized = qat.quantize_model(linear(activation="softmax"), calibration_data=PICTURES)
    assert loss_of(Distiller(quantized, teacher=linear(seed=1)), None) > 0
