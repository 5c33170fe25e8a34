"""Policies: ordered rules that say what is quantised, and how.

A policy is data. Each rule is a regular expression over layer paths with a quantiser for the weights and one for the
outputs; the first rule whose expression matches the whole path decides. Paths are those of Keras: `stem`,
`block_5/expand`, `predictions/conv`. Two more are the policy's own: `input`, the picture as it enters the network, and
`<block>/add`, the sum of a residual block.
"""

import dataclasses
import re

import keras

from keras_mnv4.qat import quantizers
from keras_mnv4.qat.quantizers import FixedQuantizer
from keras_mnv4.qat.quantizers import LastValueQuantizer
from keras_mnv4.qat.quantizers import MovingAverageQuantizer


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class LayerQuantization:
    """How one layer is quantised: the `quantization` argument of `ConvNormAct`.

    Args:
        weights: quantiser of the kernel, or None to leave it in float.
        outputs: quantiser of what the layer gives out, after normalisation and activation, or None.
    """

    weights: quantizers.Quantizer | None = None
    outputs: quantizers.Quantizer | None = None

    def get_config(self):
        return {
            "weights": keras.saving.serialize_keras_object(self.weights),
            "outputs": keras.saving.serialize_keras_object(self.outputs),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{key: keras.saving.deserialize_keras_object(value) for key, value in config.items()})


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to the layers whose whole path matches `pattern`.

    Args:
        pattern: regular expression.
        weights: quantiser of the kernels, or None to leave them in float.
        outputs: quantiser of the outputs, or None.

    Raises:
        ValueError: if `pattern` is not a regular expression.

    Example:

    >>> Rule(r"predictions/.*").matches("predictions/conv")  # leaves the classifier in float
    True
    """

    pattern: str
    weights: quantizers.Quantizer | None = None
    outputs: quantizers.Quantizer | None = None

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"`pattern` must be a regular expression ({error}). Received: {self.pattern!r}") from error

    def matches(self, path):
        return re.fullmatch(self.pattern, path) is not None

    @property
    def quantization(self):
        return LayerQuantization(self.weights, self.outputs)

    def get_config(self):
        return {"pattern": self.pattern, **self.quantization.get_config()}

    @classmethod
    def from_config(cls, config):
        quantization = LayerQuantization.from_config({key: config[key] for key in ("weights", "outputs")})
        return cls(config["pattern"], quantization.weights, quantization.outputs)


@keras.saving.register_keras_serializable(package="keras_mnv4")
@dataclasses.dataclass(frozen=True)
class Policy:
    """An ordered tuple of rules; the first that matches a path decides.

    Args:
        rules: tuple of `Rule`.
        name: what reports call it.

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

    def rule_for(self, path):
        """The first rule that matches `path`, or None."""
        return next((rule for rule in self.rules if rule.matches(path)), None)

    def get_config(self):
        return {"rules": [keras.saving.serialize_keras_object(rule) for rule in self.rules], "name": self.name}

    @classmethod
    def from_config(cls, config):
        rules = tuple(keras.saving.deserialize_keras_object(rule) for rule in config["rules"])
        return cls(rules, config["name"])


def _uniform(weight_bits, activation_bits):
    """Per-channel symmetric weights and per-tensor asymmetric activations, as TFMOT's default scheme has them."""
    weights = LastValueQuantizer(num_bits=weight_bits, per_axis=True, symmetric=True, narrow_range=True)
    outputs = MovingAverageQuantizer(num_bits=activation_bits)
    # An int8 softmax has scale 1/256 in TFLite: its codes stand for 0 to 255/256.
    probability = FixedQuantizer(num_bits=8, init_min=0.0, init_max=255 / 256)
    return Policy(
        (
            Rule("input", outputs=MovingAverageQuantizer(num_bits=8)),
            Rule(r".*/(softmax|sigmoid)", outputs=probability),
            Rule(r".*", weights=weights, outputs=outputs),
        ),
        name=f"w{weight_bits}a{activation_bits}",
    )


POLICIES = {policy.name: policy for policy in (_uniform(8, 8), _uniform(4, 8))}


def get_policy(identifier):
    """The policy called `identifier`, or `identifier` itself if it is a `Policy`.

    Raises:
        ValueError: if there is no policy of that name.
    """
    if isinstance(identifier, Policy):
        return identifier
    if identifier not in POLICIES:
        raise ValueError(f"`policy` must be a `Policy` or one of {sorted(POLICIES)}. Received: policy={identifier!r}")
    return POLICIES[identifier]
