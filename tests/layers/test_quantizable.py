import keras
import numpy as np
import pytest

from keras_mnv4 import layers
from keras_mnv4.qat import LastValueQuantizer
from keras_mnv4.qat import LayerQuantization
from keras_mnv4.qat import QuantizeWrapper

HOW = LayerQuantization(weights=LastValueQuantizer(per_axis=True, symmetric=True, narrow_range=True))
BLOCKS = {
    "uib": lambda how: layers.UniversalInvertedBottleneck(8, expansion=2, middle_kernel=3, quantization=how),
    "attention": lambda how: layers.MobileMQA(8, num_heads=2, key_dim=4, quantization=how),
    "unit": lambda how: layers.ResidualUnit(8, quantization=how),
    "classifier": lambda how: layers.Classifier(8, quantization=how),
    "wrapper": lambda how: QuantizeWrapper(keras.layers.Dense(8, "sigmoid"), quantization=how),
}
LAYERS = {
    "convolution": lambda how: layers.ConvNormAct(8, quantization=how),
    "wrapper": lambda how: QuantizeWrapper(keras.layers.Conv2D(8, 1), quantization=how),
}
MAPS = np.zeros((1, 8, 8, 8), "float32")


def inputs_of(block):
    return MAPS[:, :1, :1] if block == "classifier" else MAPS


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_take_quantisations_of_their_parts_only(block):
    layer = BLOCKS[block](None)
    layer(inputs_of(block))
    *_, part = layer.quantizable_parts
    BLOCKS[block]({part: HOW})(inputs_of(block))
    with pytest.raises(ValueError, match=f"must be a dictionary .*'{part}'. Received: parts 'mistyped'"):
        BLOCKS[block]({"mistyped": HOW})(inputs_of(block))
    with pytest.raises(ValueError, match=f"must be a dictionary .*'{part}'. Received: LayerQuantization"):
        BLOCKS[block](HOW)(inputs_of(block))


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_one_part_take_one_quantisation(kind):
    LAYERS[kind](HOW)(MAPS)
    with pytest.raises(ValueError, match="must be one `LayerQuantization`. Received: parts 'mistyped'"):
        LAYERS[kind]({"mistyped": HOW})(MAPS)
