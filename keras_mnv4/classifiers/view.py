"""`ClassifierView`: reads a classifier: its logits, and what layers inside it give."""

import keras
from keras import ops

from keras_mnv4.classifiers.outputs import ends_in_softmax
from keras_mnv4.classifiers.outputs import last_operation
from keras_mnv4.classifiers.outputs import log_probabilities
from keras_mnv4.classifiers.resizing import resize
from keras_mnv4.classifiers.resizing import sides_of
from keras_mnv4.layers import Classifier

COLORS = (1, 3)  # channels of pictures
KINDS = {"probabilities": True, "logits": False}


class ClassifierView:
    """Reads a classifier: pictures in, `{"output", "logits", "features"}` out, of one forward pass.

    Pictures are resized to what the network takes. Logits are float32. Where the network ends in a softmax that can be
    looked behind, they are those before it: a softmax rounded to eight bits, or in half precision, has lost the small
    probabilities. Else they are the logarithms of the probabilities, which is the same up to a constant.

    Args:
        model: a built Keras model of one input, pictures, and one output, `(batch, classes)`.
        argument: what the caller calls the model, for messages.
        outputs: `"probabilities"` or `"logits"`, what the model gives; None to see that from its last layer.
        layer_names: layers whose outputs are wanted.

    Raises:
        ValueError: if the model is not built, if it takes pictures of another data format than Keras is set to, if it
            is not clear what it gives, or if it has no such layer.
    """

    def __init__(self, model, argument, outputs=None, layer_names=()):
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(f"`{argument}` must be a built `keras.Model`. Received: {argument}={model!r}")
        if outputs not in (None, *KINDS):
            raise ValueError(
                f'`{argument}_outputs` must be "probabilities", "logits" or None. Received: {argument}_outputs='
                f"{outputs!r}"
            )
        self.model = model
        self.is_functional = bool(getattr(model, "inputs", None))
        if self.is_functional and (len(model.inputs), len(model.outputs)) != (1, 1):
            raise ValueError(
                f"`{argument}` must have one input and one output. Received: {len(model.inputs)} and "
                f"{len(model.outputs)}"
            )
        seen = ends_in_softmax(model) if self.is_functional else None
        self.is_softmax = seen if outputs is None else KINDS[outputs]
        if self.is_softmax is None:
            raise ValueError(
                f"It is not clear from the last layer of `{argument}` whether it gives probabilities: say "
                f'{argument}_outputs="probabilities" or {argument}_outputs="logits".'
            )
        if layer_names and not self.is_functional:
            raise ValueError(f"Layers inside `{argument}` can be read only if it is a Functional or Sequential model.")
        self._sides = self._before = self._finish = None
        if self.is_functional:
            _check_data_format(model, argument)
            self._sides = sides_of(model.inputs[0])
            if seen and self.is_softmax:
                self._before, self._finish = _before_softmax(model)
        self.features = {name: model.get_layer(name).output for name in layer_names}
        self.classes = model.outputs[0].shape[-1] if self.is_functional else None
        self._reader = self._make_reader()

    def _make_reader(self):
        if not self.is_functional:
            return lambda pictures, training: {"output": self.model(pictures, training=training), "features": {}}
        wanted = {"output": self.model.outputs[0], "features": self.features}
        if self._before is not None:
            wanted["before"] = self._before
        return keras.Model(self.model.inputs[0], wanted)

    def __call__(self, pictures, training=False):
        """A dictionary of the model's output, its logits, and the outputs of the layers by name."""
        seen = self._reader(self.resize(pictures), training=training)
        logits = self.logits(seen["output"])
        if self._before is not None:
            logits = ops.cast(self._finish(seen["before"]), "float32")
        return {"output": seen["output"], "logits": logits, "features": seen["features"]}

    @property
    def sees_more(self):
        """Whether there is something to read that the model's output does not tell."""
        return bool(self.features) or self._before is not None

    def logits(self, output):
        """The logits, as far as the model's output tells."""
        return log_probabilities(output) if self.is_softmax else ops.cast(output, "float32")

    def resize(self, pictures):
        """`pictures` in the size that the model takes."""
        return pictures if self._sides is None or None in self._sides else resize(pictures, self._sides)


class Probabilities(keras.Model):
    """The probabilities that a `ClassifierView` reads, for `predict` and `predict_on_batch`."""

    def __init__(self, view):
        super().__init__(autocast=False, name="soft_labels")
        self.model = view.model
        self._view = view
        self.built = True

    def call(self, pictures):
        return ops.softmax(self._view(pictures, training=False)["logits"])


def _check_data_format(model, argument):
    """Raises if a model plainly takes square pictures whose colours are where Keras, as it is set, has none."""
    shape = tuple(model.inputs[0].shape[1:])
    is_first = keras.config.image_data_format() == "channels_first"
    other, sides, channels = (
        ("channels_last", shape[:2], shape[2:]) if is_first else ("channels_first", shape[1:], shape[:1])
    )
    if len(shape) == 3 and sides[0] == sides[1] and sides[0] not in COLORS and channels[0] in COLORS:
        raise ValueError(
            f"`{argument}` takes pictures of shape {shape}, which is {other}, and Keras is set to "
            f"{keras.config.image_data_format()}: call `keras.config.set_image_data_format({other!r})` first."
        )


def _before_softmax(model):
    """A tensor of a Functional model that ends in a softmax, and the function from it to the logits; or two Nones."""
    operation = last_operation(model)
    if isinstance(operation, Classifier):
        return operation.input, lambda maps: ops.reshape(operation.compute_part("conv", maps), (-1, operation.classes))
    if isinstance(operation, keras.layers.Softmax) or (
        isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.softmax
    ):
        return operation.input, lambda logits: logits
    return None, None
