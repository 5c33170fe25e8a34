import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import randomize_statistics
from conftest import tiny_hybrid
from conftest import tiny_network as tiny
from keras import layers

from keras_mnv4 import qat
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers import MobileMQA
from keras_mnv4.layers.batch_norm import BatchNorm


def pictures(count=8, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("float32")


def test_same_layers_same_weights_and_nearly_the_same_outputs():
    model = randomize_statistics(tiny())
    quantized = qat.quantize_model(model)
    ours = {weight.path: weight for weight in quantized.weights}
    for weight in model.weights:
        np.testing.assert_array_equal(ours[weight.path].numpy(), weight.numpy())
    added = {path.rsplit("/", 1)[0].rsplit("/", 1)[-1] for path in set(ours) - {w.path for w in model.weights}}
    assert added <= {"kernel_quantizer", "output_quantizer", "add_quantizer", "avg_pool_quantizer"}
    names = [layer.name for layer in quantized.layers[1:] if not isinstance(layer, qat.FakeQuantize)]
    assert names == [layer.name for layer in model.layers[1:]]

    qat.calibrate(quantized, pictures())
    difference = np.abs(quantized.predict(pictures(), verbose=0) - model.predict(pictures(), verbose=0)).max()
    assert 0 < difference < 0.05


def test_weight_ranges_are_those_of_the_weights():
    quantized = qat.quantize_model(tiny())
    conv_layer = quantized.get_layer("block_2").chain[0]  # depthwise, (3, 3, channels, 1)
    largest = np.abs(conv_layer.kernel.numpy()).max((0, 1, 3))
    np.testing.assert_array_equal(conv_layer.kernel_quantizer._state["max_var"].numpy(), largest)
    np.testing.assert_array_equal(conv_layer.kernel_quantizer._state["min_var"].numpy(), -largest)


def test_bytes_enter_on_their_own_grid():
    """Scale 1/128 and the zero at 128, so that an integer file's input is the picture itself."""
    quantized = qat.quantize_model(tiny())
    enter = keras.Model(quantized.input, quantized.get_layer("preprocessing_quantizer").output)
    grey = np.arange(256).reshape(1, 16, 16, 1).repeat(3, -1)
    ramp = np.tile(grey, (1, 2, 2, 1)).astype("float32")
    np.testing.assert_array_equal(enter.predict(ramp, verbose=0), ramp / 128 - 1)


def test_inputs_without_preprocessing_follow_the_policy():
    quantized = qat.quantize_model(tiny(include_preprocessing=False))
    (entry,) = [layer for layer in quantized.layers if isinstance(layer, qat.FakeQuantize)][:1]
    assert entry.quantizer == qat.MovingAverageQuantizer(8)
    assert entry.input is quantized.input


def test_trains_with_fit_and_keeps_everything_in_its_file(tmp_path):
    quantized = qat.quantize_model(randomize_statistics(tiny()))
    labels = np.arange(8) % 3
    coloured = pictures() / 2
    coloured[np.arange(8), :, :, labels] += 127  # to be learnt by any rounding of the sums
    qat.calibrate(quantized, coloured)
    quantized.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    before = [variable.numpy() for variable in quantized.trainable_variables]
    losses = quantized.fit(coloured, labels, epochs=24, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    for variable, old in zip(quantized.trainable_variables, before, strict=True):
        assert np.any(variable.numpy() != old), variable.path
    kernel_range = quantized.get_layer("stem").kernel_quantizer._state["max_var"].numpy()
    assert np.any(kernel_range != np.abs(before[0]).max((0, 1, 2)))  # ranges follow the weights

    quantized.save(tmp_path / "quantized.keras")
    loaded = keras.models.load_model(tmp_path / "quantized.keras")
    np.testing.assert_array_equal(loaded.predict(pictures(), verbose=0), quantized.predict(pictures(), verbose=0))


def test_a_rule_without_quantizers_leaves_a_part_in_float():
    policy = qat.Policy((qat.Rule("predictions/.*"), *qat.get_policy("w8a8").rules))
    quantized = qat.quantize_model(tiny(), policy)
    assert quantized.get_layer("predictions").conv.kernel_quantizer is None
    assert quantized.get_layer("stem").kernel_quantizer is not None


def test_stock_layers_are_followed_by_a_quantizer():
    inputs = keras.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(layers.MaxPooling2D(2)(inputs))
    outputs = layers.Flatten()(layers.Add(name="sum")([pooled, pooled]))
    quantized = qat.quantize_model(keras.Model(inputs, outputs))
    added = [layer.name for layer in quantized.layers if isinstance(layer, qat.FakeQuantize)]
    assert added[1:] == ["pool_quantizer", "sum_quantizer"]
    assert len(added) == 3  # and one for the input


def test_layers_that_cannot_be_quantised_are_named_with_the_way_out():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2DTranspose(4, 3, name="foreign")(inputs))
    with pytest.raises(ValueError, match=r"`foreign` \(Conv2DTranspose\).*Rule\('foreign'\)"):
        qat.quantize_model(model)
    left_alone = qat.Policy((qat.Rule("foreign"), *qat.get_policy("w8a8").rules))
    assert qat.quantize_model(model, left_alone).get_layer("foreign").filters == 4


def test_a_model_inside_a_model_is_refused_with_the_way_out():
    inputs = keras.Input((32, 32, 3))
    with pytest.raises(ValueError, match=r"`tiny` \(Functional\).*`input_tensor`"):
        qat.quantize_model(keras.Model(inputs, tiny()(inputs)))


def test_inputs_in_a_list_are_quantised_once():
    inputs = keras.Input((8, 8, 3))
    quantized = qat.quantize_model(keras.Model(inputs, layers.Add(name="sum")([inputs, inputs])))
    assert len([layer for layer in quantized.layers if isinstance(layer, qat.FakeQuantize)]) == 2


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_normalisations_without_scale_or_center(options):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, BatchNorm(**options)(inputs))
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, pictures)
    np.testing.assert_allclose(quantized(pictures), model(pictures), atol=0.02)


def test_a_twin_is_not_quantised_again():
    quantized = qat.quantize_model(tiny())
    with pytest.raises(ValueError, match="is quantised already: give the float model"):
        qat.quantize_model(quantized, "w4a8")


def test_a_shared_relu_takes_no_name_that_another_layer_has():
    """Keras numbers layers of a kind in the same way as the calls of a shared one are numbered."""
    inputs = keras.Input((32, 32, 3))
    shared = layers.ReLU(name="relu")
    maps = layers.Rescaling(1 / 128, -1.0)(inputs)
    for act in (shared, shared, shared, layers.ReLU(name="relu_2")):
        maps = act(layers.Conv2D(4, 3)(maps))
    quantized = qat.quantize_model(keras.Model(inputs, maps))
    names = [layer.name for layer in quantized.layers if isinstance(layer, layers.ReLU)]
    assert names == ["relu", "relu_3", "relu_4", "relu_2"]


def test_a_layer_without_a_rule_is_an_error():
    policy = qat.Policy((qat.Rule("input", outputs=qat.MovingAverageQuantizer(8)),), name="partial")
    with pytest.raises(ValueError, match="No rule of policy `partial` matches `stem`"):
        qat.quantize_model(tiny(), policy)


@pytest.mark.parametrize("model", [keras.Sequential([layers.Dense(2)]), "model.keras", None])
def test_only_functional_models(model):
    with pytest.raises(ValueError, match="Functional"):
        qat.quantize_model(model)


@pytest.mark.tensorflow
def test_tf_keras_and_the_environment_stay_as_they_were():
    """TFMOT redirects `tf.keras` to Keras 2 and sets a variable; a program that uses QAT must not notice."""
    code = """
import os
before = dict(os.environ)
import keras, numpy as np, tensorflow as tf
from keras_mnv4 import qat
from keras_mnv4.applications import MobileNetV4ConvSmall
quantized = qat.quantize_model(MobileNetV4ConvSmall(weights=None, classes=2, input_shape=(32, 32, 3), alpha=0.35))
qat.calibrate(quantized, np.zeros((1, 32, 32, 3)))
assert type(quantized.get_layer("stem").output_quantizer.engine.quantizer).__module__.startswith("tensorflow_model")
assert tf.keras.__version__ == keras.__version__, tf.keras.__version__
assert tf.keras.layers.Layer is keras.layers.Layer
changed = {key for key in {*before, *os.environ} if before.get(key) != os.environ.get(key)}
assert "TF_USE_LEGACY_KERAS" not in os.environ and not {key for key in changed if "KERAS" in key}, changed
print("changed:", sorted(changed))
"""
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_float_model_is_left_as_it_was():
    model = tiny()
    before = model.get_weights()
    qat.quantize_model(model, "w4a8")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "obstacle"),
    [
        (MobileMQA(8, num_heads=2, key_dim=4, kv_heads=2, name="block"), "several heads of keys"),
        (MobileMQA(8, num_heads=2, key_dim=4, query_strides=2, name="block"), "query strides"),
    ],
)
def test_what_cannot_be_quantised_yet_is_named_with_the_way_out(layer, obstacle):
    inputs = keras.Input((8, 8, 8))
    model = keras.Model(inputs, layer(inputs))
    layer = layer.name
    with pytest.raises(ValueError, match=rf"`{layer}` .* because of its {obstacle}\. .*Rule\('{layer}\.\*'\)"):
        qat.quantize_model(model)
    qat.quantize_model(model, qat.Policy((qat.Rule(f"{layer}.*"), *qat.get_policy("w8a8").rules)))


@pytest.mark.once
def test_attention_is_quantised_throughout(tmp_path):
    model = randomize_statistics(tiny_hybrid(classifier_activation=None))
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, pictures())
    attention = quantized.get_layer("block_3").chain[1]
    for layer in attention.convolutions:
        assert layer.kernel_quantizer is not None
        assert layer.output_quantizer is not None
    assert [quantizer.quantizer.num_bits for quantizer in attention.quantizers.values()] == [8, 8, 8]
    low, high = attention.key.output_quantizer.range
    assert low == -high
    expected, outputs = (np.array(each(pictures(), training=False)) for each in (model, quantized))
    assert np.abs(outputs - expected).max() < 0.1 * np.ptp(expected)
    # One picture goes another way, without the axis of pictures.
    one = np.concatenate([np.array(quantized(picture[None], training=False)) for picture in pictures()])
    np.testing.assert_allclose(one, outputs, atol=0.02 * np.ptp(expected))
    quantized.save(tmp_path / "hybrid.keras")
    again = keras.models.load_model(tmp_path / "hybrid.keras")
    np.testing.assert_array_equal(np.array(again(pictures(), training=False)), outputs)


@pytest.mark.parametrize("kind", ["average", "blur"])
def test_anti_aliasing_keeps_the_grid(kind):
    layer = ConvNormAct(8, 3, strides=2, activation="relu", anti_aliasing=kind)
    layer = quantized_layer(layer, pictures())
    outputs = np.array(layer(pictures(), training=False))
    scale = np.float32(layer.output_quantizer.range[1] / 255)
    np.testing.assert_allclose(outputs / scale, np.round(outputs / scale), atol=1e-3)


def quantized_layer(layer, inputs):
    """The quantised twin of a layer, calibrated on `inputs`."""
    entrance = keras.Input(inputs.shape[1:])
    model = qat.quantize_model(keras.Model(entrance, layer(entrance)))
    qat.calibrate(model, inputs)
    return model.get_layer(layer.name)


@pytest.mark.once
def test_a_rule_that_decides_nothing_is_warned_of():
    rules = (qat.Rule("steem"), *qat.get_policy("w8a8").rules)
    with pytest.warns(UserWarning, match=r"Rule\('steem'\) .* matches none"):
        qat.quantize_model(tiny(), qat.Policy(rules))


@pytest.mark.once
def test_frozen_networks_stay_frozen_in_files_and_twins(tmp_path):
    model = randomize_statistics(tiny())
    model.trainable = False
    model.save(tmp_path / "frozen.keras")
    for again in (keras.models.load_model(tmp_path / "frozen.keras"), qat.quantize_model(model)):
        assert not again.trainable_variables
        before = again.get_layer("stem").norm.moving_mean.numpy().copy()
        again(pictures(), training=True)
        np.testing.assert_array_equal(again.get_layer("stem").norm.moving_mean.numpy(), before)


def freeze_all_but_the_last(model):
    model.get_layer("block_1").trainable = False
    model.get_layer("block_1").chain[-1].trainable = True


@pytest.mark.once
@pytest.mark.parametrize(
    "freeze",
    [
        qat.freeze_statistics,
        lambda model: setattr(model.get_layer("block_1").chain[0], "trainable", False),
        freeze_all_but_the_last,
    ],
)
def test_frozen_layers_inside_blocks_stay_frozen_in_files_and_clones(freeze, tmp_path):
    model = tiny()
    everything = len(model.trainable_variables)
    freeze(model)
    paths = [variable.path for variable in model.trainable_variables]
    assert 0 < len(paths) < everything
    model.save(tmp_path / "frozen.keras")
    for again in (keras.models.load_model(tmp_path / "frozen.keras"), keras.models.clone_model(model)):
        assert [variable.path for variable in again.trainable_variables] == paths


@pytest.mark.once
def test_twins_start_with_unfrozen_statistics():
    model = tiny()
    expected = [variable.path for variable in qat.quantize_model(model).trainable_variables]
    qat.freeze_statistics(model)
    assert [variable.path for variable in qat.quantize_model(model).trainable_variables] == expected


@pytest.mark.once
def test_frozen_statistics_stay_while_weights_train():
    quantized = qat.quantize_model(randomize_statistics(tiny()))
    qat.calibrate(quantized, pictures())
    qat.freeze_statistics(quantized)
    quantized.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    norm, kernel = quantized.get_layer("stem").norm, quantized.get_layer("stem").kernel
    before = [np.array(weight.numpy()) for weight in (*norm.weights, kernel)]
    quantized.fit(pictures(), np.arange(8) % 3, verbose=0)
    for weight, old in zip(norm.weights, before, strict=False):
        np.testing.assert_array_equal(weight.numpy(), old)
    assert np.any(kernel.numpy() != before[-1])
