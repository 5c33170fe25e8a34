"""`quantize_model`: the same network, fake-quantised. `calibrate`: its ranges, from data."""

import warnings

import keras
import numpy as np
from keras import layers

from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.policies import POLICIES
from keras_mnv4.qat.policies import LayerQuantization
from keras_mnv4.qat.policies import get_policy
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import QuantizableLayer
from keras_mnv4.qat.quantizers import FixedQuantizer

INPUT = "input"  # the path under which policies know the picture as it enters the network

# Stock layers that hand on values which are on the integer grid already.
GRID_KEEPING = (
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.MaxPooling2D,
    layers.GlobalMaxPooling2D,
    layers.Cropping2D,
    layers.ZeroPadding2D,
)
# Stock layers without weights whose results need rounding: a `FakeQuantize` is put behind each.
GRID_LEAVING = (
    layers.Add,
    layers.Average,
    layers.AveragePooling2D,
    layers.Concatenate,
    layers.GlobalAveragePooling2D,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.ReLU,
    layers.Subtract,
)


def quantize_model(model, policy="w8a8"):
    """Makes the fake-quantised twin of a float model, ready for quantisation-aware training.

    The twin has the same layers of the same names, so weights carry over by path and `.keras` files, callbacks and
    `summary()` work as before; quantisers are added to them. Ranges of weights are set from the weights. Ranges of
    activations start at [-6, 6]: call `calibrate` before training or export.

    Args:
        model: a built Functional `keras.Model` of layers of this package and stock layers without weights.
        policy: a `keras_mnv4.qat.Policy`, or the name of one: `"w8a8"`, `"w4a8"`, `"w4a4"` for the bits of weights and
            activations everywhere, `"w4a8_first_last_8"`, `"w4a4_first_last_8"` for 8 bits in the stem and the
            classifier.

    Returns:
        A new Functional model, not compiled. `model` is left as it was.

    Raises:
        ValueError: if the policy is unknown, if no rule matches a layer, or if a layer cannot be quantised; the
            message names the layer.

    Warns:
        UserWarning: if a rule of a policy of your own decides about no layer.

    Example:

    >>> quantized = quantize_model(MobileNetV4ConvSmall(weights=None, classes=10, input_shape=(64, 64, 3)))
    >>> quantized.compile("adam", "sparse_categorical_crossentropy")
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "operations") or isinstance(model, keras.Sequential):
        raise ValueError(f"`model` must be a Functional `keras.Model`. Received: {model!r}")
    return _Quantization(get_policy(policy)).apply(model)


def calibrate(model, data, batch_size=32):
    """Sets the ranges of a fake-quantised model from a sample of real inputs.

    The range of an activation becomes the mean over batches of each batch's smallest and largest value, which is
    where the moving average of training would settle; weights take their own range.

    Args:
        model: a model from `quantize_model`. Changed in place.
        data: array of inputs `(count, height, width, channels)`; a hundred or so will do.
        batch_size: inputs a batch.

    Raises:
        ValueError: if `model` has no quantisers or `data` is empty.
    """
    quantizers = [layer for layer in model._flatten_layers() if isinstance(layer, FakeQuantize)]
    if not quantizers:
        raise ValueError(f"Model `{model.name}` has no quantisers: make it with `keras_mnv4.qat.quantize_model`.")
    data = np.asarray(data)
    if not len(data):
        raise ValueError("`data` must hold at least one input. Received an empty array.")
    for quantizer in quantizers:
        quantizer.start_calibration()
    try:
        for start in range(0, len(data), batch_size):
            model(data[start : start + batch_size], training=False)
    finally:
        for quantizer in quantizers:
            quantizer.finish_calibration()


class _Quantization:
    """One application of a policy to a model: how each layer is cloned, and what is put round it."""

    def __init__(self, policy):
        self.policy = policy
        self.input_quantizers = {}
        self.paths = [INPUT]

    def apply(self, model):
        twin = keras.models.clone_model(model, clone_function=self.clone, call_function=self.call)
        _carry_weights(model, twin)
        for layer in twin._flatten_layers():
            if hasattr(layer, "update_weight_ranges"):
                layer.update_weight_ranges()
        self.warn_of_unused_rules()
        return twin

    def warn_of_unused_rules(self):
        """Warns of the user's own rules that decided nothing; those of named policies are for any network."""
        known = [rule for policy in POLICIES.values() for rule in policy.rules]
        unused = [rule for rule in self.policy.unused_rules(self.paths) if rule not in known]
        for rule in unused:
            warnings.warn(
                f"Rule({rule.pattern!r}) of policy `{self.policy.name}` decides about no layer: it matches none, or "
                "rules before it match all that it does.",
                stacklevel=4,
            )

    def quantization(self, path):
        self.paths.append(path)
        rule = self.policy.rule_for(path)
        if rule is None:
            raise ValueError(
                f"No rule of policy `{self.policy.name}` matches `{path}`. Add a rule for it; one without quantisers, "
                f"`Rule({path!r})`, leaves it in float."
            )
        return rule.quantization

    def clone(self, layer):
        config = layer.get_config()
        if isinstance(layer, QuantizableLayer):
            self.check(layer)
            parts = {part: self.quantization(f"{layer.name}/{part}".strip("/")) for part in layer.quantizable_parts}
            quantization = parts.get(ITSELF, parts)
            config["quantization"] = keras.saving.serialize_keras_object(quantization)
        elif not isinstance(layer, (*GRID_KEEPING, *GRID_LEAVING, layers.Rescaling)):
            how = self.quantization(layer.name)
            if how != LayerQuantization():
                way_out = "Use the layers of `keras_mnv4.layers`"
                if isinstance(layer, keras.Model):
                    way_out = "Build that model with `input_tensor`, so that its layers become layers of this one"
                raise ValueError(
                    f"Layer `{layer.name}` ({type(layer).__name__}) cannot be quantised. {way_out}, or leave it in "
                    f"float: put `Rule({layer.name!r})` first in the policy."
                )
        return type(layer).from_config(config)

    def check(self, layer):
        """Raises if the policy would quantise a layer that cannot be."""
        if layer.obstacle is not None and self.quantization(f"{layer.name}/{layer.obstacle}") != LayerQuantization():
            raise ValueError(
                f"Layer `{layer.name}` ({type(layer).__name__}) cannot be quantised yet because of its "
                f"{layer.obstacle}. Leave it in float: put `Rule('{layer.name}.*')` first in the policy."
            )

    def call(self, layer, *args, **kwargs):
        if isinstance(layer, layers.Rescaling) and _is_input(args[0]):
            return self.quantize_input(layer(*args, **kwargs), _pixel_quantizer(layer))
        args = keras.tree.map_structure(lambda arg: self.quantize_input(arg) if _is_input(arg) else arg, args)
        outputs = layer(*args, **kwargs)
        if isinstance(layer, (*GRID_LEAVING, layers.Rescaling)) and not _is_pool_of_one_pixel(layer):
            how = self.quantization(layer.name)
            if how.outputs is not None:
                outputs = FakeQuantize(how.outputs, name=f"{layer.name}_quantizer")(outputs)
        return outputs

    def quantize_input(self, tensor, quantizer=None):
        """`tensor`, an input of the model, through a quantiser that all layers which read it share."""
        if id(tensor) not in self.input_quantizers:
            quantizer = quantizer or self.quantization(INPUT).outputs
            if quantizer is None:
                return tensor
            name = f"{tensor._keras_history.operation.name}_quantizer"
            self.input_quantizers[id(tensor)] = FakeQuantize(quantizer, name=name)(tensor)
        return self.input_quantizers[id(tensor)]


def _is_pool_of_one_pixel(layer):
    """A mean that changes nothing: the converter drops it, and would mix up the scales of two quantisers in a row."""
    if not isinstance(layer, layers.GlobalAveragePooling2D):
        return False
    _, *sides = layer.input.shape
    sides.pop(-1 if layer.data_format == "channels_last" else 0)
    return sides == [1, 1]


def _is_input(tensor):
    return isinstance(tensor, keras.KerasTensor) and isinstance(tensor._keras_history.operation, layers.InputLayer)


def _pixel_quantizer(rescaling):
    """The range of bytes 0 to 255 after `rescaling`: known, so not measured."""
    darkest = np.asarray(rescaling.offset)
    ends = np.stack([darkest, darkest + 255 * np.asarray(rescaling.scale)])
    return FixedQuantizer(num_bits=8, init_min=min(float(ends.min()), 0.0), init_max=max(float(ends.max()), 0.0))


def _carry_weights(source, target):
    """Assigns every weight of `source` to the one of the same path in `target`."""
    targets = {weight.path: weight for weight in target.weights}
    for weight in source.weights:
        targets[weight.path].assign(weight.numpy())  # a copy: JAX donates the buffers of a model it trains
