"""From a table to a network: `Architecture` and `Style` say what to build, `build_network` builds it."""

import dataclasses
import functools
import inspect
import json
import pathlib
import textwrap

import keras
from keras import layers

from keras_mnv4.applications import arguments
from keras_mnv4.applications import weights as pretrained
from keras_mnv4.applications.block_spec import BLOCK
from keras_mnv4.applications.block_spec import BlockSpec
from keras_mnv4.applications.block_spec import Choice
from keras_mnv4.applications.block_spec import from_fields
from keras_mnv4.applications.block_spec import row_from_dict
from keras_mnv4.applications.block_spec import row_to_dict
from keras_mnv4.applications.checkpoints import CHECKPOINTS
from keras_mnv4.applications.preprocessing import BYTES
from keras_mnv4.applications.preprocessing import Preprocessing
from keras_mnv4.layers import Classifier
from keras_mnv4.layers import ConvNormAct
from keras_mnv4.layers.arguments import check_rate
from keras_mnv4.layers.inverted_bottleneck import round_channels

SHOWN = 200  # letters of what was received in place of an architecture


@dataclasses.dataclass(frozen=True)
class Definition:
    """What the published code bases do differently for the same table.

    Args:
        padding: `"same"` as TensorFlow pads, or `"symmetric"` as PyTorch models do; they differ at strides of 2.
        norm_epsilon: epsilon of every batch normalisation.
        norm_momentum: momentum of every batch normalisation.
        narrows_stem: whether a width below 1 narrows the stem, too; a width above 1 always widens it.

    Example:

    >>> trained = Definition(norm_epsilon=1e-6, norm_momentum=0.95, narrows_stem=True)
    >>> model = MobileNetV4ConvSmall(weights=None, definition=trained)
    """

    padding: str = "same"
    norm_epsilon: float = 1e-3
    norm_momentum: float = 0.9
    narrows_stem: bool = False


DEFINITIONS = {
    "default": Definition(),
    "timm": Definition(padding="symmetric", norm_epsilon=1e-5),
    "model_garden": Definition(norm_momentum=0.99, narrows_stem=True),
}


@dataclasses.dataclass(frozen=True)
class Style:
    """What all blocks of a network have in common: what a table's rows leave unsaid."""

    definition: Definition
    activation: str
    layer_scale: float | None
    anti_aliasing: str | None

    @property
    def common(self):
        """Arguments of every block."""
        return {
            "padding": self.definition.padding,
            "norm_epsilon": self.definition.norm_epsilon,
            "norm_momentum": self.definition.norm_momentum,
        }


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network but for its width, its input and its classes.

    Args:
        name: name of its models, which is also the key of its checkpoints.
        blocks: the table, stem first.
        default_size: height and width of a picture, in pixels.
        activation: activation of all blocks.
        layer_scale: start value of the learned factors of every UIB and attention branch, None for none.
        anti_aliasing: how strides of 2 behind the stem are taken, as for `keras_mnv4.layers.ConvNormAct`.
        head_filters: channels of the convolution between pooling and classifier, None for none.
        has_fixed_stem: whether the stem keeps its channels at every width.
        definition: what is meant where neither the user nor a checkpoint names a `Definition`: one, or a key of
            `DEFINITIONS`.
        layout: how `.safetensors` files call its tensors: a key of `keras_mnv4.applications.layouts.LAYOUTS`.

    Example:

    >>> rows = (Conv(16, kernel=3, stride=2), UIB(24, expand=4, middle=3, stride=2))
    >>> architecture = Architecture("mine", rows, default_size=64)
    >>> Architecture.from_dict(architecture.to_dict()) == architecture
    True
    """

    name: str
    blocks: tuple[BlockSpec, ...]
    default_size: int = 224
    activation: str = "relu"
    layer_scale: float | None = None
    anti_aliasing: str | None = None
    head_filters: int | None = 1280
    has_fixed_stem: bool = False
    definition: str | Definition = "default"
    layout: str = "timm"

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(self.blocks))

    def to_dict(self):
        """This architecture as a JSON-ready dictionary, which `from_dict` reads."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        is_own = isinstance(self.definition, Definition)
        fields["definition"] = dataclasses.asdict(self.definition) if is_own else self.definition
        return {**fields, "blocks": [row_to_dict(row) for row in self.blocks]}

    @classmethod
    def from_dict(cls, fields):
        """The architecture that `to_dict` wrote.

        Raises:
            ValueError: if `fields` is not that.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        is_known = isinstance(fields, dict) and known >= fields.keys() >= {"name", "blocks"}
        if not is_known or not isinstance(fields["blocks"], (list, tuple)):
            raise ValueError(
                "An architecture is a dictionary of a `name`, `blocks`, which is a list, and what else `Architecture` "
                f"has. Received: {textwrap.shorten(str(fields), SHOWN, placeholder=' ...')}"
            )
        definition = fields.get("definition", "default")
        definition = from_fields(Definition, definition) if isinstance(definition, dict) else definition
        blocks = tuple(map(row_from_dict, fields["blocks"]))
        return cls(**{**fields, "blocks": blocks, "definition": definition})

    def stem(self, alpha, narrows=False):
        """The first row at a width.

        Args:
            alpha: width multiplier.
            narrows: whether a width below 1 counts, too, as the `Definition` says.
        """
        is_kept = self.has_fixed_stem or (alpha < 1 and not narrows)
        return self.blocks[0].scaled(1.0 if is_kept else alpha)


def read_architecture(path, argument="architecture"):
    """The `Architecture` of a JSON file of its `to_dict`, as `mnv4 search` writes it.

    Args:
        path: the file.
        argument: what it was given as, for the message.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not of an architecture.

    Example:

    >>> read_architecture("search/network.json")
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` names no file. Received: {path}")
    try:
        return Architecture.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"`{argument}` must be a JSON file of an architecture ({error}). Received: {path}") from error


def build_network(
    architecture,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name=None,
    *,
    alpha=1.0,
    dropout_rate=0.0,
    drop_path_rate=0.0,
    activation=None,
    definition=None,
    padding=None,
    include_preprocessing=True,
):
    """Builds the network of an architecture.

    Args:
        architecture: an `Architecture`.
        include_top: whether to add the classifier and the convolution before it.
        weights: None for random ones; `"imagenet"` or the tag of a checkpoint (see
            `keras_mnv4.applications.CHECKPOINTS`), such as `"e2400_r224_in1k"`, for pretrained ones; or the path of a
            `.weights.h5` file of this model, a `.h5` file of the whole model or a `.safetensors` file in the
            architecture's `layout`, timm's for MobileNetV4. A `.h5` file's padding, epsilon and scale of pictures are
            taken from the other arguments: of a network that began at a checkpoint, give `definition` and
            `include_preprocessing` that checkpoint's. A `.keras` file remembers them.
        input_tensor: a Keras tensor to build on, instead of a new input. Of two networks, layers have the same names,
            and one model cannot hold both: apply the second as a layer, `network(tensor)`.
        input_shape: shape of a picture, `(height, width, channels)` or as the global data format says. Sides may be
            None, and need not be equal. By default that of the checkpoint or the architecture with a classifier, any
            size without.
        pooling: what to do without a classifier: None gives the last feature map, `"avg"` or `"max"` pool it.
        classes: number of classes.
        classifier_activation: activation of the classifier, None for logits.
        name: name of the model.
        alpha: width multiplier. Channels are rounded to multiples of 8. Below 1 the stem (but see `definition`) and
            the convolution before the classifier keep their width; above 1 all grow, but for the stem of a ResNet.
        dropout_rate: rate of the dropout before the classifier, from 0 up to but not including 1.
        drop_path_rate: rate below 1 that stochastic depth grows towards, linearly over the blocks, from 0 at the
            first: block `i` of `n`, counted from 0, has `i / n` of it. Blocks without a sum, such as PikeLPN's, leave
            out nothing.
        activation: activation of all blocks; by default that of the architecture.
        definition: `"default"`, `"timm"`, `"model_garden"` or a `Definition`: padding and normalisation as that code
            base has them. By default that of the checkpoint, else that of the architecture.
        padding: `"same"` or `"symmetric"`, in place of the definition's.
        include_preprocessing: whether the model takes bytes, 0 to 255, and scales them itself: as its checkpoint
            wants it, or without one to [-1, 1) by `x / 128 - 1`, a scale that makes the integer file's input the
            bytes of the picture. A `Preprocessing` scales them in its own way. If False, the model takes scaled
            pictures.

    Returns:
        A Functional `keras.Model`. Its output is `(batch, classes)`; without a classifier, the last feature map or,
        pooled, its channels: 960 for the paper's networks.

    Raises:
        ValueError: on arguments that contradict each other; the message says which and what to do.

    Example:

    >>> rows = (Conv(16, kernel=3, stride=2), UIB(24, expand=4, middle=3, stride=2))
    >>> build_network(Architecture("mine", rows), classes=10, input_shape=(64, 64, 3)).output_shape
    (None, 10)
    """
    arguments.check_pooling(pooling)
    arguments.check_alpha(alpha)
    check_rate("dropout_rate", dropout_rate)
    check_rate("drop_path_rate", drop_path_rate)
    if include_top:
        arguments.check_classes(classes)
    check_rows(architecture)
    source = pretrained.find(weights, architecture, alpha)
    input_shape = arguments.resolve_input_shape(
        input_shape, source.size or architecture.default_size, include_top, input_tensor
    )
    arguments.check_preprocessing(include_preprocessing, input_shape)
    arguments.check_pretrained(source, include_top, classes, classifier_activation, input_shape)
    x, inputs = arguments.resolve_input(input_tensor, input_shape)

    if definition is None:
        definition = source.definition or architecture.definition
    style = Style(
        definition=resolve_definition(definition, padding),
        activation=architecture.activation if activation is None else activation,
        layer_scale=architecture.layer_scale,
        anti_aliasing=architecture.anti_aliasing,
    )
    if include_preprocessing:
        scaling = source.preprocessing if arguments.channels_of(input_shape) == 3 else None
        if isinstance(include_preprocessing, Preprocessing):
            scaling = include_preprocessing
        x = (scaling or BYTES).make_layer(name="preprocessing")(x)
    stem = architecture.stem(alpha, style.definition.narrows_stem)
    x = stem.make_layer(dataclasses.replace(style, anti_aliasing=None), "stem")(x)
    _, *body = architecture.blocks
    for index, block in enumerate(body):
        rate = drop_path_rate * index / len(body)
        x = block.scaled(alpha).make_layer(style, f"{BLOCK}{index + 1}", rate)(x)

    if include_top:
        x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
        if architecture.head_filters is not None:
            filters = round_channels(architecture.head_filters * max(alpha, 1.0))
            x = ConvNormAct(filters, activation=style.activation, name="head", **style.common)(x)
        x = layers.Dropout(dropout_rate, name="dropout")(x)
        x = Classifier(classes, classifier_activation, name="predictions")(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)

    model = keras.Model(inputs, x, name=name or architecture.name)
    source.load(model)
    return model


def resolve_definition(definition, padding=None):
    """The `Definition` that is meant.

    Args:
        definition: a key of `DEFINITIONS`, or a `Definition`.
        padding: in place of the definition's, if not None.

    Raises:
        ValueError: if it is neither.
    """
    if not isinstance(definition, Definition):
        if not isinstance(definition, str) or definition not in DEFINITIONS:
            raise ValueError(
                f"`definition` must be one of {sorted(DEFINITIONS)} or a `Definition`. Received: {definition!r}"
            )
        definition = DEFINITIONS[definition]
    return definition if padding is None else dataclasses.replace(definition, padding=padding)


def check_rows(architecture):
    """Raises unless the table of an `Architecture` is that of one network."""
    rows = architecture.blocks
    if not rows:
        raise ValueError(f"Architecture `{architecture.name}` has no rows.")
    if any(isinstance(row, Choice) or row.choices for row in rows):
        raise ValueError(
            f"Architecture `{architecture.name}` has choices: it is a search space. Take a network of it with "
            "`keras_mnv4.tuner.SearchSpace(architecture).architecture_of(candidate)`."
        )


def constructor(function_name, architecture, summary, module):
    """A function with the signature of `keras.applications` that builds `architecture`.

    Args:
        function_name: its name.
        architecture: what it builds.
        summary: what the network is and where its table is from, for the docstring.
        module: name of the module that it is in, by which it is pickled.
    """
    is_trained = any(each.architecture == architecture.name for each in CHECKPOINTS)
    docstring = f"""{summary}

    Pictures are {architecture.default_size} pixels wide and high where nothing else is said. The arguments are those
    of `keras_mnv4.applications.build_network` but for the architecture.

    Example:

    >>> model = {function_name}(weights=None, classes=10)
    """
    return with_signature(
        function_name,
        functools.partial(build_network, architecture),
        docstring,
        module,
        defaults={"weights": "imagenet" if is_trained else None, "name": architecture.name},
    )


def with_signature(function_name, build, docstring, module, defaults, left_out=()):
    """`build` as a function with the signature of `build_network`, the architecture excepted.

    Args:
        function_name: its name.
        build: takes these arguments by name.
        docstring: its docstring.
        module: name of the module that it is in, by which it is pickled.
        defaults: defaults that are not those of `build_network`, by argument.
        left_out: further arguments that it does not have.
    """
    _, *parameters = inspect.signature(build_network).parameters.values()
    parameters = [each.replace(default=defaults.get(each.name, each.default)) for each in parameters]
    signature = inspect.Signature([each for each in parameters if each.name not in left_out])

    def construct(*args, **kwargs):
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function_name}() {error}") from None
        bound.apply_defaults()
        return build(**bound.arguments)

    construct.__name__ = construct.__qualname__ = function_name
    construct.__module__ = module
    construct.__signature__ = signature
    construct.__doc__ = docstring
    return construct
