"""Writes `timm_logits.npz`: the logits of timm's models with the weights of `reference.py`.

Twice for each: at inference, where the moving statistics count, and in training, where those of the batch do. Only
the latter depend much on the picture: a deep random network whose statistics do not fit forgets what it saw.

Run it in an environment of its own: `pip install torch timm && python make_timm_logits.py`. Made with timm 1.0.31.
"""

import pathlib

import numpy as np
import reference
import torch

shim = torch.library.Library("torchvision", "DEF")
for op in ("nms", "qnms"):  # a torchvision without its compiled operators would not import
    shim.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm  # noqa: E402


def fill(model):
    """Gives every convolution and normalisation, in order of execution, the reference weights."""
    convolutions, norms = 0, 0
    for module in model.modules():  # timm registers its modules in order of execution
        if isinstance(module, torch.nn.Conv2d):
            filters, channels, height, width = module.weight.shape
            if module.groups > 1:  # depthwise: timm (c, 1, h, w), Keras (h, w, c, 1)
                weights = reference.kernel(convolutions, height, width, filters, 1).transpose(2, 3, 0, 1)
            else:
                weights = reference.kernel(convolutions, height, width, channels, filters).transpose(3, 2, 0, 1)
            module.weight.data = torch.tensor(np.ascontiguousarray(weights))
            convolutions += 1
        elif isinstance(module, torch.nn.BatchNorm2d):
            gamma, beta, mean, variance = map(torch.tensor, reference.norm(norms, module.num_features))
            module.weight.data, module.bias.data = gamma, beta
            module.running_mean, module.running_var = mean, variance
            norms += 1
        elif isinstance(module, torch.nn.Linear):
            weights = reference.kernel(convolutions, 1, 1, module.in_features, module.out_features)[0, 0]
            module.weight.data = torch.tensor(np.ascontiguousarray(weights.T))
            module.bias.data = torch.tensor(reference.bias(module.out_features))


logits = {}
pictures = torch.tensor(reference.pictures().transpose(0, 3, 1, 2))
for key, name in reference.VARIANTS.items():
    model = timm.create_model(name, pretrained=False)
    fill(model)
    for mode in ("inference", "training"):
        with torch.no_grad():
            outputs = model.train(mode == "training")(pictures).numpy()
        logits[f"{key}_{mode}"] = outputs[:, reference.KEPT_CLASSES]
        print(
            f"{name} {mode}: standard deviation over pictures {outputs.std(0).mean():.2g}, over all {outputs.std():.2g}"
        )
        fill(model)  # a run in training has changed the moving statistics
np.savez_compressed(pathlib.Path(__file__).with_name("timm_logits.npz"), **logits)
