"""`LAYOUTS`: how other code bases call the tensors of these networks.

A layout maps a model to its tensors under their names there, so that a checkpoint can be read with every tensor
accounted for.
"""

import dataclasses

import keras
import numpy as np

from keras_mnv4 import layers
from keras_mnv4.applications.block_spec import blocks_of

DENSE = (2, 3, 1, 0)  # (filters, channels, height, width) -> (height, width, channels, filters)
DEPTHWISE = (2, 3, 0, 1)  # (channels, 1, height, width) -> (height, width, channels, 1)
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one tensor of a checkpoint belongs.

    Args:
        variable: the Keras variable.
        axes: the order in which the tensor's axes become the variable's; None to keep them.
        shape: shape of the tensor in the checkpoint; by default, that which `axes` ask for.
    """

    variable: keras.Variable
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.shape is None:
            axes = range(len(self.variable.shape)) if self.axes is None else self.axes
            shape = tuple(self.variable.shape[list(axes).index(axis)] for axis in range(len(axes)))
            object.__setattr__(self, "shape", shape)

    def assign(self, tensor):
        """Sets the variable."""
        axes = self.axes or tuple(range(tensor.ndim))
        tensor = np.expand_dims(tensor, tuple(range(tensor.ndim, len(axes))))  # of a matrix, a 1x1 convolution
        self.variable.assign(np.ascontiguousarray(np.transpose(tensor, axes)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """A naming of tensors.

    Args:
        name_tensors: function from a model to a dictionary from name to `Slot`.
        top: beginnings of the names of tensors that a model without classifier has no use for.
        definition: the definition that such tensors are of, a key of `keras_mnv4.applications.network.DEFINITIONS`.
    """

    name_tensors: object
    top: tuple[str, ...]
    definition: str


def timm_tensors(model):
    """The tensors of a MobileNetV4 as timm calls them."""
    slots = {}
    for name, layer in _timm_layers(model):
        if name == "stem":
            slots |= _conv(layer, "conv_stem", "bn1")
        elif name == "head":
            slots |= _conv(layer, "conv_head", "norm_head")
        elif name == "classifier":
            slots |= _classifier(layer, name)
        elif isinstance(layer, layers.ConvNormAct):
            slots |= _conv(layer, f"{name}.conv", f"{name}.bn1")
        else:
            for part in layer.chain:
                slots |= _timm_part(part, name, isinstance(layer, layers.FusedInvertedBottleneck))
    return slots


def _timm_layers(model):
    """Pairs of timm's name and layer. A stage begins at each stride; the last convolution is one of its own."""
    blocks = blocks_of(model)
    stage, index = -1, 0
    yield "stem", model.get_layer("stem")
    for block in blocks:
        if block.strides > 1 or block is blocks[-1]:
            stage, index = stage + 1, 0
        yield f"blocks.{stage}.{index}", block
        index += 1
    for name, here in (("head", "head"), ("classifier", "predictions")):
        yield from ((name, layer) for layer in model.layers if layer.name == here)


# Our part: timm's convolution and normalisation.
TIMM_FUSED_PARTS = {"expand": ("conv_exp", "bn1"), "project": ("conv_pwl", "bn2")}
TIMM_PARTS = {
    "start_depthwise": ("dw_start.conv", "dw_start.bn"),
    "expand": ("pw_exp.conv", "pw_exp.bn"),
    "middle_depthwise": ("dw_mid.conv", "dw_mid.bn"),
    "project": ("pw_proj.conv", "pw_proj.bn"),
}
TIMM_ATTENTION_PARTS = {
    "query": ("query.proj", ""),
    "key_down": ("key.down_conv", "key.norm"),
    "key": ("key.proj", ""),
    "value_down": ("value.down_conv", "value.norm"),
    "value": ("value.proj", ""),
    "output": ("output.proj", ""),
}


def timm_attention_tensors(layer, prefix="attn"):
    """The tensors of a `SpatialAttention` as timm calls them."""
    slots = {} if layer.query_norm is None else _norm(layer.query_norm, f"{prefix}.query.norm")
    for part in layer.convolutions:
        conv, norm = TIMM_ATTENTION_PARTS[part.name]
        slots |= _conv(part, f"{prefix}.{conv}", f"{prefix}.{norm}")
    return slots


def _timm_part(part, block, is_fused):
    if isinstance(part, keras.layers.BatchNormalization):
        return _norm(part, f"{block}.norm")
    if isinstance(part, layers.SpatialAttention):
        slots, scaled = timm_attention_tensors(part, f"{block}.attn"), part.output_projection
    else:
        conv, norm = (TIMM_FUSED_PARTS if is_fused else TIMM_PARTS)[part.name]
        slots, scaled = _conv(part, f"{block}.{conv}", f"{block}.{norm}"), part
    if scaled.scale is not None:
        slots[f"{block}.layer_scale.gamma"] = Slot(scaled.scale.gamma)
    return slots


def timm_resnet_tensors(model):
    """The tensors of a ResNet as timm and torchvision call them."""
    slots = _conv(model.get_layer("stem"), "conv1", "bn1")
    stage = index = 0
    for unit in blocks_of(model):
        if not isinstance(unit, layers.ResidualUnit):
            continue
        if stage == 0 or unit.strides > 1:
            stage, index = stage + 1, 0
        name = f"layer{stage}.{index}"
        for number, conv in enumerate(unit.chain, 1):
            slots |= _conv(conv, f"{name}.conv{number}", f"{name}.bn{number}")
        if unit.shortcut is not None:
            slots |= _conv(unit.shortcut, f"{name}.downsample.0", f"{name}.downsample.1")
        index += 1
    for layer in model.layers:
        if layer.name == "predictions":
            slots |= _classifier(layer, "fc")
    return slots


def efficientnet_tensors(model):
    """The tensors of an EfficientNet-Lite as the PyTorch ports call them."""
    *blocks, last = blocks_of(model)
    slots = _conv(model.get_layer("stem"), "_conv_stem", "_bn0")
    parts = {
        "expand": ("_expand_conv", "_bn0"),
        "middle_depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    for index, block in enumerate(blocks):
        for part in block.chain:
            conv, norm = parts[part.name]
            slots |= _conv(part, f"_blocks.{index}.{conv}", f"_blocks.{index}.{norm}")
    slots |= _conv(last, "_conv_head", "_bn1")
    for layer in model.layers:
        if layer.name == "predictions":
            slots |= _classifier(layer, "_fc")
    return slots


def _conv(layer, conv, norm):
    slots = {f"{conv}.weight": Slot(layer.kernel, DEPTHWISE if layer.depthwise else DENSE)}
    return slots if layer.norm is None else slots | _norm(layer.norm, norm)


def _norm(layer, name):
    return {f"{name}.{theirs}": Slot(getattr(layer, ours)) for theirs, ours in NORM.items()}


def _classifier(layer, name):
    _, _, channels, classes = layer.conv.kernel.shape
    return {
        f"{name}.weight": Slot(layer.conv.kernel, DENSE, (classes, channels)),
        f"{name}.bias": Slot(layer.conv.bias),
    }


LAYOUTS = {
    "timm": Layout(timm_tensors, ("conv_head.", "norm_head.", "classifier."), "timm"),
    "timm_resnet": Layout(timm_resnet_tensors, ("fc.",), "timm"),
    "efficientnet": Layout(efficientnet_tensors, ("_fc.",), "default"),
}
