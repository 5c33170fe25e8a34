import keras
import numpy as np
import pytest
from classifiers import LABELS
from classifiers import PICTURES
from classifiers import linear
from classifiers import outputs
from classifiers import softmax
from conftest import stopping_after
from PIL import Image

from keras_mnv4 import distillation
from keras_mnv4 import training
from keras_mnv4.data import PictureData
from keras_mnv4.data import PictureSet
from keras_mnv4.distillation import select_relevant

pytestmark = pytest.mark.once

TABLE = np.array(
    [
        [0.90, 0.05, 0.05],
        [0.30, 0.36, 0.34],
        [0.60, 0.20, 0.20],
        [0.10, 0.80, 0.10],
        [0.95, 0.03, 0.02],
        [0.34, 0.33, 0.33],
    ]
)


def test_the_most_relevant_of_each_class_are_chosen():
    with pytest.warns(UserWarning, match=r"1 classes, which are left out: \[2\]"):
        chosen = select_relevant(TABLE, per_class=2)
    assert chosen.tolist() == [4, 0, 3, 1]


def test_rare_classes_are_repeated_evenly():
    table = np.vstack([TABLE, [[0.0, 0.2, 0.8]]])
    chosen = select_relevant(table, per_class=5, threshold=0.35)
    zero, one, two = chosen[:5].tolist(), chosen[5:10].tolist(), chosen[10:].tolist()
    assert sorted(np.bincount(zero, minlength=7)[[0, 2, 4]]) == [1, 2, 2]
    assert sorted(np.bincount(one, minlength=7)[[1, 3]]) == [2, 3]
    assert two == [6] * 5
    assert select_relevant(table, per_class=5, threshold=0.35).tolist() == chosen.tolist()


def test_what_cannot_be_chosen_from_is_an_error():
    with pytest.raises(ValueError, match=r"threshold=0.99.*0.950"):
        select_relevant(TABLE, per_class=1, threshold=0.99)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        select_relevant(TABLE[0], per_class=1)
    with pytest.raises(ValueError, match="`per_class`"):
        select_relevant(TABLE, per_class=0)


@pytest.mark.parametrize("row", [[3.0, -2.5, 0.5], [0.3, 0.3, 0.3], [np.nan, 0.5, 0.5]])
def test_rows_that_are_not_probabilities_are_named(row):
    with pytest.warns(UserWarning, match="left out"):
        assert len(select_relevant(0.995 * TABLE, per_class=1)) == 2  # as good as
    with pytest.raises(ValueError, match=r"add up to 1; logits want a softmax\. Received in row 6"):
        select_relevant(np.vstack([TABLE, [row]]), per_class=1)


def test_of_a_teacher_of_logits_the_probabilities_count(tmp_path, monkeypatch):
    teacher, pictures, given = linear(), PICTURES.astype("uint8"), []
    pool = [tmp_path / f"{index}.png" for index in range(len(pictures))]
    for path, picture in zip(pool, pictures, strict=True):
        Image.fromarray(picture).save(path)
    (tmp_path / "damaged.png").write_text("no picture")
    pool.insert(1, tmp_path / "damaged.png")

    def stop(probabilities, per_class):
        given.append(probabilities)
        raise KeyboardInterrupt

    monkeypatch.setattr(distillation, "select_relevant", stop)
    data = PictureData(("a", "b", "c"), *[PictureSet(pictures, LABELS, size=8)] * 3)
    with pytest.raises(KeyboardInterrupt):
        training.distill(linear(seed=1), teacher, data, epochs=1, ratio=(1, 1, 1), pool=pool)
    expected = softmax(outputs(teacher, pictures.astype("float32")))
    np.testing.assert_allclose(given[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.once
@pytest.mark.tensorflow
@pytest.mark.parametrize("has_store", [False, True])
def test_students_are_validated_against_their_teacher(has_store, tmp_path):
    teacher, student = linear(), linear(seed=1)
    data = PictureData(("a", "b", "c"), *[PictureSet(PICTURES.astype("uint8"), LABELS, size=8)] * 3)
    store = tmp_path / "store" if has_store else None
    history = training.distill(student, teacher, data, epochs=1, store=store, verbose=0).history
    probabilities = [
        softmax(outputs(model, data.validation.pictures.astype("float32"))) for model in (teacher, student)
    ]
    expected = -(probabilities[0] * np.log(probabilities[1])).sum(-1).mean()
    assert history["val_loss"] == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.once
@pytest.mark.tensorflow
@pytest.mark.parametrize("has_store", [False, True])
def test_a_distillation_that_was_stopped_goes_on_as_if_it_had_not_been(has_store, tmp_path, monkeypatch):
    teacher = linear()
    data = PictureData(("a", "b", "c"), *[PictureSet(PICTURES.astype("uint8"), LABELS, size=8)] * 3)
    store = tmp_path / "store" if has_store else None

    def distill(**how):
        student = linear(seed=1)
        how = {"epochs": 4, "store": store, "verbose": 0, "backup_dir": tmp_path / "backup", **how}
        return training.distill(student, teacher, data, **how).epoch, student.get_weights()

    _, expected = distill()
    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks, "BackupAndRestore", stopping_after(1))
        with pytest.raises(KeyboardInterrupt):
            distill()
    with pytest.raises(ValueError, match="backups of another optimizer"):
        distill(learning_rate=1.0)
    epochs, found = distill()
    assert epochs == [2, 3]
    for ours, weights in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, weights, rtol=1e-4, atol=1e-6)
    assert not list((tmp_path / "backup").iterdir())


@pytest.mark.once
@pytest.mark.parametrize("flip", [True, False])
def test_pictures_that_have_no_mirror_image_are_not_mirrored(flip, monkeypatch):
    made = []
    mix = distillation.DatasetMix
    monkeypatch.setattr(
        distillation, "DatasetMix", lambda sources, *args, **how: made.extend(sources) or mix(sources, *args, **how)
    )
    data = PictureData(("a", "b", "c"), *[PictureSet(PICTURES.astype("uint8"), LABELS, size=8)] * 3)
    training.distill(linear(seed=1), linear(), data, epochs=1, flip=flip, verbose=0)
    assert [source.augmentation.flip for source in made] == [flip, flip]


@pytest.mark.once
def test_a_pool_without_a_readable_picture_is_an_error(tmp_path):
    (tmp_path / "damaged.png").write_text("no picture")
    data = PictureData(("a", "b", "c"), *[PictureSet(PICTURES.astype("uint8"), LABELS, size=8)] * 3)
    with pytest.raises(ValueError, match="none of which can be read"):
        training.distill(linear(), linear(), data, epochs=1, ratio=(1, 1, 1), pool=[tmp_path / "damaged.png"])
