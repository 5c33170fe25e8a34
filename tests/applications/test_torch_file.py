import datetime
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_mnv4.applications.torch_file import read_torch_file

pytestmark = pytest.mark.once
DATA = pathlib.Path(__file__).parent / "data"  # written by PyTorch: see make_torch_files.py
WRITTEN = {name: (DATA / name).read_bytes() for name in ("legacy.pth", "zip.pth")}
EXPECTED = {
    "norm.weight": np.array([1, 1.25, 1.5], "float32"),
    "norm.bias": np.array([-1, -0.875, -0.75], "float32"),
    "norm.running_mean": np.array([-0.5, 0.5, 1.5], "float32"),
    "norm.running_var": np.array([0.25, 2.25, 4.25], "float32"),
    "norm.num_batches_tracked": np.array(2**40 + 1, "int64"),
    "half": (np.arange(8) / 8).reshape(2, 2, 2).astype("float16"),
    "transposed": np.arange(24, dtype="float32").reshape(4, 3, 2).transpose(1, 2, 0),
    "strided": np.array([[7, 9, 11], [19, 21, 23]], "float64"),
    "front": np.array([0, 3, 6, 9, 12, 15], "int32"),
    "back": np.array([12, 15, 18, 21, 24, 27], "int32"),
    "expanded": np.full((2, 3), 7, "uint8"),
    "bool": np.array([True, False, False, True]),
    "empty": np.zeros((0, 5), "float32"),
    "parameter": np.array([[1.5]], "float32"),
}
ONE_SECOND = settings(max_examples=200, deadline=datetime.timedelta(seconds=1))


@pytest.fixture(params=["legacy", "zip"])
def save(request, tmp_path):
    """A function `(program, {key: bytes of a storage})` -> path of a checkpoint with that pickle."""

    def save(program, storages):
        path = tmp_path / "file.pth"
        path.write_bytes((legacy_file if request.param == "legacy" else zip_file)(program, storages))
        return path

    return save


def legacy_file(program, storages, magic=0x1950A86A20F9469CFC6C, version=1001, little_endian=True):
    header = [pickle.dumps(value, 2) for value in (magic, version, {"little_endian": little_endian})]
    data = [struct.pack("<q", len(values) // 4) + values for values in storages.values()]
    return b"".join([*header, program, pickle.dumps(list(storages), 2), *data])


def zip_file(program, storages, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    path = io.BytesIO()
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("file/data.pkl", program)
        archive.writestr("file/byteorder", byteorder)
        for key, values in storages.items():
            archive.writestr(f"file/data/{key}", values)
    return path.getvalue()


def plain(value):
    """The opcodes of a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(size=(4,), stride=(1,), offset=0, length=4, kind=b"FloatStorage", key="0"):
    """The opcodes of a tensor, as `torch.save` writes them."""
    storage = [plain("storage"), b"ctorch\n%s\n" % kind, plain(key), plain("cpu"), plain(length)]
    arguments = [b"(", *storage, b"tQ", plain(offset), plain(size), plain(stride), b"\x89ccollections\nOrderedDict\n)R"]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(arguments) + b"tR"


def program(**entries):
    """A pickle of a dictionary of fragments."""
    return b"\x80\x02}" + b"".join(plain(name) + entry + b"s" for name, entry in entries.items()) + b"."


FOUR = {"0": np.arange(4, dtype="<f4").tobytes()}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_pytorch_wrote_is_read(name):
    tensors = read_torch_file(DATA / name)
    assert list(tensors) == list(EXPECTED)
    for key, expected in EXPECTED.items():
        assert (tensors[key].dtype, tensors[key].shape) == (expected.dtype, expected.shape), key
        np.testing.assert_array_equal(tensors[key], expected, err_msg=key)
    assert np.shares_memory(tensors["front"], tensors["back"])
    assert all(array.flags.aligned and array.flags.writeable for array in tensors.values())


def test_a_checkpoint_made_by_hand_is_read(save):
    tensors = read_torch_file(save(program(a=tensor(), b=tensor((2, 2), (1, 2)), c=tensor((), (), 3)), FOUR))
    assert {name: array.tolist() for name, array in tensors.items()} == {
        "a": [0, 1, 2, 3],
        "b": [[0, 2], [1, 3]],
        "c": 3,
    }


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", ["system", "eval"])
def test_a_hostile_pickle_is_refused_and_not_run(save, tmp_path, function, protocol):
    marker = tmp_path / "marker"
    if function == "system":
        hostile, name = Hostile(os.system, f"mkdir {marker}"), f"{os.name}.system"
    else:
        hostile = Hostile(eval, f"__import__('os').mkdir({str(marker)!r})")
        name = "__builtin__.eval" if protocol == 2 else "builtins.eval"
    pickled = pickle.dumps({"weight": hostile}, protocol)
    pickle.loads(pickled)
    assert marker.exists()  # it would run
    marker.rmdir()

    path = save(pickled, {})
    with pytest.raises(ValueError, match=f"asks to run `{name}`; nothing was run") as error:
        read_torch_file(path)
    assert str(path) in str(error.value)
    path.write_bytes(pickled)  # not even in a file of torch.save
    with pytest.raises(ValueError, match=f"asks to run `{name}`; nothing was run"):
        read_torch_file(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("pickled", "reason"),
    {
        "another way to call": (b"\x80\x02(X\x02\0\0\0idios\nsystem\n.", "opcode INST"),
        "extension": (b"\x80\x02\x82\x01.", "opcode EXT1"),
        "a module of ours": (b"\x80\x02ckeras_mnv4.applications.torch_file\nread_torch_file\n.", "asks to run"),
        "attribute of what is known": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "asks to run"),
        "odd escape": (b"\x80\x02c\\d\nx\n.", "asks to run"),
        "call of a text": (b"\x80\x02X\x02\0\0\0id)R.", "`str` where"),
        "class as function": (b"\x80\x02ctorch\nFloatStorage\n)R.", "where a dictionary of tensors has `function`"),
        "attributes of a function": (b"\x80\x02ccollections\nOrderedDict\n}b.", "`function` where"),
        "far memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "`NoneType` where"),
        "deep key": (b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.", "`tuple` where"),
        "wide key": (b"\x80\x02})" + b"q\0h\0\x86" * 64 + b"Ns.", "`tuple` where"),
        "long text": (b"\x80\x02\x8d" + b"\xff" * 7 + b"\x7f.", "opcode|expected"),
        "endless": (b"\x80\x02" + b"]q\0h\0a" * 1000, "exhausted|not a tensor|where"),
        "unbalanced": (b"\x80\x02}t.", "damaged"),
        "nothing": (b"\x80\x02.", "damaged"),
    }.values(),
)
def test_other_programs_are_refused(save, pickled, reason):
    with pytest.raises(ValueError, match=reason):
        read_torch_file(save(pickled, {}))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (tensor(size=(5,)), "outside its storage"),
        (tensor(offset=1), "outside its storage"),
        (tensor(size=(2, 2), stride=(2, 2)), "outside its storage"),
        (tensor(size=(), stride=(), offset=4), "outside its storage"),
        (tensor(stride=(-1,), offset=3), "impossible shape"),
        (tensor(offset=-1), "impossible shape"),
        (tensor(size=(-4,)), "impossible shape"),
        (tensor(size=(4.0,)), "impossible shape"),
        (tensor(stride=(2**70,), size=(1,)), "impossible shape"),
        (tensor(stride=(1, 1)), "impossible shape"),
        (tensor(size=(1,) * 65, stride=(1,) * 65), "impossible shape"),
        (tensor(size=(10**9,), stride=(0,)), "impossible shape"),
        (tensor(size=(100,) * 6, stride=(0,) * 6), "larger than the file"),
        (tensor(length=5), "has (16|4) (bytes|numbers), not 5"),
        (tensor(length=3), "has (16|4) (bytes|numbers), not 3"),
        (tensor(length=2**40), "it is cut off"),
        (tensor(length=-1), "impossible way"),
        (tensor(kind=b"DoubleStorage"), "bytes"),
        (tensor(kind=b"BFloat16Storage"), r"torch.BFloat16Storage.*float\(\)"),
        (tensor(key="1"), "missing|damaged"),
        (plain(3), "'a' is of type `int`, not a tensor"),
        (plain({"b": 3}), "'a' is of type `dict`, not a tensor"),
        (b"}" + plain("b") + tensor() + b"s", "'a' is of type `dict`, not a tensor"),
        (plain(("storage", 1)) + b"Q", "described in an unknown way"),
    ],
)
def test_impossible_tensors_are_errors(save, entry, reason):
    path = save(program(a=entry), FOUR)
    with pytest.raises(ValueError, match=reason) as error:
        read_torch_file(path)
    assert str(path) in str(error.value)


def test_a_storage_that_the_file_lacks_is_an_error(save):
    with pytest.raises(ValueError, match=r"the storage of tensor 'a' is missing|damaged .*data/0"):
        read_torch_file(save(program(a=tensor()), {}))


def test_one_storage_with_two_descriptions_is_an_error(save):
    with pytest.raises(ValueError, match="storage '0' is described in an impossible way"):
        read_torch_file(save(program(a=tensor(), b=tensor(length=2)), FOUR))


@pytest.mark.parametrize(
    ("content", "reason"),
    {
        "empty": (b"", "does not begin"),
        "text": (b"weights\n" * 100, "does not begin"),
        "another pickle": (pickle.dumps({"a": 1}, 2), "does not begin"),
        "a list": (legacy_file(pickle.dumps([1], 2), {}), "`list` where"),
        "magic": (legacy_file(program(), {}, magic=1), "does not begin"),
        "version": (legacy_file(program(), {}, version=1002), "version is not 1001"),
        "big-endian": (legacy_file(program(), {}, little_endian=False), "not little-endian"),
        "big-endian archive": (zip_file(program(), {}, byteorder=b"big"), "not little-endian"),
        "compressed": (zip_file(program(), {}, zipfile.ZIP_DEFLATED), "compressed"),
        "no archive": (b"PK\x03\x04" + bytes(100), "not a zip file"),
        "another archive": (zip_file(b"", {}).replace(b"data.pkl", b"data.txt"), "without `data.pkl`"),
    }.values(),
)
def test_other_files_are_errors(tmp_path, content, reason):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"file.pth' is not a plain checkpoint.*{reason}.*torch.save\(model"):
        read_torch_file(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_that_is_cut_off_is_an_error(tmp_path, name):
    path = tmp_path / name
    content = WRITTEN[name]
    for length in [*range(0, len(content), 11), *range(len(content) - 40, len(content))]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not a plain checkpoint of tensors"):
            read_torch_file(path)


def check_harmless(path, content):
    """Reads `content`: that gives arrays no larger than it, or our ValueError with the name of the file."""
    path.write_bytes(content)
    try:
        tensors = read_torch_file(path)
    except ValueError as error:
        if str(path) not in str(error):
            raise
    else:
        assert all(isinstance(array, np.ndarray) and array.nbytes <= len(content) for array in tensors.values())


@ONE_SECOND
@given(name=st.sampled_from(list(WRITTEN)), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1))
def test_damaged_bytes_are_errors_or_other_numbers(tmp_path_factory, name, flips):
    content = bytearray(WRITTEN[name])
    for place, change in flips:
        content[int(place * (len(content) - 1))] ^= change
    check_harmless(tmp_path_factory.getbasetemp() / "flipped.pth", content)


FRAGMENTS = [bytes([opcode]) for opcode in range(256)] + [
    *(b"h\0", b"h\1", b"q\0", b"q\1", b"K\0", b"K\4", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", tensor(), tensor((2, 2), (1, 2))),
    *(plain(value) for value in ("storage", "0", "cpu", (4,), {"a": 1}, [1, 2], 2**40, -1, 0.5, None, True)),
]


@ONE_SECOND
@given(fragments=st.lists(st.sampled_from(FRAGMENTS)), form=st.sampled_from([legacy_file, zip_file]))
@example(fragments=[b"}", plain("a"), tensor(), b"s"], form=zip_file)
def test_any_program_is_harmless(tmp_path_factory, fragments, form):
    pickled = b"\x80\x02" + b"".join(fragments) + b"."
    check_harmless(tmp_path_factory.getbasetemp() / "program.pth", form(pickled, FOUR))
