"""Checkpoints: found, fetched from a Hub, read with every tensor accounted for, and refused if anything is wrong."""

import dataclasses
import hashlib
import http.server
import pathlib
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import SMALL
from conftest import tiny_network
from golden import reference

from keras_mnv4 import applications
from keras_mnv4.applications import CHECKPOINTS
from keras_mnv4.applications import UIB
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import MobileNetV4HybridMedium
from keras_mnv4.applications import Preprocessing
from keras_mnv4.applications import build_network
from keras_mnv4.applications import layouts
from keras_mnv4.applications import weights

safetensors = pytest.importorskip("safetensors.numpy")
NARROW = {"alpha": 0.5}  # the smallest network with a published checkpoint
REPOSITORY = "mobilenetv4_conv_small_050.e3000_r224_in1k"


def shapes_of(model):
    return {name: slot.shape for name, slot in layouts.timm_tensors(model).items()}


@pytest.fixture(scope="module")
def state():
    """A checkpoint of ConvSmall at width 0.5, as timm writes them: counters and all."""
    model = MobileNetV4ConvSmall(weights=None, definition="timm", **NARROW)
    state = reference.state_dict(shapes_of(model))
    counters = {name.replace("running_var", "num_batches_tracked") for name in state if "running_var" in name}
    return state | {name: np.array(7, "int64") for name in counters}


@pytest.fixture
def placed(state, tmp_path, monkeypatch):
    """The checkpoint in a folder of files placed by hand."""
    monkeypatch.setenv(weights.HAND_PLACED, str(tmp_path))
    path = tmp_path / f"{REPOSITORY}.safetensors"
    safetensors.save_file(state, path)
    return path


def test_all_tags_of_timm_are_there():
    """24 of timm and 3 packages; a tag and a network name one checkpoint."""
    ours = [each for each in CHECKPOINTS if each.layout == "timm"]
    assert len(ours) == 24
    assert len({(each.architecture, each.alpha, each.tag) for each in ours}) == 24
    assert sum(each.classes == 1000 for each in ours) == 19
    assert {each.classes for each in ours} == {1000, 11821}
    small = ours[0]
    assert small.location.url == (
        "https://huggingface.co/timm/mobilenetv4_conv_small.e2400_r224_in1k/resolve/main/model.safetensors"
    )


@pytest.mark.once
@pytest.mark.parametrize("name", ["imagenet", "e3000_r224_in1k"])
def test_a_placed_checkpoint_is_loaded_as_it_was_trained(name, placed, state):
    model = MobileNetV4ConvSmall(weights=name, classifier_activation=None, **NARROW)
    assert model.input_shape == (None, 224, 224, 3)
    stem = model.get_layer("stem")
    assert (stem.padding, stem.norm.epsilon) == ("symmetric", 1e-5)
    np.testing.assert_array_equal(stem.kernel.numpy(), state["conv_stem.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        model.get_layer("predictions").conv.kernel.numpy()[0, 0], state["classifier.weight"].T
    )
    pictures = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype("float32")
    bare = MobileNetV4ConvSmall(
        weights=name, classifier_activation=None, include_preprocessing=False, name="bare", **NARROW
    )
    expected = bare.predict(pictures / 127.5 - 1, verbose=0)  # this checkpoint wants a mean and deviation of a half
    np.testing.assert_allclose(model.predict(pictures, verbose=0), expected, atol=1e-4 * np.abs(expected).max())


def test_without_top_its_tensors_are_left_out(placed, state):
    model = MobileNetV4ConvSmall(weights="imagenet", include_top=False, **NARROW)
    assert model.output_shape == (None, None, None, 480)
    last = model.get_layer("block_17").kernel.numpy()
    np.testing.assert_array_equal(last, state["blocks.4.0.conv.weight"].transpose(2, 3, 1, 0))


def test_a_path_of_timms_layout(state, tmp_path):
    safetensors.save_file(state, tmp_path / "mine.safetensors")
    model = MobileNetV4ConvSmall(weights=tmp_path / "mine.safetensors", **NARROW)
    assert model.get_layer("stem").padding == "symmetric"
    scale = np.asarray(model.get_layer("preprocessing").scale)
    np.testing.assert_allclose(scale, 1 / (255 * np.array([0.229, 0.224, 0.225])))


def test_the_classes_of_a_file_are_those_of_its_classifier(state, tmp_path):
    safetensors.save_file({**state, "classifier.bias": np.zeros(5, "float32")}, tmp_path / "timm.safetensors")
    assert weights.classes_in(tmp_path / "timm.safetensors") == 5
    model = MobileNetV4ConvSmall(weights=None, classes=7, input_shape=(32, 32, 3), alpha=0.25)
    model.save_weights(tmp_path / "seven.weights.h5")
    assert weights.classes_in(tmp_path / "seven.weights.h5") == 7
    body = MobileNetV4ConvSmall(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25)
    body.save_weights(tmp_path / "body.weights.h5")
    (tmp_path / "damaged.weights.h5").write_bytes(b"no weights")
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    for name in ("body.weights.h5", "damaged.weights.h5", "damaged.safetensors", "imagenet"):
        assert weights.classes_in(tmp_path / name) is None


def test_keras_files(tmp_path):
    model = tiny_network()
    model.save_weights(tmp_path / "model.weights.h5")
    model.save(tmp_path / "whole.h5")
    for name in ("model.weights.h5", "whole.h5"):
        again = tiny_network(weights=tmp_path / name)
        np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])
    with pytest.raises(ValueError, match="Build it with the `classes`"):
        tiny_network(weights=tmp_path / "model.weights.h5", classes=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"classes": 4},
            r"\(`predictions/conv/kernel` has shape \(1, 1, 64, 3\), the model wants \(1, 1, 64, 4\)\.\)$",
        ),
        ({"include_top": False, "alpha": 2.0}, r"\(`stem/kernel` has shape \(.*, 8\), the model wants \(.*, 16\)\.\)$"),
        ({"architecture": dataclasses.replace(SMALL, blocks=(*SMALL.blocks, UIB(16, expand=2)))}, r"'expand' expected"),
    ],
)
def test_what_does_not_fit_is_said_in_a_few_words(arguments, message, tmp_path):
    path = tmp_path / "model.weights.h5"
    arguments = {"architecture": SMALL, "classes": 3, "input_shape": (32, 32, 3), **arguments}
    build_network(SMALL, classes=3, input_shape=(32, 32, 3)).save_weights(path)
    with pytest.raises(ValueError, match=message) as caught:
        build_network(weights=path, **arguments)
    assert len(str(caught.value)) < 500 + len(str(path))


@pytest.mark.parametrize(("head", "tensors"), [(None, 2), (16, 7)])
def test_keras_files_have_a_top_that_networks_without_leave_out(head, tensors, tmp_path):
    table = dataclasses.replace(SMALL, head_filters=head)
    path = tmp_path / "model.weights.h5"
    model = build_network(table, classes=3, input_shape=(32, 32, 3), dropout_rate=0.1, drop_path_rate=0.1)
    model.save_weights(path)
    body = build_network(table, include_top=False, weights=path)
    assert len(weights.tensor_names(path)) - len(body.weights) == tensors
    for ours, theirs in zip(body.weights, model.weights, strict=False):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.once
def test_keras_files_of_networks_from_a_checkpoint_are_read_with_its_definition_and_preprocessing(tmp_path):
    path = tmp_path / "tuned.weights.h5"
    scaling = Preprocessing(mean=(124.0, 116.0, 104.0), std=(58.0, 57.0, 57.5))
    trained_as = {"definition": "timm", "include_preprocessing": scaling}
    tuned = tiny_network(**trained_as)
    tuned.save_weights(path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    again = tiny_network(weights=path, **trained_as)
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), tuned.predict(pictures, verbose=0))
    np.testing.assert_allclose(again.get_layer("preprocessing").scale, [1 / 58, 1 / 57, 1 / 57.5])
    with pytest.raises(ValueError, match=r"`Preprocessing` takes pictures of 3 channels.*\(32, 32, 1\)"):
        tiny_network(input_shape=(32, 32, 1), **trained_as)


@pytest.mark.once
def test_keras_files_of_fitted_models_are_read_without_their_optimizer(tmp_path):
    path = tmp_path / "fitted.weights.h5"
    arguments = {"classes": 3, "input_shape": (32, 32, 3), "drop_path_rate": 0.1}
    fitted = build_network(SMALL, **arguments)
    fitted.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    fitted.fit(np.zeros((2, 32, 32, 3)), np.zeros(2), verbose=0)
    fitted.save_weights(path)
    for include_top in (True, False):
        model = build_network(SMALL, include_top, path, **arguments)
        for ours, theirs in zip(model.weights, fitted.weights, strict=include_top):
            np.testing.assert_array_equal(ours, theirs)


def test_keras_files_of_longer_networks_are_refused(tmp_path):
    path = tmp_path / "longer.weights.h5"
    longer = dataclasses.replace(SMALL, blocks=(*SMALL.blocks, UIB(SMALL.blocks[-1].filters, expand=2, middle=3)))
    build_network(longer, classes=3, input_shape=(32, 32, 3)).save_weights(path)
    for include_top in (True, False):
        with pytest.raises(ValueError, match="tensors more than the model"):
            build_network(SMALL, include_top=include_top, classes=3, input_shape=(32, 32, 3), weights=path)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_keras_files_are_refused(share, tmp_path):
    path = tmp_path / "damaged.weights.h5"
    tiny_network().save_weights(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))] or b"hello")
    with pytest.raises(ValueError, match=r"damaged\.weights\.h5"):
        tiny_network(weights=path)


def test_files_of_ones_own_may_have_another_number_of_channels(tmp_path):
    own = build_network(SMALL, classes=3, input_shape=(32, 32, 1))
    tensors = {name: np.zeros(slot.shape, "float32") for name, slot in layouts.timm_tensors(own).items()}
    safetensors.save_file(tensors, tmp_path / "grey.safetensors")
    grey = build_network(SMALL, classes=3, input_shape=(32, 32, 1), weights=tmp_path / "grey.safetensors")
    assert grey.predict(np.zeros((1, 32, 32, 1)), verbose=0).sum() == pytest.approx(1)


def damage(state, how):
    if how == "missing":
        del state["bn1.weight"]
    elif how == "left over":
        state["blocks.9.0.conv.weight"] = np.zeros((1, 1, 1, 1), "float32")
    elif how == "shape":
        state["conv_stem.weight"] = state["conv_stem.weight"][:, :, :2]
    elif how == "not finite":
        state["bn1.bias"] = np.full_like(state["bn1.bias"], np.nan)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "`bn1.weight` is missing"),
        ("left over", r"`blocks.9.0.conv.weight` belongs nowhere"),
        ("shape", r"`conv_stem.weight` has shape \(32, 3, 2, 3\), the model wants \(32, 3, 3, 3\)"),
        ("not finite", "`bn1.bias` is not finite"),
    ],
)
def test_checkpoints_that_do_not_fit_change_nothing(how, message, state):
    model = MobileNetV4ConvSmall(weights=None, **NARROW)
    before = model.get_weights()
    wrong = dict(state)
    damage(wrong, how)
    with pytest.raises(ValueError, match=message):
        weights.assign_tensors(model, wrong, "timm", "wrong.safetensors")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return pathlib.Path.touch, (self.target,)


@pytest.mark.parametrize("kind", ["truncated", "hostile pickle", "other network"])
def test_files_that_are_no_checkpoint_are_refused(kind, placed, tmp_path):
    proof = tmp_path / "it ran"
    if kind == "truncated":
        placed.write_bytes(placed.read_bytes()[:-1000])
    elif kind == "hostile pickle":
        placed.write_bytes(pickle.dumps(Hostile(proof)))
    else:
        safetensors.save_file({"weight": np.zeros(3, "float32")}, placed)
    with pytest.raises(ValueError, match=r"not a whole safetensors file|do not fit"):
        MobileNetV4ConvSmall(weights="imagenet", **NARROW)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 10}, "1000 classes"),
        ({"classifier_activation": "sigmoid"}, "`classifier_activation`"),
        ({"input_shape": (224, 224, 4)}, "3 channels"),
        ({"weights": "e2400_r224_in1k"}, "'e3000_r224_in1k'"),
    ],
)
def test_arguments_that_the_weights_do_not_suit_are_refused(arguments, message, placed):
    with pytest.raises(ValueError, match=message):
        MobileNetV4ConvSmall(**{"weights": "imagenet", **NARROW, **arguments})


@pytest.mark.once
def test_widths_and_networks_without_checkpoint_say_so():
    with pytest.raises(ValueError, match="there is none"):
        MobileNetV4ConvSmall(alpha=0.35)
    with pytest.raises(ValueError, match="'ix_e550_r384_in1k'"):
        MobileNetV4HybridMedium(weights="e2400_r224_in1k")


class _FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as its client asks of it for one file."""

    content, declared = b"", ""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{self.declared}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


FETCH = """
import sys
from keras_mnv4.applications import MobileNetV4ConvSmall
try:
    model = MobileNetV4ConvSmall(alpha=0.5)
except (ConnectionError, ValueError) as error:
    print(type(error).__name__, error)
else:
    print(float(model.get_layer("stem").kernel.numpy().sum()))
"""


@pytest.fixture
def fetch(tmp_path):
    """A function that builds the network in a process of its own, with a Hub that serves `content`."""
    pytest.importorskip("huggingface_hub")
    servers = []

    def run(content, declared):
        handler = type("Handler", (_FakeHub,), {"content": content, "declared": declared})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{servers[-1].server_address[1]}" if content else "http://127.0.0.1:9"
        environment = {
            "PATH": "",
            "PYTHONPATH": str(pathlib.Path(weights.__file__).parents[2]),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # Without a network its client would try again for half a minute.
            "HF_HUB_OFFLINE": "" if content else "1",
            weights.HAND_PLACED: str(tmp_path / "none"),
            "KERAS_BACKEND": "tensorflow",
            "HOME": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-c", FETCH], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip().splitlines()[-1]

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.once
def test_the_hub_is_asked_once_and_believed_only_with_the_right_hash(fetch, state, tmp_path):
    content = safetensors.save(state)
    digest = hashlib.sha256(content).hexdigest()
    blob = tmp_path / "cache" / "hub" / f"models--timm--{REPOSITORY}" / "blobs" / digest
    damaged = content[:-4] + b"\0\0\0\1"
    assert "arrived damaged" in fetch(damaged, digest)
    assert not blob.exists()
    assert float(fetch(content, digest)) == pytest.approx(float(state["conv_stem.weight"].sum()), abs=1e-3)
    assert blob.exists()


@pytest.mark.once
def test_without_a_network_the_way_out_is_named(fetch, tmp_path):
    message = fetch(b"", "")
    assert message.startswith("ConnectionError")
    assert f"place it at '{tmp_path / 'none' / REPOSITORY}.safetensors'" in message


@pytest.mark.once
def test_a_layout_without_names_for_a_part_is_said(tmp_path):
    rows = (applications.Conv(8, kernel=3, stride=2), applications.Separable(8), applications.Conv(16, kernel=1))
    separable = applications.Architecture("separable", rows, default_size=32, head_filters=None)
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"conv_stem.weight": np.zeros((8, 3, 3, 3), "float32")}, path)
    with pytest.raises(ValueError, match=r"`weights` '.*' cannot be read into `.*`: the layout 'timm' has no names"):
        applications.build_network(separable, weights=path)
