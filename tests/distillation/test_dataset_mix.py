"""`DatasetMix`: exact proportions, every picture once a pass, the same pictures for a seed however they are read."""

import threading

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_mnv4.distillation import D1
from keras_mnv4.distillation import D2
from keras_mnv4.distillation import D3
from keras_mnv4.distillation import Augmentation
from keras_mnv4.distillation import DatasetMix
from keras_mnv4.distillation import Source

pytestmark = pytest.mark.once

AS_IT_IS = Augmentation(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)


def numbered(count, first=0):
    """Pictures of one colour each, by which they are known."""
    return np.broadcast_to(np.arange(first, first + count, dtype="uint8")[:, None, None, None], (count, 4, 4, 3)).copy()


def colours(mix, positions):
    return [int(mix.example(position).picture[0, 0, 0]) for position in positions]


def three_sources(**arguments):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (7, 12, 12, 3), "uint8")
    labels = np.arange(7) % 3
    sources = [Source(pictures, labels, D1), Source(pictures, labels, D2), Source(pictures, augmentation=D3)]
    return DatasetMix(sources, **{"size": 8, "ratio": (1, 1, 2), "batch_size": 4, "seed": 3, **arguments})


@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    ratio=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    epoch_size=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_every_epoch_has_the_proportions(counts, ratio, epoch_size, seed):
    ratio = ratio[: len(counts)]
    sources = [Source(numbered(count), augmentation=AS_IT_IS) for count in counts]
    mix = DatasetMix(sources, 4, ratio, epoch_size=epoch_size, seed=seed)
    for epoch in range(2):
        examples = [mix.example(epoch * epoch_size + offset) for offset in range(epoch_size)]
        found = np.bincount([example.source for example in examples], minlength=len(counts))
        assert tuple(found) == mix.counts
        assert found.sum() == epoch_size
        assert np.all(np.abs(found - np.array(ratio) * epoch_size / sum(ratio)) < 1)


@given(count=st.integers(1, 9), epoch_size=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_source_is_gone_through_before_it_repeats(count, epoch_size, seed):
    mix = DatasetMix([Source(numbered(count), augmentation=AS_IT_IS)], 4, epoch_size=epoch_size, seed=seed)
    seen = colours(mix, range(3 * count))  # over the ends of epochs
    assert [sorted(seen[start : start + count]) for start in range(0, 3 * count, count)] == [list(range(count))] * 3


def test_one_to_one_to_two_is_exact():
    mix = three_sources()
    assert mix.epoch_size == 28  # the first source once through
    assert mix.counts == (7, 7, 14)
    assert len(mix) == 7


def test_the_same_seed_gives_the_same_pictures():
    first, again, other = three_sources(classes=3), three_sources(classes=3), three_sources(classes=3, seed=4)
    for (pictures, labels), (others, other_labels) in zip(first, again, strict=True):
        np.testing.assert_array_equal(pictures, others)
        np.testing.assert_array_equal(labels, other_labels)
    assert not np.array_equal(first[0][0], other[0][0])
    before = first[0][0]
    first.on_epoch_end()
    assert not np.array_equal(first[0][0], before)
    np.testing.assert_array_equal(first[0][0], again.batch(len(again))[0])


def test_batches_do_not_depend_on_who_reads_when():
    mix, read = three_sources(), {}
    threads = [threading.Thread(target=lambda step=step: read.update({step: mix.batch(step)[0]})) for step in range(12)]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    for step in range(12):
        np.testing.assert_array_equal(read[step], three_sources().batch(step)[0])


def test_a_mix_turns_to_any_epoch():
    mix = three_sources()
    mix.turn_to(2)
    for index in range(len(mix)):
        np.testing.assert_array_equal(mix[index][0], mix.batch(2 * len(mix) + index)[0])


def test_tf_data_gives_the_same_batches_and_goes_on_at_any():
    mix = three_sources(classes=3, epoch_size=10)
    steps = list(mix.tf_data().take(7).as_numpy_iterator())
    assert [len(pictures) for pictures, _ in steps] == [4, 4, 2, 4, 4, 2, 4]
    for step, (pictures, labels) in enumerate(steps):
        np.testing.assert_array_equal(pictures, mix.batch(step)[0])
        np.testing.assert_array_equal(labels, mix.batch(step)[1])
    (later,) = mix.tf_data(start=5).take(1).as_numpy_iterator()
    np.testing.assert_array_equal(later[0], steps[5][0])
    assert mix.tf_data().element_spec[0].shape == (None, 8, 8, 3)
    assert len(three_sources().tf_data().element_spec) == 1


def test_batches_are_float_bytes_and_labels_add_up():
    mix = three_sources(classes=3)
    assert len(mix[0]) == 2
    rows = [mix.example(position) for position in range(4)]
    pictures, labels = mix[0]
    assert (pictures.dtype, pictures.shape, labels.dtype) == (np.float32, (4, 8, 8, 3), np.float32)
    assert 1 < pictures.max() <= 255
    for example, label in zip(rows, labels, strict=True):
        assert label.sum() == pytest.approx(0 if example.source == 2 else 1)
    assert len(three_sources()[0]) == 1


def test_mixup_is_the_weighted_mean_of_two_pictures():
    mixed = Augmentation(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False, mixup=1.0)
    mix = DatasetMix([Source(numbered(9), np.arange(9), mixed)], 4, epoch_size=200)
    examples = [mix.example(position) for position in range(200)]
    for example in examples:
        expected = np.dot(example.classes, example.shares)  # a picture's colour is its class
        np.testing.assert_allclose(example.picture, round(expected), atol=0.51)
    shares = [example.shares[0] for example in examples]
    assert np.histogram(shares, 4, (0, 1))[0].min() > 30  # uniform from 0 to 1
    assert sum(example.classes[0] == example.classes[1] for example in examples) < 50


def test_a_class_mixed_with_itself_is_that_class():
    mix = DatasetMix([Source(numbered(3), [1, 1, 1], D2)], 4, classes=2)
    np.testing.assert_allclose(mix[0][1], [[0, 1]] * 3, rtol=1e-6)


def watched_model():
    """A model of three classes, and a list of the pictures of the batches that it will be trained on."""
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    seen, train_step = [], model.train_step

    def watched_step(*arguments):  # the data is the last, before it JAX has a state
        seen.append(np.array(arguments[-1][0]))
        return train_step(*arguments)

    model.train_step = watched_step
    return model, seen


def test_fit_reads_every_batch_once():
    model, seen = watched_model()
    mix = three_sources(classes=3, epoch_size=30)
    model.fit(mix, shuffle=False, epochs=2, verbose=0)
    assert mix.epoch == 2
    model.fit(mix, shuffle=False, verbose=0)
    assert len(seen) == 24
    for step, pictures in enumerate(seen):
        np.testing.assert_array_equal(pictures, mix.batch(step)[0])


def test_short_epochs_go_on_through_the_mix():
    model, seen = watched_model()
    mix = three_sources(classes=3, epoch_size=40)
    assert len(mix) == 10
    model.fit(mix, shuffle=False, epochs=6, steps_per_epoch=5, verbose=0)
    assert len(seen) == 30
    for step, pictures in enumerate(seen):
        np.testing.assert_array_equal(pictures, mix.batch(step)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": (1, 1)}, "3 sources and ratio"),
        ({"ratio": (1, 0, 2)}, "positive number"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"epoch_size": 0}, "epoch_size=0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        three_sources(**arguments)


def test_sources_that_hold_nothing_are_named():
    with pytest.raises(ValueError, match="one source at least"):
        DatasetMix([], 8)
    with pytest.raises(ValueError, match="`pictures` must hold"):
        Source([])
    with pytest.raises(ValueError, match="`labels` must be 3"):
        Source(numbered(3), [0, 1])
    for labels in ([0, 3, 1], [0, -1, 1]):
        with pytest.raises(ValueError, match=rf"3, and labels from {min(labels)} to {max(labels)}"):
            DatasetMix([Source(numbered(3), labels)], 8, classes=3)
