"""`QuantizableLayer`: what a layer offers so that a policy can quantise its inside."""

import keras
from keras import ops

from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.statistics import freeze_statistics
from keras_mnv4.qat.statistics import frozen_statistics

ITSELF = ""  # the part that is the layer itself
LEAST_KERNEL = 2.0**-12  # of a channel's bias: below that its kernel counts as zero


class QuantizableLayer(keras.layers.Layer):
    """A layer that takes its quantisation as a constructor argument and keeps it in its configuration.

    Args:
        quantization: a dictionary from part to `keras_mnv4.qat.LayerQuantization`; for a layer whose only part is
            itself, that object alone; None for a float layer.
        frozen: paths of the layers inside that do not train, such as `"expand/norm"`; None for none, or with
            `trainable=False` all.

    Example:

    >>> block = UniversalInvertedBottleneck(16, expansion=4, middle_kernel=3)
    >>> block(np.zeros((1, 8, 8, 16))).shape
    (1, 8, 8, 16)
    >>> isinstance(block, QuantizableLayer), block.quantizable_parts
    (True, ('expand', 'middle_depthwise', 'project', 'add'))
    """

    channel_axis = -1  # of what comes out

    def __init__(self, quantization=None, frozen=None, **kwargs):
        super().__init__(**kwargs)
        self.quantization = quantization
        self.frozen = frozen

    @property
    def obstacle(self):
        """What keeps this layer, once it is built, from being quantised; None if nothing does."""
        return None

    @property
    def quantizable_parts(self):
        """Names of the parts that a policy may address below this layer, once it is built."""
        return (ITSELF,)

    @property
    def operator_parts(self):
        """Names of the parts that become operators of an integer file: more than a policy may address, in some."""
        return self.quantizable_parts

    def compute_part(self, part, *inputs):
        """What `part` alone gives for its inputs at inference; exporters verify a file part by part with it."""
        return self(*inputs, training=False)

    def part_quantization(self, part):
        """The `LayerQuantization` of `part`, or None."""
        if isinstance(self.quantization, dict):
            return self.quantization.get(part)
        return self.quantization if part == ITSELF else None

    def quantization_below(self, part):
        """What a layer inside, called `part`, takes as its `quantization`."""
        given = self.quantization if isinstance(self.quantization, dict) else {}
        inner = {path[len(part) + 1 :]: how for path, how in given.items() if _is_below(path, part)}
        return inner or self.part_quantization(part)

    def finish_parts(self):
        """To be called once all parts are made: holds `quantization` against them, and freezes those that are to be.

        Raises:
            ValueError: if `quantization` is about other parts than there are.
        """
        self._check_quantization()
        for path, layer in _layers_inside(self):
            if self.frozen is not None:
                layer.trainable = path not in self.frozen
            elif not self.trainable:
                layer.trainable = False

    def _check_quantization(self):
        parts, given = self.quantizable_parts, self.quantization
        is_dictionary, is_whole = isinstance(given, dict), parts == (ITSELF,)
        if given is None or (is_dictionary != is_whole and (is_whole or set(given) <= set(parts))):
            return
        wanted = "one `LayerQuantization`"
        if not is_whole:
            wanted = f"a dictionary to `LayerQuantization` from parts, of {', '.join(map(repr, parts))}"
        received = f"parts {', '.join(map(repr, given))}" if is_dictionary else repr(given)
        raise ValueError(f"`quantization` of `{self.name}` must be {wanted}. Received: {received}")

    def make_output_quantizer(self, part, name="output_quantizer", axis=None):
        """A `FakeQuantize` for what `part` gives out, or None if that stays in float.

        Args:
            part: the part.
            name: name of the `FakeQuantize`.
            axis: the channels' axis; None for that of the layer.
        """
        how = self.part_quantization(part)
        if how is None or how.outputs is None:
            return None
        return FakeQuantize(how.outputs, self.channel_axis if axis is None else axis, name=name)

    def get_config(self):
        quantization = keras.saving.serialize_keras_object(self.quantization)
        return {**super().get_config(), "quantization": quantization, "frozen": self._frozen_now()}

    def _frozen_now(self):
        inside = list(_layers_inside(self))
        if not inside:
            return self.frozen
        frozen = [path for path, layer in inside if not layer.trainable]
        return None if len(frozen) == (0 if self.trainable else len(inside)) else frozen

    def get_build_config(self):
        return {**(super().get_build_config() or {}), "frozen_statistics": frozen_statistics(self)}

    def build_from_config(self, config):
        super().build_from_config(config)
        frozen = config.get("frozen_statistics")
        if frozen is not None:
            freeze_statistics(self, **frozen)

    @classmethod
    def from_config(cls, config):
        quantization = keras.saving.deserialize_keras_object(config.get("quantization"))
        return super().from_config({**config, "quantization": quantization})


def _layers_inside(layer, path=""):
    """All layers inside of a layer, each with its path, a layer before those inside of it."""
    for each in layer._layers:
        yield f"{path}{each.name}", each
        yield from _layers_inside(each, f"{path}{each.name}/")


def join_parts(layer, parts):
    """The paths of parts of `layer`, seen from the layer round it."""
    return tuple(f"{layer.name}/{part}".rstrip("/") for part in parts)


def _is_below(path, part):
    return path.startswith(f"{part}/")


def least_kernel_range(norm, bias):
    """The least range of a convolution's kernel with which its integer biases fit into 32 bits: one number a channel.

    Args:
        norm: the batch normalisation behind the convolution, or None.
        bias: the convolution's own bias, or None.
    """
    total = ops.zeros(()) if bias is None else ops.convert_to_tensor(bias)
    if norm is not None:  # what is added to the convolution, were the normalisation's factor all in the kernel
        mean, variance = (ops.convert_to_tensor(each) for each in (norm.moving_mean, norm.moving_variance))
        gamma = ops.ones_like(mean) if norm.gamma is None else ops.convert_to_tensor(norm.gamma)
        beta = ops.zeros_like(mean) if norm.beta is None else ops.convert_to_tensor(norm.beta)
        is_dead = ops.equal(gamma, 0)
        total = total + beta * ops.sqrt(variance + norm.epsilon) / ops.where(is_dead, 1.0, gamma) - mean
        total = ops.where(is_dead, 0.0, total)
    return LEAST_KERNEL * ops.abs(total)
