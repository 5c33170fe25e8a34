"""What QKeras's own cost tool says of a small network. Run with the Python of an environment that has QKeras.

Prints, as JSON, the products of each layer, and the bits of its weights and its inputs.
"""

import json
import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import qkeras
import tf_keras
from qkeras.qtools import run_qtools


def network():
    bits = qkeras.quantized_bits
    inputs = tf_keras.Input((32, 32, 3))
    x = qkeras.QActivation("quantized_bits(8,0,1)")(inputs)
    x = qkeras.QConv2D(16, 3, strides=2, padding="same", kernel_quantizer=bits(8, 0, 1), use_bias=False, name="stem")(x)
    x = qkeras.QActivation("quantized_relu(8)")(x)
    x = qkeras.QDepthwiseConv2D(3, padding="same", depthwise_quantizer=bits(4, 0, 1), use_bias=False, name="depthwise")(
        x
    )
    x = qkeras.QActivation("quantized_relu(4)")(x)
    x = qkeras.QConv2D(32, 1, kernel_quantizer=bits(4, 0, 1), use_bias=False, name="pointwise")(x)
    x = qkeras.QActivation("quantized_relu(4)")(x)
    x = tf_keras.layers.Flatten()(x)
    x = qkeras.QDense(10, kernel_quantizer=bits(8, 0, 1), use_bias=False, name="dense")(x)
    return tf_keras.Model(inputs, x)


def main():
    tools = run_qtools.QTools(
        network(),
        process="horowitz",
        source_quantizers=[qkeras.quantized_bits(8, 0, 1)],
        is_inference=False,
        keras_quantizer="fp32",
        keras_accumulator="fp32",
    )
    found = {
        name: (layer["operation_count"], layer["weight_quantizer"]["bits"], layer["input_quantizer_list"][0]["bits"])
        for name, layer in tools._output_dict.items()
        if isinstance(layer, dict) and "weight_quantizer" in layer
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
