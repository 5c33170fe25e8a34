"""PikeLPN: MobileNetV1 in few bits, its norms and scales as well.

Source: PikeLPN (arXiv 2404.00103). A reconstruction: its text could not be obtained. That its geometry is that of
MobileNetV1, and which width and which bits of activations each variant has, is what a third party (the energy models of
TNet) says of it. Stem, head, activation function and recipe are unknown, and here those of MobileNetV1 (arXiv
1704.04861, table 1).
"""

import functools
import pathlib

from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.block_spec import Separable
from keras_mnv4.applications.imagenet import decode_predictions
from keras_mnv4.applications.network import Architecture
from keras_mnv4.applications.network import build_network
from keras_mnv4.applications.network import with_signature
from keras_mnv4.applications.preprocessing import preprocess_input
from keras_mnv4.applications.weights import Source
from keras_mnv4.applications.weights import is_quantized_file
from keras_mnv4.qat import get_policy
from keras_mnv4.qat import pikelpn_policy
from keras_mnv4.qat import quantize_model

# fmt: off
MOBILENET_V1 = (
    Conv(32, kernel=3, stride=2),
    Separable(64),
    Separable(128, stride=2),
    Separable(128),
    Separable(256, stride=2),
    Separable(256),
    Separable(512, stride=2),
    Separable(512),
    Separable(512),
    Separable(512),
    Separable(512),
    Separable(512),
    Separable(1024, stride=2),
    Separable(1024),
)
# fmt: on

ARCHITECTURES = {"PikeLPN": Architecture("pikelpn", MOBILENET_V1, 224, head_filters=None)}
VARIANTS = {"PikeLPN1x": (1.0, 8), "PikeLPN2x": (1.0, 16), "PikeLPN3x": (1.5, 16), "PikeLPN6x": (2.0, 16)}


def PikeLPN(alpha=1.0, activation_bits=8, policy=None, *, weights=None, input_tensor=None, **kwargs):
    """A network of the PikeLPN family, ready for quantisation-aware training.

    It is `keras_mnv4.qat.quantize_model` of a float network. Train it from scratch as it is, with ranges of activations
    that start at [-6, 6]; or, where the weights were trained, calibrate it first.

    Args:
        alpha: width multiplier.
        activation_bits: bits of feature maps, 2 to 16. Integer files hold 8 at most.
        policy: another policy than `keras_mnv4.qat.pikelpn_policy(activation_bits)`, or the name of one; `"float"` for
            the float network.
        weights: as for `keras_mnv4.applications.build_network`, those of the float network; or the path of a
            `.weights.h5` file of the quantised one.
        input_tensor: as there, but for a float network only.
        **kwargs: its others.

    Returns:
        A Functional `keras.Model`.

    Raises:
        ValueError: on arguments that contradict each other, and on an `input_tensor`: a quantised network begins at
            pictures. Apply it to your tensor as a layer.

    Example:

    >>> model = PikeLPN(0.5, classes=10, input_shape=(32, 32, 3))
    """
    if policy == "float":
        return build_network(
            ARCHITECTURES["PikeLPN"], alpha=alpha, weights=weights, input_tensor=input_tensor, **kwargs
        )
    if input_tensor is not None:
        raise ValueError(
            "`input_tensor` is for float networks; a quantised one begins at pictures: `PikeLPN(...)(tensor)` applies "
            f"it as a layer. Received: input_tensor={input_tensor!r}"
        )
    is_quantized = is_quantized_file(weights)
    model = build_network(ARCHITECTURES["PikeLPN"], alpha=alpha, weights=None if is_quantized else weights, **kwargs)
    model = quantize_model(model, pikelpn_policy(activation_bits) if policy is None else get_policy(policy))
    if is_quantized:
        Source(pathlib.Path(weights)).load(model)
    return model


def _constructor(name):
    alpha, activation_bits = VARIANTS[name]
    docstring = f"""`PikeLPN({alpha}, {activation_bits})`, which PikeLPN (arXiv 2404.00103) calls {name[7:]}.

    The arguments are those of `keras_mnv4.applications.build_network` but for the architecture and `alpha`.

    Example:

    >>> model = {name}(classes=10, input_shape=(64, 64, 3))
    """
    build = functools.partial(PikeLPN, alpha, activation_bits)
    return with_signature(name, build, docstring, __name__, defaults={"name": name.lower()}, left_out=("alpha",))


PikeLPN1x = _constructor("PikeLPN1x")
PikeLPN2x = _constructor("PikeLPN2x")
PikeLPN3x = _constructor("PikeLPN3x")
PikeLPN6x = _constructor("PikeLPN6x")

__all__ = ["PikeLPN", *VARIANTS, "decode_predictions", "preprocess_input"]
