"""Writes `model_garden_logits.npz`: the logits of TensorFlow Model Garden's networks with `reference.py`'s weights.

The networks run at inference with their default normalisation (epsilon 1e-3) and padding ("same"). Blocks and weights
get the names that timm gives them. The backbones have no classifier: it is a product of their last, pooled endpoint.
`<variant>_digest` is the fingerprint of the weights' names and shapes, to be compared with timm's.

Run it in an environment of its own: `pip install tf-models-official==2.20.0 && python make_model_garden_logits.py`.
"""

import os
import pathlib

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import reference
import tf_keras
from official.vision.modeling.backbones.mobilenet import MobileNet

NETWORKS = {
    "conv_small": "MobileNetV4ConvSmall",
    "conv_medium": "MobileNetV4ConvMedium",
    "conv_large": "MobileNetV4ConvLarge",
    "hybrid_medium": "MobileNetV4HybridMedium",
    "hybrid_large": "MobileNetV4HybridLarge",
    "conv_medium_seg": "MobileNetV4ConvMediumSeg",
}
ATTENTION = {
    "_query_proj": "query.proj",
    "_key_dw_conv": "key.down_conv",
    "_key_dw_norm": "key.norm",
    "_key_proj": "key.proj",
    "_value_dw_conv": "value.down_conv",
    "_value_dw_norm": "value.norm",
    "_value_proj": "value.proj",
    "_output_proj": "output.proj",
}
PARTS = {  # class: {attribute: timm's name}
    "Conv2DBNBlock": {"_conv0": "conv", "_norm0": "bn1"},
    "InvertedBottleneckBlock": {"_conv0": "conv_exp", "_norm0": "bn1", "_conv2": "conv_pwl", "_norm2": "bn2"},
    "UniversalInvertedBottleneckBlock": {
        "_start_dw_conv": "dw_start.conv",
        "_start_dw_norm": "dw_start.bn",
        "_expand_conv": "pw_exp.conv",
        "_expand_norm": "pw_exp.bn",
        "_middle_dw_conv": "dw_mid.conv",
        "_middle_dw_norm": "dw_mid.bn",
        "_proj_conv": "pw_proj.conv",
        "_proj_norm": "pw_proj.bn",
        "_layer_scale": "layer_scale",
    },
    "MultiHeadSelfAttentionBlock": {
        "_input_norm": "norm",
        "_multi_query_attention": "attn",
        "_layer_scale": "layer_scale",
    },
    "OptimizedMultiQueryAttentionLayerWithDownSampling": ATTENTION,
    "MultiQueryAttentionLayerV2": ATTENTION,
    "BatchNormalization": {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    "Conv2D": {"kernel": "weight"},
    "DepthwiseConv2D": {"depthwise_kernel": "weight"},
    "MNV4LayerScale": {"_gamma": "gamma"},
}
RENAMED = {"stem.conv": "conv_stem", "stem.bn1": "bn1", "head.conv": "conv_head", "head.bn1": "norm_head"}
CLASSIFIER = {"classifier.weight": (1000, 1280), "classifier.bias": (1000,)}


def block_names(network):
    """`{name: layer}` of all blocks: timm begins a stage with each that halves the picture, and with the last."""
    blocks = [layer for layer in network.layers if type(layer).__name__ in PARTS]
    names, stage, block = {"stem": blocks[0]}, -1, 0
    for layer in blocks[1:-1]:
        begins = layer.output_shape[1] < layer.input_shape[1] or layer is blocks[-2]
        stage, block = (stage + 1, 0) if begins else (stage, block + 1)
        names[f"blocks.{stage}.{block}"] = layer
    return names | {"head": blocks[-1]}


def variables(layer, name):
    """`(timm's name, the layer that it belongs to, variable)` of all weights of a layer."""
    for attribute, part_name in PARTS[type(layer).__name__].items():
        part, part_name = getattr(layer, attribute, None), f"{name}.{part_name}"
        if type(part).__name__ in PARTS:
            yield from variables(part, part_name)
        elif part is not None:
            yield part_name + ".weight" * part_name.endswith("proj"), layer, part


def layout(name, layer, shape):
    """`(timm's shape, axes)` of a weight: timm's transposed by `axes` and reshaped to `shape` is Model Garden's."""
    if len(shape) == 1:
        return shape, (0,)
    if type(layer).__name__ == "Conv2D":
        return (shape[3], shape[2], *shape[:2]), (2, 3, 1, 0)
    if type(layer).__name__ == "DepthwiseConv2D":
        return (shape[2], 1, *shape[:2]), (2, 3, 0, 1)
    if name.endswith("query.proj.weight"):  # (heads, key, channels)
        return (shape[0] * shape[1], shape[2], 1, 1), (0, 1, 2, 3)
    if name.endswith("output.proj.weight"):  # (channels, heads, value)
        return (shape[0], shape[1] * shape[2], 1, 1), (0, 1, 2, 3)
    return (shape[1], shape[0], 1, 1), (1, 0, 2, 3)  # key and value: (channels, width)


def fill(network):
    """Gives every variable its reference value, each once; returns `{timm's name: timm's shape}` of all."""
    shapes, left = {}, {variable.ref() for variable in network.variables}
    for block_name, block in block_names(network).items():
        for name, layer, variable in variables(block, block_name):
            for given, timms in RENAMED.items():
                name = timms + name.removeprefix(given) if name.startswith(given) else name
            shapes[name], axes = layout(name, layer, tuple(variable.shape))
            variable.assign(reference.tensor(name, shapes[name]).transpose(axes).reshape(variable.shape))
            left.remove(variable.ref())  # a KeyError if it had its value already
    if left:
        raise ValueError(f"without a value: {[variable.deref().name for variable in left]}")
    return shapes


def main():
    """Runs all networks and writes the file."""
    golden = {}
    for variant, model_id in NETWORKS.items():
        for height, width in reference.SQUARE_SIZES:
            inputs = tf_keras.layers.InputSpec(shape=[None, height, width, 3])  # of one size: hybrids take no other
            network = MobileNet(model_id, input_specs=inputs)
            shapes = fill(network) | CLASSIFIER
            endpoints = network(reference.pictures(height, width), training=False)
            pooled = endpoints[max(endpoints)].numpy()[:, 0, 0]
            kernel, bias = (reference.tensor(*item) for item in CLASSIFIER.items())
            logits = pooled @ kernel.T + bias
            golden[f"{variant}_digest"] = np.array(reference.digest(shapes))
            golden[f"{variant}_{height}x{width}"] = logits[:, reference.KEPT_CLASSES]
            print(
                f"{variant}_{height}x{width}: standard deviation over pictures {logits.std(0).mean():.3g},"
                f" over all {logits.std():.3g}, largest {abs(logits).max():.3g}"
            )
    np.savez_compressed(pathlib.Path(__file__).with_name("model_garden_logits.npz"), **golden)


if __name__ == "__main__":
    main()
