"""Soft labels on disk: the same loss as online, whole files or none whenever the writer dies, damage that is named."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from classifiers import convolutional
from classifiers import linear
from classifiers import outputs
from classifiers import softmax
from test_distiller import loss_of

from keras_mnv4.distillation import D1
from keras_mnv4.distillation import D2
from keras_mnv4.distillation import DatasetMix
from keras_mnv4.distillation import Distiller
from keras_mnv4.distillation import SoftLabelStore
from keras_mnv4.distillation import Source
from keras_mnv4.distillation import estimate_soft_labels
from keras_mnv4.distillation import write_soft_labels

pytestmark = pytest.mark.once

RAW = {"shuffle": False, "flip": False}


def small_mix(seed=0, classes=5, batch_size=6, shift=0):
    pictures = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), "uint8")
    labels = (np.arange(9) + shift) % (classes or 5)
    sources = [Source(pictures, labels, D1), Source(pictures, labels, D2)]
    return DatasetMix(sources, size=8, batch_size=batch_size, classes=classes, seed=seed)


def write(folder, mix=None, teacher=None, **arguments):
    arguments = {"image_format": "png", "shard_pictures": 8, "verbose": 0, **arguments}
    return write_soft_labels(mix or small_mix(), teacher or linear(5, "softmax"), folder, **arguments)


def read(store, **arguments):
    batches = list(store.tf_data(**{**RAW, **arguments}).as_numpy_iterator())
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def positions(store):
    """The positions of each file's records."""
    import tensorflow as tf

    feature = {"position": tf.io.FixedLenFeature([], tf.int64)}
    return [
        [int(tf.io.parse_single_example(record, feature)["position"]) for record in tf.data.TFRecordDataset(str(shard))]
        for shard in store.shards
    ]


def test_pictures_and_probabilities_are_those_of_the_mix_and_the_teacher(tmp_path):
    mix, teacher = small_mix(), convolutional(5)
    store = write(tmp_path / "store", mix, teacher, replicas=2)
    assert store.num_pictures == 36
    assert [path.name for path in store.shards][-1] == "shard-00004-of-00005.tfrecord"
    assert positions(store) == [list(range(start, min(start + 8, 36))) for start in range(0, 36, 8)]
    pictures, probabilities = read(store)
    np.testing.assert_array_equal(pictures, np.concatenate([mix.batch(step)[0] for step in range(6)]))
    np.testing.assert_allclose(probabilities, outputs(teacher, pictures), rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    (batch,) = store.tf_data(batch_size=36, classes=5, **RAW)
    np.testing.assert_array_equal(batch[1]["soft_labels"], probabilities)
    given = np.concatenate([mix.batch(step)[1] for step in range(6)])
    np.testing.assert_allclose(batch[1]["labels"], given, rtol=1e-6)


def test_labels_of_fewer_classes_than_the_teachers_go_with_a_student_of_them(tmp_path):
    import tensorflow as tf

    mix, teacher = small_mix(classes=3), convolutional(7)
    store = write(tmp_path / "store", mix, teacher)
    (batch,) = store.tf_data(batch_size=36, classes=3, **RAW)
    given = np.concatenate([mix.batch(step)[1] for step in range(len(mix))])
    np.testing.assert_allclose(batch[1]["labels"], given, rtol=1e-6)
    student = convolutional(3)
    distiller = Distiller(student, teacher_classes=[4, 0, 6])
    distiller.compile(metrics=["accuracy"])
    right = outputs(student, batch[0]).argmax(-1) == given.argmax(-1)
    results = distiller.evaluate(store.tf_data(classes=3, **RAW), return_dict=True, verbose=0)
    assert results["accuracy"] == pytest.approx(right.mean())
    with pytest.raises(tf.errors.InvalidArgumentError, match="`classes` must be above all labels"):
        list(store.tf_data(classes=1))


def test_offline_and_online_the_loss_is_the_same(tmp_path):
    student, teacher = convolutional(5), convolutional(5, filters=8, seed=1)
    pictures, probabilities = read(write(tmp_path / "store", teacher=teacher))
    online = loss_of(Distiller(student, teacher=teacher), None, x=pictures)
    offline = loss_of(Distiller(student), probabilities, x=pictures)
    assert offline == pytest.approx(online, abs=1e-3)
    distiller = Distiller(student)
    distiller.compile("sgd")
    store = SoftLabelStore(tmp_path / "store")
    assert distiller.evaluate(store.tf_data(**RAW), verbose=0) == pytest.approx(online, abs=1e-3)


def test_top_k_spreads_the_rest_evenly(tmp_path):
    teacher = linear(5)
    pictures, probabilities = read(write(tmp_path / "store", teacher=teacher, top_k=2))
    whole = softmax(outputs(teacher, pictures))
    for kept, all_of_them in zip(probabilities, whole, strict=True):
        top, others = np.split(np.argsort(-all_of_them), [2])
        np.testing.assert_allclose(kept[top], all_of_them[top], rtol=2e-3)
        np.testing.assert_allclose(kept[others], (1 - all_of_them[top].sum()) / 3, atol=1e-3)
        assert np.unique(kept[others]).size == 1


def test_jpeg_is_what_the_teacher_sees(tmp_path):
    teacher = linear(5)
    pictures, probabilities = read(write(tmp_path / "store", teacher=teacher, image_format="jpeg", quality=30))
    lossless, _ = read(write(tmp_path / "lossless", teacher=teacher))
    assert np.abs(pictures - lossless).mean() > 3
    np.testing.assert_allclose(probabilities, softmax(outputs(teacher, pictures)), atol=0.01)


def test_passes_are_shuffled_and_mirrored_as_the_seed_says(tmp_path):
    store = write(tmp_path / "store", replicas=2)
    plain, _ = read(store)
    reading = store.tf_data(batch_size=36, seed=5)
    (first,), (second,) = (list(reading.as_numpy_iterator()) for _ in range(2))
    (again,) = store.tf_data(batch_size=36, seed=5).as_numpy_iterator()
    np.testing.assert_array_equal(first[0], again[0])
    assert np.any(first[0] != second[0])
    known = {picture.tobytes(): index for index, picture in enumerate(plain)}
    mirrored = {picture[:, ::-1].tobytes(): index for index, picture in enumerate(plain)}
    found = [known.get(picture.tobytes(), mirrored.get(picture.tobytes())) for picture in first[0]]
    assert sorted(found) == list(range(36))
    assert 8 < sum(picture.tobytes() in known for picture in first[0]) < 28


def test_each_pass_mirrors_other_pictures_as_the_seed_says(tmp_path):
    store = write(tmp_path / "store")
    plain, _ = read(store)

    def mirrored(reading, count):
        pictures = np.concatenate([batch[0] for batch in reading.take(count)])
        same = [np.array_equal(*pair) for pair in zip(pictures, np.concatenate([plain] * count), strict=True)]
        assert 3 * count < sum(same) < 15 * count
        return same

    how = {"batch_size": 18, "shuffle": False}
    reading = store.tf_data(seed=5, **how)
    first, second = mirrored(reading, 1), mirrored(reading, 1)
    assert first != second
    assert mirrored(store.tf_data(seed=5, **how).repeat(2), 2) == first + second
    assert mirrored(store.tf_data(seed=6, **how), 1) != first


def test_a_stopped_writer_goes_on(tmp_path, monkeypatch):
    whole = write(tmp_path / "whole")
    mix, examples = small_mix(), []
    draw = mix.example

    def stop_in_the_second_file(position):
        examples.append(position)
        if position == 13:
            raise KeyboardInterrupt
        return draw(position)

    monkeypatch.setattr(mix, "example", stop_in_the_second_file)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "store", mix)
    done = [path.name for path in sorted((tmp_path / "store").iterdir())]
    assert done == ["shard-00000-of-00003.tfrecord", "store.json"]
    with pytest.raises(ValueError, match=r"2 of the 3 files .* are missing, shard-00001-of-00003"):
        SoftLabelStore(tmp_path / "store")
    (tmp_path / "store" / ".shard-00001-of-00003.tfrecord.x").mkdir()  # as a killed writer leaves it
    store = write(tmp_path / "store")
    assert not list((tmp_path / "store").glob(".*"))
    assert [path.read_bytes() for path in store.shards] == [path.read_bytes() for path in whole.shards]


def test_a_folder_is_for_one_store(tmp_path):
    write(tmp_path)
    for arguments, message in [
        ({"mix": small_mix(seed=1)}, "soft labels of another first_pictures, mix"),
        ({"mix": small_mix(shift=1)}, "soft labels of another labels"),
        ({"teacher": linear(5, "softmax", seed=1)}, "of another teacher"),
        ({"teacher_outputs": "logits"}, "of another teacher_outputs"),
        ({"top_k": 2}, "of another top_k"),
        ({"image_format": "jpeg"}, "of another image_format, quality"),
    ]:
        with pytest.raises(ValueError, match=message):
            write(tmp_path, **arguments)
    with pytest.raises(ValueError, match="`write_soft_labels` made"):
        SoftLabelStore(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["byte", "cut", "record"])
def test_damaged_files_are_named_and_made_anew(tmp_path, damage):
    store = write(tmp_path)
    path, whole = store.shards[1], store.shards[1].read_bytes()
    length = int.from_bytes(whole[:8], "little") + 16  # of the first record
    spoilt = {
        "byte": whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
        "cut": whole[:-5],
        "record": whole[length:],  # what is left is sound
    }
    path.write_bytes(spoilt[damage])
    with pytest.raises(ValueError, match=r"Damaged files in .*: shard-00001-of-00003.tfrecord\. Delete"):
        store.tf_data()
    path.unlink()
    assert write(tmp_path).shards[1].read_bytes() == whole


def test_the_estimate_is_close(tmp_path, capsys):
    mix, teacher = small_mix(), linear(5, "softmax")
    estimate = estimate_soft_labels(mix, teacher, replicas=4, image_format="png")
    store = write(tmp_path, mix, teacher, replicas=4, verbose=1)
    assert estimate.pictures == store.num_pictures == 72
    assert estimate.bytes == pytest.approx(sum(path.stat().st_size for path in store.shards), rel=0.15)
    assert estimate.seconds > 0
    assert "Soft labels: 72 pictures, 0.0 MB, about 0.0 minutes" in capsys.readouterr().out


def test_a_full_disk_is_seen_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(OSError, match="too little room"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_format": "gif"}, "jpeg, png"),
        ({"top_k": 6}, "from 1 to 5"),
        ({"quality": 0}, "from 1 to 100"),
        ({"replicas": 0}, "replicas=0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "store", **arguments)
    assert not (tmp_path / "store").exists()
    with pytest.raises(ValueError, match="last layer of `teacher`"):
        write(tmp_path / "store", teacher=linear(5, "relu"))


TO_BE_KILLED = """
import sys
from test_offline import *
print("ready", flush=True)
write_many(sys.argv[1])
"""


def write_many(folder):
    return write(folder, small_mix(batch_size=4), replicas=200, shard_pictures=16)


@pytest.mark.slow
def test_killed_at_random_points_it_loses_and_doubles_nothing(tmp_path):
    whole, folder = write_many(tmp_path / "whole"), tmp_path / "store"
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", TO_BE_KILLED, str(folder)]
    options = {"env": {**os.environ, "PYTHONPATH": path}, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    random, finished, leftovers = np.random.default_rng(0), {}, 0
    for _ in range(10):
        child = subprocess.Popen(command, **options, text=True)
        assert child.stdout.readline() == "ready\n"
        aim = len(finished) + int(random.integers(0, 12))
        while child.poll() is None and len(list(folder.glob("shard-*"))) < aim:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        assert child.poll() is None, "it was done before it could be killed"
        child.send_signal(signal.SIGKILL)
        child.communicate()
        now = {path.name: path.read_bytes() for path in folder.glob("shard-*")}
        assert finished.items() <= now.items()
        finished, leftovers = now, leftovers + len(list(folder.glob(".shard-*")))
    assert 10 < len(finished) < len(whole.shards)
    assert leftovers  # some were killed with a file half written
    store = write_many(folder)
    assert list(itertools.chain(*positions(store))) == list(range(3600))
    assert [path.read_bytes() for path in store.shards] == [path.read_bytes() for path in whole.shards]
