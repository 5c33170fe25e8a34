import pytest
from conftest import photo_data
from conftest import pooled_classifier

from keras_mnv4 import files
from keras_mnv4 import tuner
from keras_mnv4.demo import run_demo
from keras_mnv4.fitting import fit_classifier


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "file.bin"

    def fail():
        with files.atomic_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())
    with files.atomic_file(path) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_made_are_refused(tmp_path):
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path in (tmp_path, tmp_path / "new", tmp_path / "new" / "inner"):
        files.check_folder(path)
    for path, what in (("taken", "taken"), ("taken/inner", "taken"), ("nowhere", "nowhere")):
        with pytest.raises(NotADirectoryError, match=f"`--out` must be a folder, .*{what}' is no folder. Received: "):
            files.check_folder(tmp_path / path, "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nowhere", "taken"]


def test_a_failed_replacement_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail():
        with files.atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(b"new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"


def test_calls_say_so_when_their_folder_is_a_file(tmp_path):
    taken = tmp_path / "taken"
    taken.write_bytes(b"mine")
    data, model = photo_data(), pooled_classifier()
    calls = {
        "backup_dir": lambda: fit_classifier(model, data, "sgd", epochs=1, backup_dir=taken),
        "directory": lambda: tuner.gradient_search(tuner.tiny_space(), data, taken),
        "out": lambda: run_demo(taken),
    }
    for argument, call in calls.items():
        with pytest.raises(NotADirectoryError, match=f"`{argument}` must be a folder, .*taken' is no folder"):
            call()
    assert taken.read_bytes() == b"mine"
