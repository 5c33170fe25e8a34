"""Reads PyTorch checkpoints without PyTorch, and without running anything that a file asks for.

A checkpoint is a pickle, which is a program, and the bytes of the tensors. `pickle.Unpickler` is not safe with a
stranger's program even where its `find_class` refuses everything: nine bytes have it allocate gigabytes
(`LONG_BINPUT`), and a key of nested tuples crashes it or keeps it busy for ever. The program is therefore interpreted
here, and only the opcodes are known that `torch.save` writes a dictionary of tensors with.
"""

import dataclasses
import io
import math
import pathlib
import pickletools
import struct
import types
import warnings
import zipfile

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first and second pickle of a file from before PyTorch 1.6
LEGACY_VERSION = 1001
MAX_DIMENSIONS = 32  # of NumPy 1
DAMAGE = (  # what zipfile raises on a damaged archive, and `_unpickle` on a damaged pickle
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def read_torch_file(path):
    """Reads a `state_dict` that `torch.save` wrote, in its zip format or in the one from before PyTorch 1.6.

    Args:
        path: the file, most often `*.pth` or `*.pt`.

    Returns:
        `{name: array}` in the order of the file, in PyTorch's layouts: `(filters, channels, height, width)` for a
        convolution. Tensors that share memory in PyTorch share it here.

    Raises:
        ValueError: if the file is damaged or holds anything but named tensors. Nothing of it was run.
        OSError: if the file cannot be opened.

    Example:

    >>> weights = read_torch_file("efficientnet-lite0-57934424.pth")
    >>> weights["_conv_stem.weight"].shape
    (32, 3, 3, 3)
    """
    content = pathlib.Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools, about odd escapes in names
            entries = _read_zip(content) if content.startswith(b"PK") else _read_legacy(content)
        return {name: _array(name, tensor, len(content)) for name, tensor in entries.items()}
    except DAMAGE as error:
        reason = error if type(error) is ValueError else f"it is damaged ({type(error).__name__}: {error})"
        raise ValueError(
            f"{str(path)!r} is not a plain checkpoint of tensors: {reason}. Give a file that "
            "`torch.save(model.state_dict(), path)` wrote."
        ) from error


@dataclasses.dataclass
class _Storage:
    """The flat memory behind one or more tensors; `values` are filled in once the pickle was read."""

    dtype: np.dtype
    length: int
    values: np.ndarray | None = None

    def fill(self, key, data):
        if len(data) != self.length * self.dtype.itemsize:
            raise ValueError(f"storage {key!r:.80} has {len(data)} bytes, not {self.length} x {self.dtype.itemsize}")
        self.values = np.frombuffer(data, self.dtype).copy()


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A window on a storage, as the file describes it: nothing about it has been checked."""

    storage: _Storage
    offset: int
    size: tuple
    stride: tuple


def _array(name, tensor, file_size):
    """The array of a `_Tensor`; raises ValueError if it reaches outside its storage."""
    values, offset, size, stride = tensor.storage.values, tensor.offset, tensor.size, tensor.stride
    if values is None:
        raise ValueError(f"the storage of tensor {name!r:.80} is missing")
    if not len(size) == len(stride) <= MAX_DIMENSIONS or not all(
        type(number) is int and 0 <= number <= file_size for number in (offset, *size, *stride)
    ):
        raise ValueError(f"tensor {name!r:.80} has an impossible shape")
    if math.prod(size) * values.itemsize > file_size:
        raise ValueError(f"tensor {name!r:.80} of size {size} would be larger than the file")
    if 0 in size:
        return np.zeros(size, values.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if last >= len(values):
        raise ValueError(
            f"tensor {name!r:.80} reaches outside its storage: offset {offset}, size {size} and stride {stride} of "
            f"{len(values)} numbers"
        )
    strides = [step * values.itemsize for step in stride]
    return np.ndarray(size, values.dtype, values, offset * values.itemsize, strides)


def _read_legacy(content):
    """Five pickles (magic number, version, system, tensors, order of storages), then each storage: length and bytes."""
    stream = io.BytesIO(content)
    storages = {}
    if not content.startswith(b"\x80") or _unpickle(stream, storages) != LEGACY_MAGIC:
        raise ValueError("it does not begin as a file of `torch.save` does")
    if _unpickle(stream, storages) != LEGACY_VERSION:
        raise ValueError(f"its version is not {LEGACY_VERSION}")
    if _checked(_unpickle(stream, storages), dict).get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    entries = _checked(_unpickle(stream, storages), dict)
    _check(entries, storages, content)
    order = _checked(_unpickle(stream, storages), list)
    for key in order:
        storage = storages[_checked(key, str)]
        (length,) = struct.unpack("<q", stream.read(8))
        if length != storage.length:
            raise ValueError(f"storage {key!r:.80} has {length} numbers, not {storage.length}")
        storage.fill(key, stream.read(length * storage.dtype.itemsize))
    return entries


def _read_zip(content):
    """An archive of one folder with the pickle, `data.pkl`, and a file in `data/` for each storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in members:
            raise ValueError("it is an archive without `data.pkl`")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("it is a compressed archive, which `torch.save` never writes")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise ValueError("its numbers are not little-endian")
        storages = {}
        entries = _checked(_unpickle(io.BytesIO(archive.read(members["data.pkl"])), storages), dict)
        _check(entries, storages, content)
        for key, storage in storages.items():
            storage.fill(key, archive.read(members[f"data/{key}"]))
    return entries


def _check(entries, storages, content):
    """Raises, before memory is taken for them, unless all entries are tensors and the file can hold their storages."""
    for name, entry in entries.items():
        if type(entry) is not _Tensor:
            raise ValueError(f"its entry {name!r:.80} is of type `{type(entry).__name__}`, not a tensor")
    total = sum(storage.length * storage.dtype.itemsize for storage in storages.values())
    if total > len(content):
        raise ValueError(f"it is cut off: it should hold {total} bytes of tensors and has {len(content)} in all")


def _unpickle(stream, storages):
    """Interprets one pickle: numbers, texts, lists, dictionaries with texts as keys, `_Tensor`s, and no more.

    Args:
        stream: file at the start of the pickle; afterwards at its end.
        storages: dictionary that takes the `_Storage`s which the pickle speaks of.

    Returns:
        What the pickle builds.

    Raises:
        ValueError: if it asks for anything else.
        IndexError, KeyError, TypeError: if it makes no sense.
    """
    stack, outer, memo = [], [], {}
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(reversed(items)))
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                _checked(stack[-1], list).append(item)
            case "APPENDS":
                items, stack = stack, outer.pop()
                _checked(stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _checked(stack[-1], dict)[_checked(key, str)] = value
            case "SETITEMS":
                items, stack = stack, outer.pop()
                keys = [_checked(key, str) for key in items[::2]]
                _checked(stack[-1], dict).update(zip(keys, items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(module, name))
            case "REDUCE":
                arguments, function = _checked(stack.pop(), tuple), _checked(stack.pop(), types.FunctionType)
                stack.append(function(*arguments))
            case "BUILD":  # attributes of an OrderedDict: the `_metadata` of a state_dict, of no use here
                stack.pop()
                _checked(stack[-1], dict)
            case "BINPERSID":
                stack.append(_storage(stack.pop(), storages))
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"its pickle has the opcode {name}, which no dictionary of tensors needs")


def _checked(value, kind):
    """`value`, if it is just of type `kind`."""
    if type(value) is not kind:
        raise ValueError(f"it has `{type(value).__name__}` where a dictionary of tensors has `{kind.__name__}`")
    return value


def _known(module, name):
    """Our stand-in for a name that the pickle asks to import."""
    name = f"{_checked(module, str)}.{_checked(name, str)}"
    if name.startswith("torch.") and name.endswith("Storage") and name not in GLOBALS:
        raise ValueError(f"its `{ascii(name)[1:-1]:.80}` is not read here: convert its tensors with `.float()` first")
    if name not in GLOBALS:
        raise ValueError(f"it asks to run `{ascii(name)[1:-1]:.80}`; nothing was run")
    return GLOBALS[name]


def _storage(description, storages):
    """The `_Storage` that a pickle's persistent id describes; one for each key."""
    match description:
        case ("storage", np.dtype() as dtype, str(key), str(), int(length), *view) if all(
            part is None for part in view
        ):
            if length < 0 or storages.setdefault(key, _Storage(dtype, length)) != _Storage(dtype, length):
                raise ValueError(f"storage {key!r:.80} is described in an impossible way")
            return storages[key]
    raise ValueError("a storage is described in an unknown way")


def _ordered_dict():
    return {}


def _tensor(storage, offset, size, stride, requires_grad, hooks, metadata=None):
    return _Tensor(_checked(storage, _Storage), offset, _checked(size, tuple), _checked(stride, tuple))


def _parameter(tensor, requires_grad, hooks):
    return _checked(tensor, _Tensor)


GLOBALS = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.BoolStorage": np.dtype("?"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
}
