"""`quantize_model`: the same network, fake-quantised."""

import collections
import dataclasses
import warnings

import keras
import numpy as np
from keras import layers

from keras_mnv4.qat.affine import ColorRescaling
from keras_mnv4.qat.affine import scale_and_offset
from keras_mnv4.qat.calibration import calibrate
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.fake_quantize import is_quantized
from keras_mnv4.qat.policies import POLICIES
from keras_mnv4.qat.policies import LayerQuantization
from keras_mnv4.qat.policies import get_policy
from keras_mnv4.qat.quantizable import ITSELF
from keras_mnv4.qat.quantizable import QuantizableLayer
from keras_mnv4.qat.stock.fusion import ARITHMETIC
from keras_mnv4.qat.stock.fusion import fusions
from keras_mnv4.qat.stock.fusion import is_relu
from keras_mnv4.qat.stock.fusion import relu_ceiling
from keras_mnv4.qat.stock.names import stock_names
from keras_mnv4.qat.stock.operations import RELUS
from keras_mnv4.qat.stock.operations import stand_in
from keras_mnv4.qat.stock.pictures import AUGMENTATIONS
from keras_mnv4.qat.stock.pictures import BYTES
from keras_mnv4.qat.stock.pictures import GRID_KEEPING
from keras_mnv4.qat.stock.pictures import byte_inputs
from keras_mnv4.qat.stock.pictures import input_layer_of
from keras_mnv4.qat.stock.pictures import is_input_scale
from keras_mnv4.qat.stock.pictures import is_picture
from keras_mnv4.qat.stock.pictures import offset_on_a_byte
from keras_mnv4.qat.stock.pictures import picture_readers
from keras_mnv4.qat.stock.pictures import pixel_quantizer
from keras_mnv4.qat.stock.pictures import scalings
from keras_mnv4.qat.stock.up_sampling import INTERPOLATIONS
from keras_mnv4.qat.stock.up_sampling import QuantizedUpSampling2D
from keras_mnv4.qat.stock.wrapper import FUSED_ACTIVATIONS
from keras_mnv4.qat.stock.wrapper import QuantizeWrapper
from keras_mnv4.qat.stock.wrapper import wrappable_parts

INPUT = "input"  # the path under which policies know the picture as it enters the network

OF_TWO_TENSORS = (layers.Add, layers.Multiply)  # as integer operators; of more, the twin has one for every two
# Those without kernels, and operations, whose results need rounding: a `FakeQuantize` is put behind each, unless the
# layer behind it is computed together with it.
GRID_LEAVING = (
    *ARITHMETIC,
    *RELUS,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.GlobalAveragePooling2D,
    layers.LeakyReLU,
    layers.ReLU,
    layers.Softmax,
)


def quantize_model(model, policy="w8a8", calibration_data=None):
    """Makes the fake-quantised twin of a float model, ready for quantisation-aware training.

    The twin has the same layers of the same names, so weights carry over by path and `.keras` files, callbacks and
    `summary()` work as before; quantisers are added to them. Ranges of weights are set from the weights. Ranges of
    activations start at [-6, 6]: call `calibrate` before training or export.

    Policies know stock layers by their names, and what an activation other than relu gives out as
    `<layer>/<activation>`; the kernel next to the pictures also as `stem`, that next to the outputs as `predictions`, a
    depthwise one as `<layer>/depthwise`. A convolution, the normalisation behind it and its relu are rounded once,
    behind the last of them, as the rule for that one says. Pictures enter as bytes where the model scales them itself,
    by a layer or by operations such as `x / 127.5 - 1`, which become one `Rescaling` of the last one's name. Where its
    zero is between two bytes, as with these numbers, the twin's is the byte above, half a grey level away.

    Args:
        model: a Functional `keras.Model`, or a built `keras.Sequential`, of layers of this package and of Keras:
            `Conv2D`, `DepthwiseConv2D`, `SeparableConv2D`, `Dense` and `BatchNormalization`, which the twin has inside
            `QuantizeWrapper` layers of the same names where it must; activations, poolings, sums and the like. A
            separable convolution becomes its two convolutions, `<name>_depthwise` and `<name>`; a sum or product of
            many becomes those of two, `<name>_of_2` and on; relus of the same layer become one. `UpSampling2D` may be
            by nearest neighbours or bilinear.
        policy: a `keras_mnv4.qat.Policy`, or the name of one: `"w8a8"`, `"w4a8"`, `"w4a4"` for the bits of weights and
            activations everywhere, `"w4a8_first_last_8"`, `"w4a4_first_last_8"` for 8 bits in the stem and the
            classifier; `"pikelpn"` (see `pikelpn_policy`); `"aqt_w8a8"`, `"aqt_w4a4"`, `"aqt_w4a4_first_last_8"` (see
            `aqt_policy`), of which exporters make no files.
        calibration_data: inputs to `calibrate` the twin with at once; None to leave that for later.

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
    model = as_functional(model)
    if is_quantized(model):
        raise ValueError(f"`model` is quantised already: give the float model that `{model.name}` was made of.")
    if isinstance(model.input, list) and len(model.input) == 1:  # of `keras.applications` with an `input_tensor`
        model = keras.Model(model.input[0], model.output, name=model.name)
    twin = _Quantization(get_policy(policy)).apply(model)
    if calibration_data is not None:
        calibrate(twin, calibration_data)
    return twin


def as_functional(model):
    """`model`, or the Functional model that a built Sequential is.

    Raises:
        ValueError: if `model` is neither.
    """
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not isinstance(model, keras.Model) or not hasattr(model, "operations") or isinstance(model, keras.Sequential):
        raise ValueError(f"`model` must be a Functional `keras.Model`, or a built Sequential. Received: {model!r}")
    return model


class _Quantization:
    """One application of a policy to a model: how each layer is cloned, and what is put round it."""

    def __init__(self, policy):
        self.policy = policy
        self.input_quantizers = {}
        self.used = [policy.rule_for(INPUT)]
        self.depthwise = {}  # by the name of a separable convolution, the depthwise one before its own
        self.relus = {}  # by what they read and where they end, for a converter makes one of equal ones
        self.calls = collections.Counter()

    def apply(self, model):
        self.names = {layer.name for layer in model._flatten_layers()}
        fused = fusions(model)
        self.fused = {operation.name for operation in fused}  # rounded behind another operation, or not at all
        self.folded = {operation.name for operation in fused.values()}
        self.stock_names = stock_names(model)
        self.picture_readers = picture_readers(model)
        found = scalings(model) if self.rounds_pictures else []
        self.scalings = {each.operations[-1].name: each for each in found}
        self.scaled_later = {operation.name for each in found for operation in each.operations[:-1]}
        inputs = keras.tree.map_structure(
            lambda each: keras.Input(batch_shape=each.shape, dtype=each.dtype, name=each.name), model.input
        )
        takes_bytes = byte_inputs(model)
        self.byte_inputs = {
            input_layer_of(ours)
            for theirs, ours in zip(model.inputs, keras.tree.flatten(inputs), strict=True)
            if input_layer_of(theirs) in takes_bytes
        }
        twin = keras.models.clone_model(model, input_tensors=inputs, clone_function=self.clone, call_function=self.call)
        _carry_weights(model, twin)
        for layer in twin._flatten_layers():
            if hasattr(layer, "update_weight_ranges"):
                layer.update_weight_ranges()
        self.warn_of_unused_rules()
        self.warn_of_norms(model)
        return twin

    def warn_of_unused_rules(self):
        """Warns of the user's own rules that decided nothing; patterns of named policies are for any network."""
        known = {rule.pattern for policy in POLICIES.values() for rule in policy.rules}
        for rule in self.policy.rules:
            if rule.pattern in known or any(rule is each for each in self.used):
                continue
            warnings.warn(
                f"Rule({rule.pattern!r}) of policy `{self.policy.name}` decides about no layer: it matches none, or "
                "rules before it match all that it does.",
                stacklevel=4,
            )

    def warn_of_norms(self, model):
        """Warns of stock normalisations that the policy would round, which only layers of this package do."""
        stock = [each.name for each in model.operations if type(each) is layers.BatchNormalization]
        stock = [name for name in stock if getattr(self.rule_for(name), "norm", None) is not None]
        if stock:
            warnings.warn(
                f"Policy `{self.policy.name}` rounds the scales and offsets of normalisations, which layers of "
                f"`keras_mnv4.layers` do. Those of stock layers are folded into kernels: {len(stock)}, the first "
                f"`{stock[0]}`.",
                stacklevel=4,
            )

    def rule_for(self, path):
        name, slash, part = path.partition("/")
        known = [path, self.stock_names[name] + slash + part] if name in self.stock_names else [path]
        return self.policy.rule_for(*known)

    def quantization(self, path):
        rule = self.rule_for(path)
        self.used.append(rule)
        if rule is None:
            raise ValueError(
                f"No rule of policy `{self.policy.name}` matches `{path}`. Add a rule for it; one without quantisers, "
                f"`Rule({path!r})`, leaves it in float."
            )
        return rule.quantization

    @property
    def rounds_pictures(self):
        """Whether pictures are rounded as they enter the network."""
        return self.quantization(INPUT).outputs is not None

    def clone(self, layer):
        config = layer.get_config()
        if isinstance(layer, QuantizableLayer):
            self.check_obstacle(layer)
            parts = self.part_quantizations(layer.name, layer.quantizable_parts)
            config["frozen"] = None
            config["quantization"] = keras.saving.serialize_keras_object(parts.get(ITSELF, parts))
        elif type(layer) is layers.SeparableConv2D:
            return self.clone_separable(layer)
        elif type(layer) is layers.UpSampling2D and _is_known(layer):
            return QuantizedUpSampling2D.from_config(config)
        elif self.is_operator(layer):
            scale, offset = scale_and_offset(layer)
            return ColorRescaling(scale, offset, name=layer.name, dtype=layer.dtype_policy)
        elif isinstance(layer, layers.Rescaling) and is_picture(layer.input):
            if self.rounds_pictures:
                config["offset"] = offset_on_a_byte(layer)
        elif self.is_wrapped(layer):
            return self.wrap(type(layer).from_config(config))
        elif not _is_known(layer):
            self.refuse_kind(layer)
        return type(layer).from_config(config)

    def refuse_kind(self, layer):
        """Raises for a layer of a kind that cannot be quantised, unless the policy leaves it in float."""
        if self.quantization(layer.name) == LayerQuantization():
            return
        way_out = "Use the layers of `keras_mnv4.layers`"
        if isinstance(layer, keras.Model):
            way_out = "Build that model with `input_tensor`, so that its layers become layers of this one"
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        kind = type(layer).__name__ + (f" with activation {activation}" if activation != "linear" else "")
        kind += f" of {layer.groups} groups" if getattr(layer, "groups", 1) != 1 else ""
        kind += f" by {layer.interpolation} interpolation" if hasattr(layer, "interpolation") else ""
        kind += f" up to {layer.max_value}" if getattr(layer, "max_value", None) is not None else ""
        kind += f" from {layer.threshold}" if getattr(layer, "threshold", 0) else ""
        raise ValueError(
            f"Layer `{layer.name}` ({kind}) cannot be quantised. {way_out}, or leave it in float: put "
            f"`Rule({layer.name!r})` first in the policy."
        )

    def is_operator(self, layer):
        """Whether a stock layer scales and shifts, and needs an operator that does both."""
        if isinstance(layer, layers.Normalization):
            channels = [(1,)] if keras.config.image_data_format() == "channels_first" else [(-1,), (3,)]
            by_channel = len(layer.input.shape) == 4 and layer.axis in channels and not layer.invert
            return by_channel and self.quantization(layer.name).outputs is not None
        if not isinstance(layer, layers.Rescaling):
            return False
        if is_picture(layer.input):
            return self.rounds_pictures and self.is_picture_operator(layer, layer)
        does_both = np.any(np.not_equal(layer.scale, 1)) and np.any(layer.offset)
        return does_both and len(layer.input.shape) == 4 and self.quantization(layer.name).outputs is not None

    def is_picture_operator(self, reader, scaling):
        """Whether the scale of a file's input cannot say what a scaling, which begins with `reader`, makes of it."""
        is_alone = [reader] in self.picture_readers.values()
        return not is_alone or not is_input_scale(scaling)

    def rescaling(self, scaling):
        """The layer in place of the operations of a `Scaling`: the same as in place of a `Rescaling`."""
        name = scaling.operations[-1].name
        if len(scaling.picture.output.shape) == 4 and self.is_picture_operator(scaling.operations[0], scaling):
            return ColorRescaling(scaling.scale, scaling.offset, name=name)
        return layers.Rescaling(scaling.scale, offset_on_a_byte(scaling), name=name)

    def is_wrapped(self, layer):
        """Whether a stock layer needs a `QuantizeWrapper`; for the others a `FakeQuantize` behind will do."""
        if isinstance(layer, layers.BatchNormalization) and layer.name in self.folded:
            return False
        return wrappable_parts(layer) is not None and not _is_plain(layer)

    def wrap(self, layer):
        """`layer`, a clone not yet built, in a `QuantizeWrapper` if the policy quantises any of it."""
        parts = self.part_quantizations(layer.name, wrappable_parts(layer))
        if all(how == LayerQuantization() for how in parts.values()):
            return layer
        if layer.name in self.fused:
            parts[ITSELF] = dataclasses.replace(parts[ITSELF], outputs=None)
        return QuantizeWrapper(layer, quantization=parts[ITSELF] if tuple(parts) == (ITSELF,) else parts)

    def clone_separable(self, layer):
        if any(wrappable_parts(part) is None for part in _split_separable(layer)):
            self.refuse_kind(layer)
            return type(layer).from_config(layer.get_config())
        depthwise, pointwise = (self.wrap(part) for part in _split_separable(layer))
        if not isinstance(depthwise, QuantizeWrapper) and not isinstance(pointwise, QuantizeWrapper):
            return type(layer).from_config(layer.get_config())
        self.depthwise[layer.name] = depthwise
        return pointwise

    def part_quantizations(self, name, parts):
        return {part: self.quantization(f"{name}/{part}".rstrip("/")) for part in parts}

    def check_obstacle(self, layer):
        """Raises for a layer whose arguments keep it from being quantised, unless the policy leaves it in float."""
        if layer.obstacle is not None and self.quantization(f"{layer.name}/{layer.obstacle}") != LayerQuantization():
            raise ValueError(
                f"Layer `{layer.name}` ({type(layer).__name__}) cannot be quantised yet because of its "
                f"{layer.obstacle}. Leave it in float: put `Rule('{layer.name}.*')` first in the policy."
            )

    def call(self, layer, *args, **kwargs):
        if not is_relu(layer):
            return self.call_layer(layer, *args, **kwargs)
        key = (relu_ceiling(layer), id(args[0]))
        if key not in self.relus:
            self.relus[key] = self.call_layer(layer, *args, **kwargs)
        return self.relus[key]

    def call_layer(self, layer, *args, **kwargs):
        if isinstance(layer, AUGMENTATIONS):  # pictures are rounded behind it
            return layer(*args, **kwargs)
        if layer.name in self.scaled_later:
            return _tensor_in(args)
        if layer.name in self.scalings:
            layer, args = self.rescaling(self.scalings[layer.name]), (_tensor_in(args),)
        if isinstance(layer, ColorRescaling) and is_picture(args[0]) and self.rounds_pictures:
            return self.quantize_input(layer(self.quantize_input(args[0], BYTES)), pixel_quantizer(layer))
        if self.rounds_pictures and isinstance(layer, layers.Rescaling) and is_picture(args[0]):
            return self.quantize_input(layer(*args, **kwargs), pixel_quantizer(layer))
        args = keras.tree.map_structure(lambda arg: self.quantize_input(arg) if is_picture(arg) else arg, args)
        if not isinstance(layer, layers.Layer) and self.quantization(layer.name) != LayerQuantization():
            layer, *args = stand_in(layer, *args) or self.refuse_kind(layer)
        if layer.name in self.depthwise:
            args = (self.depthwise[layer.name](*args),)
        if isinstance(layer, OF_TWO_TENSORS) and len(args[0]) > 2 and self.quantization(layer.name).outputs is not None:
            *others, last = args[0]
            args = ([self.combine(layer, others), last],)
        if isinstance(layer, QuantizeWrapper):
            kwargs = {name: value for name, value in kwargs.items() if value is not None}  # such as `mask`
        how = self.quantization_behind(layer, *args)
        if how is None:
            return layer(*args, **kwargs)
        again = self.count_call(layer.name)
        if again and not getattr(layer, "weights", ()):  # shared only for its looks: it gets ranges for each call
            layer = type(layer).from_config({**layer.get_config(), "name": layer.name + again})
            again = ""
        axis = 1 if getattr(layer, "data_format", keras.config.image_data_format()) == "channels_first" else -1
        return FakeQuantize(how.outputs, axis, name=f"{layer.name}_quantizer{again}")(layer(*args, **kwargs))

    def combine(self, layer, tensors):
        """The sum or product of `tensors`, two by two as integer operators take them, each rounded as `layer` is."""
        result, *others = tensors
        for count, other in enumerate(others, 2):
            name = f"{layer.name}_of_{count}"
            name += self.count_call(name)
            result = type(layer)(name=name)([result, other])
            result = FakeQuantize(self.quantization(layer.name).outputs, name=f"{name}_quantizer")(result)
        return result

    def count_call(self, name):
        """What tells this call of a layer from those before; nothing at the first. Keras numbers layers alike."""
        self.calls[name] += 1
        while self.calls[name] > 1 and f"{name}_{self.calls[name]}" in self.names:
            self.calls[name] += 1
        return f"_{self.calls[name]}" if self.calls[name] > 1 else ""

    def quantization_behind(self, layer, *inputs):
        """The `LayerQuantization` that a `FakeQuantize` behind `layer` is to carry out; None if there is none to be."""
        if not isinstance(layer, (*GRID_LEAVING, layers.Rescaling)) and not (_is_plain(layer) and is_relu(layer)):
            return None
        if layer.name in self.fused or _is_pool_of_one_pixel(layer, *inputs):
            return None
        how = self.quantization(f"{layer.name}/softmax" if isinstance(layer, layers.Softmax) else layer.name)
        return None if how.outputs is None else how

    def quantize_input(self, tensor, quantizer=None):
        """`tensor`, an input of the model, through a quantiser that all layers which read it share."""
        if id(tensor) not in self.input_quantizers:
            if not self.rounds_pictures:
                return tensor
            is_bytes = input_layer_of(tensor) in self.byte_inputs
            quantizer = quantizer or (BYTES if is_bytes else self.quantization(INPUT).outputs)
            name = f"{tensor._keras_history.operation.name}_quantizer"
            self.input_quantizers[id(tensor)] = FakeQuantize(quantizer, name=name)(tensor)
        return self.input_quantizers[id(tensor)]


def _tensor_in(args):
    return next(arg for arg in args if isinstance(arg, keras.KerasTensor))


def _is_pool_of_one_pixel(layer, *inputs):
    """A mean that changes nothing: the converter drops it, and would mix up the scales of two quantisers in a row."""
    if not isinstance(layer, layers.GlobalAveragePooling2D):
        return False
    _, *sides = inputs[0].shape
    sides.pop(-1 if layer.data_format == "channels_last" else 0)
    return sides == [1, 1]


def _is_plain(layer):
    """An activation layer that is relu, or nothing at all."""
    return isinstance(layer, layers.Activation) and layer.activation in FUSED_ACTIVATIONS


def _is_known(layer):
    """Whether a stock layer without a kernel is one that integer operators compute."""
    if isinstance(layer, layers.Softmax):
        rank = len(layer._inbound_nodes[0].input_tensors[0].shape)
        return layer.axis in (-1, rank - 1)
    if isinstance(layer, layers.UpSampling2D):
        return layer.interpolation in INTERPOLATIONS
    if isinstance(layer, layers.ReLU):
        return is_relu(layer) or (layer.max_value is None and not layer.threshold)
    return isinstance(layer, (*GRID_KEEPING, *GRID_LEAVING)) or _is_plain(layer)


def _split_separable(layer):
    """The depthwise convolution and the 1x1 convolution that a `SeparableConv2D` is, not yet built."""
    shared = {"data_format": layer.data_format, "dtype": layer.dtype_policy, "trainable": layer.trainable}
    depthwise = layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_initializer=layer.depthwise_initializer,
        depthwise_regularizer=layer.depthwise_regularizer,
        depthwise_constraint=layer.depthwise_constraint,
        name=f"{layer.name}_depthwise",
        **shared,
    )
    pointwise = layers.Conv2D(
        layer.filters,
        1,
        activation=layer.activation,
        use_bias=layer.use_bias,
        kernel_initializer=layer.pointwise_initializer,
        kernel_regularizer=layer.pointwise_regularizer,
        kernel_constraint=layer.pointwise_constraint,
        bias_initializer=layer.bias_initializer,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
        activity_regularizer=layer.activity_regularizer,
        name=layer.name,
        **shared,
    )
    return depthwise, pointwise


def _carry_weights(source, target):
    """Assigns every weight of `source` to that of the same layer in `target`."""
    for layer in (layer for layer in source.layers if layer.weights):
        twin = _unwrapped(target.get_layer(layer.name))
        if isinstance(twin, ColorRescaling):  # a `Normalization`, whose weights are its arguments now
            continue
        targets = twin.weights
        if isinstance(layer, QuantizableLayer):  # its quantisers have weights, too
            by_path = {weight.path.removeprefix(twin.path): weight for weight in targets}
            targets = [by_path[weight.path.removeprefix(layer.path)] for weight in layer.weights]
        elif type(twin) is not type(layer):  # a separable convolution, now in two
            targets = [*_unwrapped(target.get_layer(f"{layer.name}_depthwise")).weights, *targets]
        for weight, ours in zip(layer.weights, targets, strict=True):
            ours.assign(weight.numpy())  # a copy: JAX donates the buffers of a model it trains
        if isinstance(twin, layers.Normalization):
            twin.finalize_state()


def _unwrapped(layer):
    return layer.layer if isinstance(layer, QuantizeWrapper) else layer
