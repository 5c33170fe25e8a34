"""Networks of stock layers whose costs are known from elsewhere."""

import keras
from keras import layers

from keras_mnv4 import qat

EIGHT_BITS = qat.get_policy("w8a8").rule_for("any")


def resnet50():
    """ResNet-50 with its strides in the 3x3 convolutions, without biases: as AQT's tests have it."""

    def unit(x, name, filters, kernel, strides=1, activation="relu"):
        x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False, name=name)(x)
        return layers.Activation(activation)(layers.BatchNormalization()(x))

    inputs = keras.Input((224, 224, 3))
    x = layers.MaxPooling2D(3, 2, "same")(unit(inputs, "conv_init", 64, 7, 2))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name, filters = f"stage_{stage}_{block}", 64 * 2**stage
            strides = 2 if stage and not block else 1
            branch = unit(x, f"{name}_conv_1", filters, 1)
            branch = unit(branch, f"{name}_conv_2", filters, 3, strides)
            branch = unit(branch, f"{name}_conv_3", 4 * filters, 1, activation="linear")
            shortcut = x if block else unit(x, f"{name}_conv_proj", 4 * filters, 1, strides, "linear")
            x = layers.ReLU()(layers.Add()([shortcut, branch]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(1000, name="dense")(x))


def qkeras_twin():
    """The network of `qkeras_reference.py`, quantised to the same bits."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, 2, "same", use_bias=False, activation="relu", name="stem")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, activation="relu", name="depthwise")(x)
    x = layers.Conv2D(32, 1, use_bias=False, activation="relu", name="pointwise")(x)
    x = layers.Dense(10, use_bias=False, name="dense")(layers.Flatten()(x))
    four_bits = qat.get_policy("w4a4").rule_for("any")
    rules = (
        qat.Rule("stem", EIGHT_BITS.weights, EIGHT_BITS.outputs),
        qat.Rule("dense", EIGHT_BITS.weights, EIGHT_BITS.outputs),
        qat.Rule("input", outputs=EIGHT_BITS.outputs),
        qat.Rule(".*", four_bits.weights, four_bits.outputs),
    )
    return qat.quantize_model(keras.Model(inputs, x), qat.Policy(rules))


def quantized_mobilenet(activation_bits):
    """MobileNetV1 with 4 bits in the weights of pointwise convolutions, 8 in all others."""
    base = qat.get_policy(f"w4a{activation_bits}")
    outputs = base.rule_for("any").outputs
    rules = (
        qat.Rule("conv1.*|conv_dw.*", EIGHT_BITS.weights, outputs),
        qat.Rule("conv_preds|global_average.*", EIGHT_BITS.weights, EIGHT_BITS.outputs),
        *base.rules,
    )
    model = keras.applications.MobileNet(weights=None)
    return qat.quantize_model(model, qat.Policy(rules))
