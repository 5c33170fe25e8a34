import keras
import numpy as np
import pytest

from keras_mnv4 import layers
from keras_mnv4.qat import LastValueQuantizer
from keras_mnv4.qat import LayerQuantization
from keras_mnv4.qat import Policy
from keras_mnv4.qat import QuantizeWrapper
from keras_mnv4.qat import Rule
from keras_mnv4.qat import quantize_model

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
    with pytest.raises(ValueError, match=rf"must be a dictionary .*'{part}'. Received: parts 'mistyped'"):
        BLOCKS[block]({"mistyped": HOW})(inputs_of(block))
    with pytest.raises(ValueError, match=rf"must be a dictionary .*'{part}'. Received: LayerQuantization"):
        BLOCKS[block](HOW)(inputs_of(block))


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_one_part_take_one_quantisation(kind):
    LAYERS[kind](HOW)(MAPS)
    with pytest.raises(ValueError, match=r"must be one `LayerQuantization`. Received: parts 'mistyped'"):
        LAYERS[kind]({"mistyped": HOW})(MAPS)


@pytest.mark.parametrize("kind", ["convolution", "sum", "pooling"])
def test_ranges_of_each_channel_run_along_the_channels(kind):
    """Of maps with the channels first: eight of them, of six rows and four columns."""
    how = LayerQuantization(outputs=LastValueQuantizer(per_axis=True))
    maps = keras.Input((8, 6, 4))
    if kind == "convolution":
        layer = layers.ConvNormAct(8, quantization=how, data_format="channels_first")
        layer.build(maps.shape)
        quantizer = layer.output_quantizer
    elif kind == "sum":
        layer = layers.ResidualUnit(8, quantization={"add": how}, data_format="channels_first")
        layer.build(maps.shape)
        quantizer = layer.add_quantizer
    else:
        outputs = keras.layers.GlobalAveragePooling2D("channels_first", keepdims=True)(maps)
        policy = Policy((Rule("input"), Rule(".*", outputs=how.outputs)))
        quantizer = quantize_model(keras.Model(maps, outputs), policy).layers[-1]
    assert quantizer.range[0].shape == (8,)
