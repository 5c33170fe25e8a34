import pytest

from keras_mnv4 import files


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
