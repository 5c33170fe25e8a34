import family
import numpy as np
import pytest
from conftest import TINY_RESNET
from conftest import randomize_statistics
from conftest import tiny_resnet
from golden import reference
from keras import ops

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Conv
from keras_mnv4.applications import ResNet18
from keras_mnv4.applications import ResNet50
from keras_mnv4.applications import build_network
from keras_mnv4.applications import feature_pyramid
from keras_mnv4.applications import layouts
from keras_mnv4.applications.resnet import ARCHITECTURES
from keras_mnv4.applications.resnet import COMMON
from keras_mnv4.applications.resnet import UNITS

# timm 1.0.31: parameters, and multiply-accumulates counted with hooks. ResNet-29: `ResNet(Bottleneck, [2, 2, 3, 2])`.
FIGURES = {
    **{each.build.__name__: (each.parameters, each.macs) for each in family.RESNETS.values()},
    "ResNet29": (17_112_360, 2_560_622_592),
    "ResNet34": (21_797_672, 3_663_761_408),
    "ResNet101": (44_549_160, 7_801_405_440),
    "ResNet152": (60_192_808, 11_513_626_624),
    "ResNet200": (64_673_832, 15_007_481_856),
}


@pytest.mark.once
@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_macs_are_timms(name):
    """By the table alone; test_parity.py counts models."""
    costs = cost.TableProfiler().profile(ARCHITECTURES[name])
    assert (costs.parameters, costs.macs) == FIGURES[name]


@pytest.mark.once
def test_wider_tables_cost_what_their_models_do():
    costs = cost.TableProfiler((32, 32, 3), 3).profile(TINY_RESNET, alpha=2.0)
    assert costs.layers == cost.profile(tiny_resnet(alpha=2.0)).layers


@pytest.mark.once
def test_aqts_figures_of_resnet50():
    exact = cost.TableProfiler().profile(ARCHITECTURES["ResNet50"])
    assert exact.aqt_cost("quadratic") == 1_046_831_169_536
    assert exact.aqt_cost("memory") == 16 * 25_502_912
    ratios = {"aqt_w8a8": (0.5, 0.25), "aqt_w4a4": (0.25, 0.0625), "aqt_w4a4_first_last_8": (0.2573, 0.0680)}
    for policy, expected in ratios.items():
        found = cost.TableProfiler(policy=policy).profile(ARCHITECTURES["ResNet50"])
        shares = [found.aqt_cost(kind) / exact.aqt_cost(kind) for kind in ("linear", "quadratic")]
        assert shares == pytest.approx(expected, abs=5e-5)


@pytest.mark.once
def test_the_stem_keeps_its_width():
    model = ResNet18(alpha=1.5, input_shape=(32, 32, 3))
    stem = model.get_layer("stem")
    assert (stem.filters, model.get_layer("block_2").filters) == (64, 96)
    assert (stem.padding, stem.norm.epsilon, stem.norm.momentum) == ("symmetric", 1e-5, 0.9)


@pytest.mark.once
def test_small_pictures_keep_their_size_in_another_stem():
    architecture = Architecture("small", (Conv(64, kernel=3), *UNITS["ResNet18"]), 32, **COMMON)
    model = build_network(architecture, alpha=0.125, classes=10)
    assert model.get_layer("stem").output.shape == (None, 32, 32, 64)
    assert model.get_layer("avg_pool").input.shape == (None, 4, 4, 64)


@pytest.mark.once
def test_a_file_of_timms_layout(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model = ResNet18(alpha=0.125)
    shapes = {name: slot.shape for name, slot in layouts.timm_resnet_tensors(model).items()}
    state = reference.state_dict(shapes)
    safetensors.save_file(state, tmp_path / "mine.safetensors")
    loaded = ResNet18(weights=tmp_path / "mine.safetensors", alpha=0.125)
    kernel = ops.convert_to_numpy(loaded.get_layer("block_4").shortcut.kernel)
    np.testing.assert_array_equal(kernel, state["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0))
    bare = ResNet18(weights=tmp_path / "mine.safetensors", alpha=0.125, include_top=False)
    assert bare.output_shape == (None, None, None, 64)
    with pytest.raises(ValueError, match=r"`layer1\.0\.bn3\.bias` is missing"):
        ResNet50(weights=tmp_path / "mine.safetensors", alpha=0.125)


@pytest.mark.once
def test_maps_for_detectors():
    model = tiny_resnet(include_top=False, input_shape=(64, 96, 3))
    maps = feature_pyramid(model, (1, 2, 3)).output
    shapes = {name: each.shape[1:] for name, each in maps.items()}
    assert shapes == {"C1": (32, 48, 8), "C2": (16, 24, 8), "C3": (8, 12, 32)}
    assert maps["C3"] is model.output


@pytest.mark.once
def test_sums_before_other_activations_cannot_be_quantised():
    model = tiny_resnet(activation="gelu")
    with pytest.raises(ValueError, match=r"because of its activation.*Rule\('block_2"):
        qat.quantize_model(model)


@pytest.mark.once
def test_quantised_training_starts_from_the_float_outputs():
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    model = randomize_statistics(tiny_resnet())
    quantized = qat.quantize_model(model, calibration_data=pictures)
    expected = model.predict(pictures, verbose=0)
    np.testing.assert_allclose(quantized.predict(pictures, verbose=0), expected, atol=0.05)
    again = type(model).from_config(quantized.get_config())
    assert again.get_config() == quantized.get_config()
