"""Writes outputs of timm's models with `reference.py`'s weights.

`timm_logits.npz` is of MobileNetV4 and of an attention layer, `timm_resnet_logits.npz` of ResNets.

Each model runs at inference, where the moving statistics count, and in training, where those of the batch do. Kept
besides: `<variant>_digest`, the fingerprint of its weights' names and shapes, and `<variant>_params`, how many numbers
it can train. `mqa_q<stride>_kv<stride>` are outputs of one attention layer, (count, height, width, channels).

Run it in an environment of its own: `pip install torch timm && python make_timm_logits.py`, with the name of a file
for that one alone. Made with timm 1.0.31.
"""

import pathlib
import sys

import numpy as np
import reference
import torch

shim = torch.library.Library("torchvision", "DEF")
for op in ("nms", "qnms"):  # a torchvision without its compiled operators would not import
    shim.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm  # noqa: E402


def fill(module, prefix=""):
    """Gives every weight its reference value; returns `{key: shape}` of all."""
    shapes = {prefix + key: tuple(weight.shape) for key, weight in module.state_dict().items()}
    weights = {key.removeprefix(prefix): torch.tensor(weight) for key, weight in reference.state_dict(shapes).items()}
    module.load_state_dict(module.state_dict() | weights, strict=True)  # what is not replaced are counters
    return shapes


def run(module, inputs, training=False):
    """Output for `inputs`, which have their channels last."""
    with torch.no_grad():
        return module.train(training)(torch.tensor(inputs.transpose(0, 3, 1, 2))).numpy()


def logits(variants):
    """What is kept of models: `{ours: timm's}` are their names."""
    golden = {}
    for variant, name in variants.items():
        model = timm.create_model(name, pretrained=False)
        shapes = fill(model)
        golden[f"{variant}_digest"] = np.array(reference.digest(shapes))
        golden[f"{variant}_params"] = np.array(sum(weight.numel() for weight in model.parameters()))
        runs = [("inference", size) for size in reference.SIZES] + [("training", reference.SIZES[0])]
        for mode, (height, width) in runs:  # training last: it changes the moving statistics
            outputs = run(model, reference.pictures(height, width), mode == "training")
            golden[f"{variant}_{mode}_{height}x{width}"] = outputs[:, reference.KEPT_CLASSES]
            print(
                f"{variant}_{mode}_{height}x{width}: standard deviation over pictures {outputs.std(0).mean():.3g},"
                f" over all {outputs.std():.3g}, largest {abs(outputs).max():.3g}"
            )
    return golden


def attention():
    """What is kept of the attention layer."""
    golden = {}
    for query_stride in (1, 2):
        for kv_stride in (1, 2):
            layer = timm.layers.MultiQueryAttention2d(
                32, num_heads=4, key_dim=8, value_dim=8, query_strides=query_stride, kv_stride=kv_stride
            )
            fill(layer, "attn.")
            outputs = run(layer, reference.features(16, 16, 32)).transpose(0, 2, 3, 1)
            golden[f"mqa_q{query_stride}_kv{kv_stride}"] = outputs
            print(f"mqa_q{query_stride}_kv{kv_stride}: standard deviation {outputs.std():.3g}")
    return golden


FILES = {
    "timm_logits.npz": lambda: logits(reference.VARIANTS) | attention(),
    "timm_resnet_logits.npz": lambda: logits(reference.RESNETS),
}
for file in sys.argv[1:] or FILES:
    np.savez_compressed(pathlib.Path(__file__).with_name(file), **FILES[file]())
