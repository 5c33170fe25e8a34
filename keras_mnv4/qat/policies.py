"""Policies: ordered rules that say what is quantised, and how.

A policy is data. Each rule is a regular expression over layer paths with a quantiser for the weights and one for the
outputs; the first rule whose expression matches the whole path decides. Paths are those of Keras: `stem`,
`block_5/expand`, `predictions/conv`. Two more are the policy's own: `input`, the picture as it enters the network, and
`<block>/add`, the sum of a residual block.
"""

import dataclasses
import json
import re

import keras

from keras_mnv4.qat import quantizers
from keras_mnv4.qat import tfmot
from keras_mnv4.qat.quantizers import FixedQuantizer
from keras_mnv4.qat.quantizers import LastValueQuantizer
from keras_mnv4.qat.quantizers import MovingAverageQuantizer

# Paths of this package's networks that policies single out.
STEM, CLASSIFIER = "stem", "predictions(/conv)?"
ENDS = f"{STEM}|{CLASSIFIER}"  # which most of the literature spares
# They take the place of weights in the products of attention, and integer kernels want those symmetric.
KEYS_AND_VALUES = r".*/attention/(key|value)"


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class NormQuantization:
    """How the scale and the offset of a batch normalisation are quantised (`keras_mnv4.layers.QuantNorm`).

    Source: QuantNorm of PikeLPN (arXiv 2404.00103), a reconstruction, for the text could not be obtained. Assumed are
    the bits, and one power of two as the step of all channels' codes.

    Args:
        scale_bits: bits of the scale `gamma / sqrt(variance + epsilon)`.
        offset_bits: bits of the offset `beta - mean * scale`, taken with the rounded scale.
        power_of_two: whether scales are signed powers of two, so that normalising takes a shift; `scale_bits` then
            count the sign and the exponent.
        is_fused: whether scale and offset are rounded as said. If not, gamma, beta, mean and variance are, each for
            itself: the naive way, whose errors multiply. It is there to be compared with.

    Raises:
        ValueError: if the bits are not from 2 to 16, or those of powers of two not from 2 to 8.

    Example:

    >>> NormQuantization(power_of_two=True).scale_bits
    8
    """

    scale_bits: int = 8
    offset_bits: int = 8
    power_of_two: bool = False
    is_fused: bool = True

    def __post_init__(self):
        for name in ("scale_bits", "offset_bits"):
            if not 2 <= getattr(self, name) <= 16:
                raise ValueError(f"`{name}` must be from 2 to 16. Received: {getattr(self, name)!r}")
        if self.power_of_two and self.scale_bits > 8:
            raise ValueError(f"`scale_bits` of powers of two must be from 2 to 8. Received: {self.scale_bits}")

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class LayerQuantization:
    """How one layer is quantised: the `quantization` argument of `ConvNormAct`.

    Args:
        weights: quantiser of the kernel, or None to leave it in float.
        outputs: quantiser of what the layer gives out, after normalisation and activation, or None.
        norm: a `NormQuantization` for the normalisation of a layer of this package, or None to leave it in float, and
            to be folded into the kernel.
        inputs: quantiser of what goes into a convolution, for networks that round there instead of behind layers, or
            None. Files of integers cannot hold such networks.

    The quantisers may be those of this package, TFMOT's own, or objects of a class of yours with TFMOT's protocol.

    Raises:
        TypeError: if a quantiser is none.

    Example:

    >>> kernel = LastValueQuantizer(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)
    >>> eight_bits = LayerQuantization(weights=kernel, outputs=MovingAverageQuantizer(num_bits=8))
    >>> ConvNormAct(4, quantization=eight_bits)(np.ones((1, 8, 8, 3))).shape
    (1, 8, 8, 4)
    """

    weights: quantizers.Quantizer | None = None
    outputs: quantizers.Quantizer | None = None
    norm: NormQuantization | None = None
    inputs: quantizers.Quantizer | None = None

    def __post_init__(self):
        for field in ("weights", "outputs", "inputs"):
            object.__setattr__(self, field, _adopt(getattr(self, field), field))

    def get_config(self):
        fields = ("weights", "outputs", "norm", "inputs")
        return {field: keras.saving.serialize_keras_object(getattr(self, field)) for field in fields}

    @classmethod
    def from_config(cls, config):
        return cls(**{key: keras.saving.deserialize_keras_object(value) for key, value in config.items()})


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to the layers whose whole path matches `pattern`.

    Args:
        pattern: regular expression.
        weights: quantiser of the kernels, or None to leave them in float. As in `LayerQuantization`, TFMOT's or a class
            of yours will do.
        outputs: quantiser of the outputs, or None.
        norm: a `NormQuantization` for the normalisations, or None.
        inputs: quantiser of what goes into convolutions, or None.

    Raises:
        ValueError: if `pattern` is not a regular expression.
        TypeError: if a quantiser is none.

    Example:

    >>> Rule(r"predictions/.*").matches("predictions/conv")  # leaves the classifier in float
    True
    """

    pattern: str
    weights: quantizers.Quantizer | None = None
    outputs: quantizers.Quantizer | None = None
    norm: NormQuantization | None = None
    inputs: quantizers.Quantizer | None = None

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"`pattern` must be a regular expression ({error}). Received: {self.pattern!r}") from error
        for field in ("weights", "outputs", "inputs"):
            object.__setattr__(self, field, _adopt(getattr(self, field), field))

    @classmethod
    def from_tfmot(cls, pattern, quantize_config):
        """The rule that quantises as a TFMOT `QuantizeConfig` does: by its first weights and its first outputs.

        Where it has quantisers for activations and none for outputs, the activation is the output: layers of this
        package, and quantised stock layers, quantise behind their activation.

        Args:
            pattern: regular expression.
            quantize_config: a `tfmot.quantization.keras.QuantizeConfig`.

        Example:

        >>> Rule.from_tfmot("block_7/.*", MyQuantizeConfig())
        """
        return cls(pattern, *tfmot.quantizers_of(quantize_config))

    def matches(self, path):
        return re.fullmatch(self.pattern, path) is not None

    @property
    def quantization(self):
        return LayerQuantization(self.weights, self.outputs, self.norm, self.inputs)

    def get_config(self):
        return {"pattern": self.pattern, **self.quantization.get_config()}

    @classmethod
    def from_config(cls, config):
        quantization = LayerQuantization.from_config({key: how for key, how in config.items() if key != "pattern"})
        fields = {field.name: getattr(quantization, field.name) for field in dataclasses.fields(quantization)}
        return cls(config["pattern"], **fields)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class Policy:
    """An ordered tuple of rules; the first that matches a path decides.

    Args:
        rules: tuple of `Rule`.
        name: what reports call it.

    Raises:
        TypeError: if one of `rules` is no `Rule`.

    Example:

    >>> float_head = Policy((Rule("predictions/.*"), *get_policy("w8a8").rules), name="w8a8_float_head")
    >>> float_head.rule_for("predictions/conv").pattern
    'predictions/.*'
    """

    rules: tuple[Rule, ...]
    name: str = "custom"

    def __post_init__(self):
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"`rules` must hold `Rule` objects. Received: {rule!r}")

    def rule_for(self, *paths):
        """The first rule that matches a path, or one of several that a layer is known by; or None."""
        return next((rule for rule in self.rules if any(map(rule.matches, paths))), None)

    def unused_rules(self, paths):
        """The rules that decide none of `paths`: mistyped, or hidden behind an earlier rule.

        Args:
            paths: paths of a model, as `quantization_report(model)` lists them.
        """
        used = [self.rule_for(path) for path in paths]
        return tuple(rule for rule in self.rules if not any(rule is each for each in used))

    def to_json(self):
        """This policy as a text that `from_json` reads."""
        return json.dumps(keras.saving.serialize_keras_object(self), indent=2)

    @classmethod
    def from_json(cls, text):
        """The policy that `to_json` wrote.

        Raises:
            ValueError: if `text` is not that.
        """
        try:
            policy = keras.saving.deserialize_keras_object(json.loads(text))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"`text` must be what `Policy.to_json` wrote ({error}).") from error
        if not isinstance(policy, cls):
            raise ValueError(f"`text` must be what `Policy.to_json` wrote. It holds a {type(policy).__name__}.")
        return policy

    def get_config(self):
        return {"rules": [keras.saving.serialize_keras_object(rule) for rule in self.rules], "name": self.name}

    @classmethod
    def from_config(cls, config):
        rules = tuple(keras.saving.deserialize_keras_object(rule) for rule in config["rules"])
        return cls(rules, config["name"])


def _adopt(quantizer, argument):
    """`quantizer` as one of this package."""
    if quantizer is None or isinstance(quantizer, quantizers.Quantizer):
        return quantizer
    if all(callable(getattr(quantizer, method, None)) for method in ("build", "__call__", "get_config")):
        return tfmot.from_tfmot(quantizer)
    raise TypeError(
        f"`{argument}` must be a quantiser: of `keras_mnv4.qat`, or with TFMOT's `build`, `__call__` and `get_config`. "
        f"Received: {quantizer!r}"
    )


INPUT_RULE = Rule("input", outputs=MovingAverageQuantizer(num_bits=8))
# An int8 softmax has scale 1/256 in TFLite: its codes stand for 0 to 255/256.
PROBABILITY_RULE = Rule(r".*/(softmax|sigmoid)", outputs=FixedQuantizer(num_bits=8, init_min=0.0, init_max=255 / 256))
# That of tanh is 1/128: from -1 to 127/128.
TANH_RULE = Rule(r".*/tanh", outputs=FixedQuantizer(num_bits=8, init_min=-1.0, init_max=127 / 128))


def linear_kernel(num_bits):
    """The quantiser of kernels that integer files hold: symmetric, of equal steps, with a range for each channel.

    Args:
        num_bits: bits a value.
    """
    return LastValueQuantizer(num_bits=num_bits, per_axis=True, symmetric=True, narrow_range=True)


def _uniform(weight_bits, activation_bits):
    """Per-channel symmetric weights and per-tensor asymmetric activations, as TFMOT's default scheme has them."""
    weights = linear_kernel(weight_bits)
    outputs = MovingAverageQuantizer(num_bits=activation_bits)
    symmetric = MovingAverageQuantizer(num_bits=activation_bits, symmetric=True, narrow_range=True)
    return Policy(
        (
            INPUT_RULE,
            PROBABILITY_RULE,
            TANH_RULE,
            Rule(KEYS_AND_VALUES, weights=weights, outputs=symmetric),
            Rule(r".*", weights=weights, outputs=outputs),
        ),
        name=f"w{weight_bits}a{activation_bits}",
    )


def _first_and_last_8_bit(policy):
    """`policy` with 8 bits in the stem and the classifier."""
    ends = Rule(ENDS, weights=linear_kernel(8), outputs=MovingAverageQuantizer(num_bits=8))
    return Policy((ends, *policy.rules), name=f"{policy.name}_first_last_8")


_UNIFORM = (_uniform(8, 8), _uniform(4, 8), _uniform(4, 4))
POLICIES = {policy.name: policy for policy in (*_UNIFORM, *map(_first_and_last_8_bit, _UNIFORM[1:]))}


def get_policy(identifier):
    """The policy called `identifier`, or `identifier` itself if it is a `Policy`.

    Raises:
        ValueError: if there is no policy of that name.

    Example:

    >>> get_policy("w4a8").name
    'w4a8'
    """
    if isinstance(identifier, Policy):
        return identifier
    if not isinstance(identifier, str) or identifier not in POLICIES:
        raise ValueError(f"`policy` must be a `Policy` or one of {sorted(POLICIES)}. Received: policy={identifier!r}")
    return POLICIES[identifier]
