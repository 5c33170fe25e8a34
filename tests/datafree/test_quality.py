"""Measures of quality against numbers worked out otherwise, and made-up pictures in place of real ones."""

import keras
import numpy as np
import pytest
from test_synthesis import SIZE
from test_synthesis import make
from test_synthesis import make_teacher

from keras_mnv4 import datafree
from keras_mnv4 import qat
from keras_mnv4 import tuner
from keras_mnv4.datafree import quality
from keras_mnv4.datafree.listening import listening
from keras_mnv4.datafree.listening import normalizations_of

pytestmark = pytest.mark.filterwarnings("ignore:.* have room for:UserWarning")  # a few pictures do here


def test_frechet_distance_of_normal_distributions():
    random = np.random.default_rng(0)
    first = random.normal(size=(4000, 3))
    assert quality.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert quality.frechet_distance(first, first + np.array([3, 0, 4])) == pytest.approx(25)
    # of covariances that commute: the sum of the squared differences of standard deviations
    deviations = np.array([2.0, 1.0, 0.5])
    centred = first - first.mean(0)
    values, vectors = np.linalg.eigh(np.cov(centred, rowvar=False))
    white = centred @ vectors / np.sqrt(values)
    assert quality.frechet_distance(white, white * deviations) == pytest.approx(((deviations - 1) ** 2).sum())


def test_diversity():
    assert quality.diversity(np.ones((5, 3))) == pytest.approx(0, abs=1e-6)
    assert quality.diversity(np.eye(4)) == pytest.approx(np.sqrt(2))


def test_top_share():
    logits = np.array([[3, 2, 1], [1, 2, 3], [2, 3, 1]])
    assert quality.top_share(logits, [0, 1, 2], 1) == pytest.approx(1 / 3)
    assert quality.top_share(logits, [0, 1, 2], 2) == pytest.approx(2 / 3)


def test_statistics_are_those_of_all_pictures_whatever_the_batches(monkeypatch):
    teacher = make_teacher()
    pictures = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE, 3), "uint8")
    found = quality.statistics_distance(teacher, pictures)
    monkeypatch.setattr(quality, "BATCH", 3)
    assert quality.statistics_distance(teacher, pictures) == pytest.approx(found, rel=1e-4)
    for layer in normalizations_of(teacher):
        with listening([layer]) as heard:
            teacher(pictures.astype("float32"))
        inputs = np.asarray(heard[0][1])
        layer.moving_mean.assign(inputs.mean((0, 1, 2)))
        layer.moving_variance.assign(inputs.var((0, 1, 2)))
    assert quality.statistics_distance(teacher, pictures) < 1e-3 < found


def test_a_judge_and_real_pictures(tmp_path):
    teacher, judge = make_teacher(), make_teacher(1)
    made = make(tmp_path, num_images=6)
    real = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), "uint8")
    found = datafree.measure_quality(made, teacher, judge, real)
    pictures, classes = made.arrays()
    expected = (judge.predict(pictures.astype("float32"), verbose=0).argmax(-1) == classes).mean()
    assert found.judge_top1 == pytest.approx(expected)
    assert found.judge_top5 == 1.0  # of four classes
    assert found.frechet_distance > 0
    assert found.real_diversity > 0
    assert "judge top1" in str(found)
    assert datafree.measure_quality(made, teacher).judge_top1 is None


@pytest.mark.once
def test_features_of_a_network_in_another_are_those_that_its_classifier_reads(tmp_path):
    teacher = make_teacher()
    made = make(tmp_path, num_images=4)
    body = keras.Model(teacher.input, teacher.layers[-2].output)
    nested = keras.Sequential([body, teacher.layers[-1]])
    assert datafree.measure_quality(made, nested) == datafree.measure_quality(made, teacher)
    assert str(datafree.measure_quality(made, nested)).startswith("pictures 4,")


@pytest.mark.once
def test_features_of_a_network_behind_a_scaling_are_its_own(tmp_path):
    inner = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *make_teacher().layers[2:]])  # without the scaling
    whole = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(1 / 128, -1.0), inner])
    made = make(tmp_path, num_images=4)
    assert datafree.measure_quality(made, whole) == datafree.measure_quality(made, make_teacher())


@pytest.mark.once
def test_features_of_maps_in_the_middle_are_those_of_the_guide_to_transfer_learning(tmp_path):
    teacher = make_teacher()
    made = make(tmp_path, num_images=4)
    body = keras.Model(teacher.layers[2].input, teacher.layers[-3].output)
    pictures = keras.Input((SIZE, SIZE, 3))
    maps = body(teacher.layers[1](pictures), training=False)
    nested = keras.Model(pictures, teacher.layers[-1](keras.layers.GlobalAveragePooling2D()(maps)))
    assert datafree.measure_quality(made, nested) == datafree.measure_quality(made, teacher)


@pytest.mark.once
@pytest.mark.parametrize("unclear", ["teacher", "judge"])
def test_what_a_network_gives_can_be_said(tmp_path, unclear):
    networks = {"teacher": make_teacher(), "judge": make_teacher(1)}
    made = make(tmp_path, num_images=2, rounds=1)
    found = datafree.measure_quality(made, **networks)
    last = networks[unclear]
    networks[unclear] = keras.Model(last.input, keras.layers.Rescaling(1.0)(last.output))
    with pytest.raises(ValueError, match=f"say {unclear}_outputs="):
        datafree.measure_quality(made, **networks)
    assert datafree.measure_quality(made, **networks, **{f"{unclear}_outputs": "probabilities"}) == found


@pytest.mark.once
def test_pictures_calibrate_and_train_a_quantised_model(tmp_path):
    made = make(tmp_path, num_images=6)
    quantized = qat.quantize_model(make_teacher(), "w8a8")
    qat.calibrate(quantized, made.arrays()[0])
    data = made.picture_data(batch_size=2)
    assert [each.num_pictures for each in (data.train, data.validation, data.test)] == [4, 1, 1]
    quantized.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    assert np.isfinite(quantized.fit(data.train, verbose=0).history["loss"][0])


@pytest.mark.tensorflow
def test_a_tf_data_set(tmp_path):
    made = make(tmp_path, num_images=4)
    (pictures, labels), *others = made.tf_data(batch_size=3, soft=True)
    assert pictures.shape == (3, SIZE, SIZE, 3)
    assert labels.shape == (3, 4)
    assert len(others) == 1
    assert set(map(tuple, np.round(labels, 5))) <= set(map(tuple, np.round(made.probabilities(), 5)))


def test_soft_label_loss_by_hand():
    teacher, student = np.array([[2.0, 0.0]]), np.array([[0.0, 1.5]])
    softmax = lambda logits: np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)  # noqa: E731
    expected = -(softmax(teacher / 3) * np.log(softmax(student / 3))).sum()
    for from_logits in (True, False):
        loss = datafree.SoftLabelLoss(3.0, from_logits)
        output = student if from_logits else softmax(student)
        assert float(loss(softmax(teacher), output)) == pytest.approx(expected, rel=1e-5)
    squared = datafree.SoftLabelLoss(3.0, times_square=True)
    assert float(squared(softmax(teacher), softmax(student))) == pytest.approx(9 * expected, rel=1e-5)
    for labels in (np.array([0]), np.array([[0]])):
        with pytest.raises(ValueError, match="Labels must be probabilities"):
            loss(labels, softmax(student))
    sure = np.eye(1000)[:1]
    assert float(loss(sure, softmax(np.zeros((1, 1000))))) == pytest.approx(np.log(1000), rel=1e-5)
    peaked = 60.0 * sure
    expected = -(softmax(peaked / 3) * np.log(softmax(30.0 * sure / 3))).sum()
    assert float(datafree.SoftLabelLoss(from_logits=True)(softmax(peaked), 30.0 * sure)) == pytest.approx(
        expected, rel=1e-3
    )
    again = keras.losses.deserialize(keras.losses.serialize(squared))
    assert (again.temperature, again.from_logits, again.times_square) == (3.0, False, True)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("strategy", ["spos", "darts", "proxylessnas", "tunas"])
def test_networks_are_searched_for_on_them(tmp_path, strategy):
    made = make(tmp_path / "made", num_images=20, rounds=1, batch_size=20, stages=(datafree.Stage(2, SIZE),))
    data = made.picture_data(size=32, batch_size=8)
    how = {"epochs": 1, "teacher": make_teacher(), "limits": {"macs": 3e6}, "verbose": 0}
    space = tuner.tiny_space()
    costs = tuner.CostModel(space, how["limits"], (32, 32, 3), 4)
    if strategy == "spos":
        found = tuner.search(space, data, tmp_path / "search", population=2, generations=1, **how)
        candidate = found.results()[0]["candidate"]
    else:
        candidate = tuner.gradient_search(space, data, tmp_path / "search", strategy, **how)
        assert tuner.gradient_search(space, data, tmp_path / "search", strategy, **how) == candidate
    assert costs.allows(candidate)
