"""TFMOT's own objects, and classes of one's own with its protocol, in rules."""

import hypothesis
import keras
import numpy as np
import pytest
from conftest import tiny_network
from hypothesis import strategies as st

from keras_mnv4 import qat
from keras_mnv4.qat import tfmot

pytestmark = pytest.mark.tensorflow


@keras.saving.register_keras_serializable(package="tests")
class Halves:
    """A quantiser of one's own: rounds to halves."""

    def __init__(self, largest=4.0):
        self.largest = largest

    def build(self, tensor_shape, name, layer):
        return {"count": layer.add_weight(name + "_count", keras.initializers.Constant(0.0), trainable=False)}

    def __call__(self, inputs, training, weights, **kwargs):
        import tensorflow as tf

        if training:
            weights["count"].assign_add(1.0)
        rounded = tf.clip_by_value(tf.round(inputs * 2) / 2, -self.largest, self.largest)
        return inputs + tf.stop_gradient(rounded - inputs)

    def get_config(self):
        return {"largest": self.largest}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_tfmots_own_quantisers_become_their_portable_twins():
    theirs = tfmot.import_tfmot_quantizers()
    rule = qat.Rule(
        ".*",
        weights=theirs.LastValueQuantizer(num_bits=4, per_axis=True, symmetric=True, narrow_range=True),
        outputs=theirs.AllValuesQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False),
    )
    assert rule.weights == qat.LastValueQuantizer(4, per_axis=True, symmetric=True, narrow_range=True)
    assert rule.outputs == qat.AllValuesQuantizer(8)


def test_a_class_of_ones_own_works_from_training_to_file(tmp_path):
    rules = (qat.Rule("block_1/expand", outputs=Halves()), *qat.get_policy("w8a8").rules)
    model = qat.quantize_model(tiny_network(), qat.Policy(rules))
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    qat.calibrate(model, pictures)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(pictures, np.arange(8) % 3, verbose=0)
    expand = model.get_layer("block_1").chain[0]
    outputs = np.array(expand(np.random.default_rng(0).normal(0, 2, (2, 16, 16, 8)).astype("float32")))
    assert set(np.unique(outputs)) <= set(np.arange(0, 4.5, 0.5))
    assert len(np.unique(outputs)) > 2
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), model.predict(pictures, verbose=0))


def test_a_subclass_of_tfmots_with_a_range_a_channel_works():
    last_value = tfmot.import_tfmot_quantizers().LastValueQuantizer

    @keras.saving.register_keras_serializable(package="tests")
    class Doubled(last_value):
        """Ranges twice as wide as the values need."""

        def __call__(self, inputs, training, weights, **kwargs):
            return super().__call__(2.0 * inputs, training, weights, **kwargs) / 2.0

    kernels = Doubled(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)
    rules = (qat.Rule("block_1/expand", weights=kernels), *qat.get_policy("w8a8").rules)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    model = qat.quantize_model(tiny_network(), qat.Policy(rules), pictures)
    qat.optimize_rounding(model, pictures)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(pictures, np.arange(8) % 3, verbose=0)
    expand = model.get_layer("block_1").chain[0]
    assert expand.kernel_quantizer.range[0].shape == expand.kernel.shape[-1:]


def test_a_quantize_config_becomes_a_rule():
    theirs = tfmot.import_tfmot_quantizers()
    from tensorflow_model_optimization.python.core.quantization.keras import quantize_config
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantizers

    class DenseQuantizeConfig(quantize_config.QuantizeConfig):
        """As in TFMOT's guide, with the weights that its own convolutions have."""

        def get_weights_and_quantizers(self, layer):
            return [(layer.kernel, default_8bit_quantizers.Default8BitConvWeightsQuantizer())]

        def get_activations_and_quantizers(self, layer):
            moving = theirs.MovingAverageQuantizer(num_bits=4, per_axis=False, symmetric=False, narrow_range=False)
            return [(layer.activation, moving)]

        def set_quantize_weights(self, layer, quantize_weights):
            pass

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    rule = qat.Rule.from_tfmot("head", DenseQuantizeConfig())
    assert rule.weights == qat.LastValueQuantizer(8, per_axis=True, symmetric=True, narrow_range=True)
    assert rule.outputs == qat.MovingAverageQuantizer(4)


@hypothesis.given(
    num_bits=st.integers(2, 8),
    narrow_range=st.booleans(),
    symmetric=st.booleans(),
    scales=st.lists(st.sampled_from([0.0, 1e-6, 0.1, 1.0, 3.0, 1e4]), min_size=3, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_gradients_per_channel_are_tfmots(num_bits, narrow_range, symmetric, scales, seed):
    import tensorflow as tf

    arguments = {"num_bits": num_bits, "per_axis": True, "symmetric": symmetric, "narrow_range": narrow_range}
    theirs = tfmot.import_tfmot_quantizers().LastValueQuantizer(**arguments)
    random = np.random.default_rng(seed)
    inputs = (random.normal(size=(3, 3, 4, 3)) * scales).astype("float32")
    upstream = tf.constant(random.normal(size=inputs.shape).astype("float32"))
    layer = qat.FakeQuantize(qat.LastValueQuantizer(**arguments))
    layer.build(inputs.shape)
    raw = {"min_var": tf.Variable(tf.zeros(3)), "max_var": tf.Variable(tf.zeros(3))}
    results = []
    for function in (lambda x: layer(x, training=True), lambda x: theirs(x, True, raw)):
        with tf.GradientTape() as tape:
            source = tf.constant(inputs)
            tape.watch(source)
            rounded = function(source)
        results.append((rounded.numpy(), tape.gradient(rounded, source, upstream).numpy()))
    for ours, reference in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, reference)
