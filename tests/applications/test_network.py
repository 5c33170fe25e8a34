import inspect
import io

import keras
import numpy as np
import pytest
from conftest import flat_layers
from conftest import tiny_hybrid
from conftest import tiny_network
from keras import ops

from keras_mnv4 import applications
from keras_mnv4.applications import MobileNetV4ConvMedium
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.applications import MobileNetV4HybridLarge
from keras_mnv4.applications import Preprocessing
from keras_mnv4.layers import ConvNormAct


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


@pytest.mark.once
def test_the_table_of_all_networks_has_every_constructor():
    functions = {name: getattr(applications, name) for name in applications.__all__}
    functions = {name: each for name, each in functions.items() if inspect.isfunction(each)}
    built = {name for name, each in functions.items() if "weights" in inspect.signature(each).parameters}
    assert set(applications.ARCHITECTURES) == built - {"build_network"}
    assert all(isinstance(each, applications.Architecture) for each in applications.ARCHITECTURES.values())


@pytest.mark.once
def test_wide_models_grow_stem_and_head():
    model = MobileNetV4ConvSmall(weights=None, alpha=1.5, input_shape=(32, 32, 3))
    assert model.get_layer("stem").filters == 48
    assert model.get_layer("head").filters == 1920


@pytest.mark.once
def test_preprocessing_takes_bytes(pictures):
    bytes_in = tiny_network()
    scaled_in = tiny_network(include_preprocessing=False)
    scaled_in.set_weights(bytes_in.get_weights())
    expected = scaled_in.predict(pictures / 128 - 1, verbose=0)
    np.testing.assert_allclose(bytes_in.predict(pictures, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_preprocessing_of_a_checkpoint_scales_each_colour(data_format, pictures):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        layer = Preprocessing(mean=(1.0, 2.0, 3.0), std=(10.0, 20.0, 30.0)).make_layer()
        layer = type(layer).from_config(layer.get_config())
        axes = (0, 3, 1, 2) if data_format == "channels_first" else (0, 1, 2, 3)
        outputs = ops.convert_to_numpy(layer(pictures.transpose(axes)))
    finally:
        keras.config.set_image_data_format(before)
    expected = (pictures - [1, 2, 3]) / [10, 20, 30]
    np.testing.assert_allclose(outputs, expected.transpose(axes), atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize(("size", "crop", "resized"), [(224, 0.875, 256), (224, 0.95, 235), (384, 0.95, 404)])
def test_photos_are_resized_and_cropped_as_timm_does(size, crop, resized):
    """The middle of a photo whose shorter side has that many pixels; one grey stays that grey."""
    from PIL import Image

    ramp = np.tile(np.arange(2 * resized) // 2 % 256, (resized, 1)).astype("uint8")
    prepared = Preprocessing(size=size, crop=crop).prepare(Image.fromarray(ramp))
    assert prepared.shape == (size, size, 3)
    left = (2 * resized - size) // 2
    np.testing.assert_array_equal(prepared[0, :, 0], ramp[0, left : left + size])  # nothing to resize: only cropped
    grey = Preprocessing(size=size, crop=crop).prepare(Image.new("L", (301, 977), 77))
    assert (grey == 77).all()


@pytest.mark.once
def test_photos_are_prepared_upright_and_of_one_byte():
    from PIL import Image

    halves = Image.fromarray(np.repeat(np.array([[255, 0]], "uint8"), 32, 0).repeat(16, 1))
    exif = halves.getexif()
    exif[0x0112] = 6  # the camera was turned: left is up
    file = io.BytesIO()
    halves.save(file, "JPEG", exif=exif)
    prepared = Preprocessing(size=32).prepare(Image.open(file))
    assert prepared[:12].min() > 200
    assert prepared[20:].max() < 50
    deep = Image.fromarray(np.full((32, 32), 128 * 256, "uint16"))
    assert (Preprocessing(size=32).prepare(deep) == 128).all()


@pytest.mark.once
def test_drop_path_grows_linearly():
    model = MobileNetV4ConvMedium(weights=None, drop_path_rate=0.23, input_shape=(64, 64, 3))
    rates = [layer.drop_path_rate for layer in model.layers if hasattr(layer, "drop_path_rate")]
    np.testing.assert_allclose(rates, 0.01 * np.arange(22))  # of 23 blocks the last is a convolution


@pytest.mark.once
def test_another_activation_for_hardware_without_gelu():
    model = MobileNetV4HybridLarge(weights=None, include_top=False, activation="hard_swish")
    activations = {layer.activation.__name__ for layer in flat_layers(model, ConvNormAct)}
    assert activations == {"linear", "hard_silu"}
    gelu = MobileNetV4HybridLarge(weights=None, include_top=False)
    assert gelu.get_layer("stem").activation is keras.activations.gelu


@pytest.mark.once
def test_channels_first_networks_compute():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolutions on the CPU")
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        model = tiny_network(input_shape=(3, 32, 32))
        assert model(np.zeros((1, 3, 32, 32), "float32")).shape == (1, 3)
    finally:
        keras.config.set_image_data_format(before)


@pytest.mark.once  # of attention alone, on every backend: tests/layers/test_attention.py
def test_hybrids_survive_a_file(tmp_path):
    model = tiny_hybrid(input_shape=(64, 96, 3))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype("float32")
    expected = model.predict(pictures, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), expected)


def test_a_file_of_weights_gives_the_same_outputs(tmp_path, pictures):
    model = tiny_network()
    expected = model.predict(pictures, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(pictures, verbose=0), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    again = tiny_network(weights=tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), expected)
