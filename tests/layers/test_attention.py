import keras
import numpy as np
import pytest
from keras import ops

from keras_mnv4.layers import LayerScale
from keras_mnv4.layers import MobileMQA
from keras_mnv4.layers import SpatialAttention


def softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_is_attention_written_out(kv_heads):
    """Multi-query, grouped-query and multi-head attention, head by head."""
    layer = SpatialAttention(12, num_heads=4, key_dim=8, kv_heads=kv_heads)
    inputs = np.random.default_rng(0).normal(size=(2, 5, 3, 12)).astype("float32")
    outputs = ops.convert_to_numpy(layer(inputs))
    query, key, value, output = (part.kernel.numpy()[0, 0] for part in layer.convolutions)
    pixels = inputs.reshape(2, 15, 12)
    heads = []
    for head in range(4):
        own = slice(8 * head, 8 * head + 8)
        shared = slice(8 * (head * kv_heads // 4), 8 * (head * kv_heads // 4) + 8)
        logits = (pixels @ query[:, own]) @ (pixels @ key[:, shared]).transpose(0, 2, 1) / np.sqrt(8)
        heads.append(softmax(logits) @ (pixels @ value[:, shared]))
    expected = np.concatenate(heads, -1) @ output
    np.testing.assert_allclose(outputs, expected.reshape(outputs.shape), atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"kv_strides": 2}, {"query_strides": 2, "kv_heads": 2}])
def test_channels_first_is_channels_last_transposed(arguments):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolutions on the CPU")
    inputs = np.random.default_rng(0).normal(size=(2, 8, 6, 12)).astype("float32")
    last = MobileMQA(12, num_heads=4, key_dim=8, data_format="channels_last", **arguments)
    first = MobileMQA(12, num_heads=4, key_dim=8, data_format="channels_first", **arguments)
    first.build((2, 12, 8, 6))
    last.build(inputs.shape)
    first.set_weights(last.get_weights())
    expected = ops.convert_to_numpy(last(inputs)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ops.convert_to_numpy(first(inputs.transpose(0, 3, 1, 2))), expected, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"kv_strides": 2}, {"query_strides": 2}, {"kv_heads": 4}])
def test_sizes_need_not_be_known(arguments):
    """The layer built for any size does what the one built for a size does, odd ones included."""
    inputs = keras.Input((None, None, 12))
    layer = MobileMQA(12, num_heads=4, key_dim=8, **arguments)
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, 12)
    for height, width in ((8, 8), (7, 5), (4, 9)):
        features = np.random.default_rng(0).normal(size=(2, height, width, 12)).astype("float32")
        fixed = keras.Input((height, width, 12))
        again = MobileMQA.from_config(layer.get_config())
        known = keras.Model(fixed, again(fixed))
        known.set_weights(model.get_weights())
        outputs = model.predict(features, verbose=0)
        assert outputs.shape == features.shape
        np.testing.assert_allclose(outputs, known.predict(features, verbose=0), atol=1e-5)


def test_survives_a_file(tmp_path):
    inputs = keras.Input((8, 8, 12))
    block = MobileMQA(12, num_heads=2, key_dim=8, kv_strides=2, query_strides=2, layer_scale=0.1, drop_path_rate=0.1)
    model = keras.Model(inputs, block(inputs))
    features = np.random.default_rng(0).normal(size=(2, 8, 8, 12)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(features, verbose=0), model.predict(features, verbose=0))


def test_layer_scale_starts_the_branch_near_nothing_and_learns():
    block = MobileMQA(12, num_heads=2, key_dim=8, layer_scale=1e-5)
    features = np.random.default_rng(0).normal(size=(2, 4, 4, 12)).astype("float32")
    np.testing.assert_allclose(ops.convert_to_numpy(block(features)), features, atol=1e-3)
    (scale,) = [layer for layer in block._flatten_layers() if isinstance(layer, LayerScale)]
    assert scale.gamma.shape == (12,)
    assert any(scale.gamma is each for each in block.trainable_variables)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="kv_heads=3"):
        SpatialAttention(32, num_heads=4, key_dim=8, kv_heads=3)


def test_strides_are_refused():
    with pytest.raises(ValueError, match="strides=2"):
        MobileMQA(16, num_heads=2, key_dim=4, strides=2)


def test_half_precision():
    block = MobileMQA(12, num_heads=2, key_dim=8, kv_strides=2, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(block(np.ones((1, 4, 4, 12), "float32")).dtype) == "bfloat16"
