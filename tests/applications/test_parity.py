"""The same weights give the logits of timm and of the TensorFlow Model Garden."""

import pathlib

import family
import keras
import numpy as np
import pytest
from golden import reference
from keras import ops

from keras_mnv4 import applications
from keras_mnv4.applications import layouts
from keras_mnv4.applications.weights import assign_tensors

pytestmark = pytest.mark.no_cover  # pytest-cov's: what these run many times is covered elsewhere
GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
TIMM = family.TIMM | family.RESNETS
# Other widths and depths of what else is here: with `make test-slow`.
SLOW = ("conv_small_035", "conv_aa_large", "hybrid_medium_075", "hybrid_large_075", "resnet50")


def variants(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.once) for name in names]


@pytest.fixture(scope="module")
def timm():
    return {**np.load(GOLDEN / "timm_logits.npz"), **np.load(GOLDEN / "timm_resnet_logits.npz")}


@pytest.fixture(scope="module")
def model_garden():
    return np.load(GOLDEN / "model_garden_logits.npz")


def fill(model, layout="timm"):
    """Gives `model` the reference weights by the way that a checkpoint goes."""
    shapes = {name: slot.shape for name, slot in layouts.LAYOUTS[layout].name_tensors(model).items()}
    assign_tensors(model, reference.state_dict(shapes), layout, "reference.py")
    return shapes


def assert_close(outputs, expected, tolerance=5e-5):
    outputs = ops.convert_to_numpy(outputs)[..., reference.KEPT_CLASSES]
    assert np.abs(outputs - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("variant", variants(TIMM))
def test_timm(variant, timm):
    member = TIMM[variant]
    model = member.build(
        weights=None,
        alpha=member.alpha,
        input_shape=(None, None, 3),
        classifier_activation=None,
        definition="timm",
        include_preprocessing=False,
    )
    shapes = fill(model, member.layout)
    assert reference.digest(shapes) == timm[f"{variant}_digest"]
    for height, width in reference.SIZES:
        logits = model(reference.pictures(height, width), training=False)
        assert_close(logits, timm[f"{variant}_inference_{height}x{width}"])
    height, width = reference.SIZES[0]
    logits = model(reference.pictures(height, width), training=True)
    assert_close(logits, timm[f"{variant}_training_{height}x{width}"], 5e-4)


@pytest.mark.once
@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if "large" in name else ()) for name in family.MODEL_GARDEN],
)
def test_model_garden(variant, model_garden):
    build, _, parameters = family.MODEL_GARDEN[variant]
    model = build(
        weights=None,
        input_shape=(None, None, 3),
        classifier_activation=None,
        definition="model_garden",
        include_preprocessing=False,
    )
    assert reference.digest(fill(model)) == model_garden[f"{variant}_digest"]
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == parameters
    for height, width in reference.SQUARE_SIZES:
        logits = model(reference.pictures(height, width), training=False)
        assert_close(logits, model_garden[f"{variant}_{height}x{width}"])


@pytest.mark.once
@pytest.mark.parametrize("variant", variants(TIMM))
def test_parameters_and_macs_are_timms(variant, timm):
    from keras_mnv4 import cost

    member = TIMM[variant]
    model = member.build(weights=None, alpha=member.alpha, input_shape=(224, 224, 3))
    parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert parameters == member.parameters == timm[f"{variant}_params"]
    assert cost.profile(model).macs == member.macs
    assert model.get_layer("avg_pool").output.shape[-1] == member.channels


@pytest.mark.once
@pytest.mark.parametrize(("alpha", "parameters"), [(0.5, 2_236_184), (0.35, 1_902_616)])
def test_the_model_garden_narrows_the_stem(alpha, parameters):
    model = applications.MobileNetV4ConvSmall(weights=None, alpha=alpha, definition="model_garden")
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == parameters


@pytest.mark.parametrize("query_strides", [1, 2])
@pytest.mark.parametrize("kv_strides", [1, 2])
def test_attention_with_all_strides_is_timms(query_strides, kv_strides, timm):
    """No published network strides its queries, so the layer is held against timm's on its own."""
    from keras_mnv4.layers import SpatialAttention

    layer = SpatialAttention(
        32,
        num_heads=4,
        key_dim=8,
        query_strides=query_strides,
        kv_strides=kv_strides,
        padding="symmetric",
        norm_epsilon=1e-5,
    )
    inputs = reference.features(16, 16, 32)
    layer.build(inputs.shape)
    for name, slot in layouts.timm_attention_tensors(layer).items():
        slot.assign(reference.tensor(name, slot.shape))
    expected = timm[f"mqa_q{query_strides}_kv{kv_strides}"]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(inputs)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.once
def test_definitions_are_data():
    own = applications.Definition(padding="symmetric", norm_epsilon=1e-6, norm_momentum=0.95, narrows_stem=True)
    model = applications.MobileNetV4ConvSmall(weights=None, definition=own, alpha=0.5, padding="same")
    norm = model.get_layer("stem").norm
    assert (norm.epsilon, norm.momentum) == (1e-6, 0.95)
    assert model.get_layer("stem").filters == 16
    assert model.get_layer("stem").padding == "same"
    assert keras.activations.serialize(model.get_layer("block_1").activation) == "relu"
