"""`SuperNet`: all networks of a search space in one model, with the weights that they share."""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_mnv4.applications.arguments import resolve_input_shape
from keras_mnv4.applications.block_spec import BLOCK
from keras_mnv4.applications.block_spec import Choice
from keras_mnv4.applications.network import Definition
from keras_mnv4.applications.network import Style
from keras_mnv4.applications.network import build_network
from keras_mnv4.applications.network import resolve_definition
from keras_mnv4.applications.preprocessing import BYTES
from keras_mnv4.applications.preprocessing import Preprocessing
from keras_mnv4.batches import batches_of
from keras_mnv4.layers import Classifier
from keras_mnv4.tuner.gates import Gates
from keras_mnv4.tuner.gates import Table
from keras_mnv4.tuner.gates import channels_along
from keras_mnv4.tuner.shared import SHARED_ROWS
from keras_mnv4.tuner.shared import SharedConv
from keras_mnv4.tuner.shared import with_channels
from keras_mnv4.tuner.space import NONE
from keras_mnv4.tuner.space import SearchSpace
from keras_mnv4.tuner.space import label_of

BATCH = 128  # pictures at a time, where statistics are taken and candidates scored


@keras.saving.register_keras_serializable(package="keras_mnv4")
class SuperNet(keras.Model):
    """All networks of a search space, with the weights that they share.

    Which network it is at the moment is one more input, a vector of `Gates`: compiled once, it serves every candidate.
    Candidates share the weights of a place in the table: convolutions of few channels are the first channels of those
    of many, while depthwise convolutions of each size have weights of their own. Given no gates it is the candidate
    that was chosen last, by `choose`, and is a Keras model like any other: `fit` trains this one, `predict` asks it.

    Training in which all candidates take part is what strategies are for: `SPOS`, `TuNAS`, `DARTS`, `ProxylessNAS`.

    Source: the masks of channels and the shared expand and project convolutions are those of TuNAS (Bender et al.,
    "Can Weight Sharing Outperform Random Architecture Search?", arXiv 2008.06120), with which MobileNetV4 (arXiv
    2404.10518, section 6) was searched for.

    Args:
        space: a `SearchSpace` of rows `Conv`, `FusedIB`, `UIB` and `MQA`.
        input_shape: shape of a picture, its size known; None for that of the space.
        classes: number of classes.
        classifier_activation: activation of the classifier, None for logits.
        dropout_rate: rate of the dropout before the classifier.
        definition: as for `keras_mnv4.applications.build_network`.
        include_preprocessing: whether pictures are bytes, which the network scales; a
            `keras_mnv4.applications.Preprocessing` says how.
        **kwargs: those of `keras.Model`.

    Raises:
        ValueError: on a space with rows, or numbers, that cannot be shared, or an `input_shape` that
            `build_network` refuses or that is not known.

    Example:

    >>> supernet = SuperNet(small_space(), classes=10)
    >>> strategy = SPOS(supernet, costs)
    >>> strategy.compile("adamw")
    >>> strategy.fit(pictures, labels, epochs=10)
    >>> supernet.score(candidate, (validation_pictures, validation_labels), calibration_data=pictures[:2048])
    >>> network = supernet.extract(candidate)  # a model of its own, with the candidate's weights
    """

    def __init__(
        self,
        space,
        input_shape=None,
        classes=1000,
        classifier_activation="softmax",
        *,
        dropout_rate=0.0,
        definition=None,
        include_preprocessing=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        architecture = space.architecture
        if architecture.anti_aliasing is not None:
            raise ValueError(f"A supernet has no anti-aliasing. Received: {architecture.anti_aliasing!r}")
        is_first = keras.config.image_data_format() == "channels_first"
        self.space = space
        self.picture_shape = resolve_input_shape(input_shape, architecture.default_size, include_top=True)
        if None in self.picture_shape:
            raise ValueError(f"`input_shape` must be known. Received: {input_shape}")
        self.arguments = {
            "classes": classes,
            "classifier_activation": classifier_activation,
            "dropout_rate": dropout_rate,
            "definition": definition,
            "include_preprocessing": include_preprocessing,
        }
        definition = resolve_definition(architecture.definition if definition is None else definition)
        self.style = Style(definition, architecture.activation, architecture.layer_scale, None)
        self.coder = Gates(space)
        self.gates = self.add_weight(
            name="gates", shape=(self.coder.size,), trainable=False, initializer=_constant(self.coder.of(space.largest))
        )
        scaling = include_preprocessing if isinstance(include_preprocessing, Preprocessing) else BYTES
        self.preprocessing = scaling.make_layer(name="preprocessing") if include_preprocessing else None
        channels = channels_along(space, self.picture_shape[0 if is_first else -1])
        self.places = [
            SharedPlace(row, path, space, *channels[index : index + 2], self.style, name=path, dtype=self.dtype_policy)
            for index, (path, row) in enumerate(space.rows)
        ]
        self.pool = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")
        self.head = None
        if architecture.head_filters is not None:
            filters = Table.fixed(architecture.head_filters)
            how = {"activation": self.style.activation, **self.style.common}
            self.head = SharedConv(channels[-1], filters, name="head", dtype=self.dtype_policy, **how)
        self.dropout = layers.Dropout(dropout_rate, name="dropout")
        self.predictions = Classifier(classes, classifier_activation, name="predictions", dtype=self.dtype_policy)
        self._get_observer = None
        self(keras.Input(self.picture_shape))  # builds all layers

    def call(self, inputs, gates=None, training=False):
        parts = self.coder.split(ops.convert_to_tensor(self.gates) if gates is None else gates)
        outputs = inputs if self.preprocessing is None else self.preprocessing(inputs)
        for place in self.places:
            outputs = place(outputs, parts, training=training)
        outputs = self.pool(outputs)
        if self.head is not None:
            outputs = self.head(outputs, parts, training=training)
        return self.predictions(self.dropout(outputs, training=training), training=training)

    def choose(self, candidate):
        """Makes this the network of a candidate, until another one is chosen."""
        self.gates.assign(self.coder.of(candidate))

    def extract(self, candidate, name=None):
        """The network of a candidate as a model of its own, with the weights that it has here.

        It is what `build_network` makes of the candidate's table. Where bits are among the decisions, quantise it with
        `quantize_model(network, space.policy_of(candidate))`.
        """
        architecture = self.space.architecture_of(candidate)
        network = build_network(architecture, input_shape=self.picture_shape, name=name, **self.arguments)
        places = {place.name: place for place in self.places}
        for number, (path, row) in enumerate(self.space.chosen(candidate)):
            layer = network.get_layer(f"{BLOCK}{number}" if number else path)
            for part, source in places[path].parts_of(row).items():
                _copy_weights(source, layer if part == "" else next(each for each in layer.chain if each.name == part))
        if self.head is not None:
            _copy_weights(self.head, network.get_layer("head"))
        _copy_weights(self.predictions, network.get_layer("predictions"))
        return network

    @property
    def gives_logits(self):
        """Whether its outputs are logits, and not probabilities."""
        return keras.activations.get(self.arguments["classifier_activation"]) is keras.activations.linear

    def recalibrate(self, candidate, data, batch_size=BATCH):
        """Chooses a candidate, and takes the statistics of its batch normalisations anew.

        They are means over all pictures, of what each batch has in training. Arrays may be sorted by class: they are
        mixed, always in the same way; batches of other data should have classes mixed.

        Source: Guo et al., "Single Path One-Shot Neural Architecture Search" (arXiv 1904.00420), section 3.4.

        Args:
            candidate: the candidate.
            data: pictures: an array, a `tf.data.Dataset` or a `keras.utils.PyDataset`, with labels or without.
            batch_size: pictures at a time, of an array.

        Raises:
            ValueError: if `candidate` is none of the space, or there are no pictures.
        """
        self.choose(candidate)
        norms = [layer for layer in self._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
        statistics = [each for norm in norms for each in (norm.moving_mean, norm.moving_variance)]
        shares = [1.0 - norm.momentum for norm in norms for _ in range(2)]  # that one batch adds
        sums, count, observer = [0.0] * len(statistics), 0, self._find_observer()
        with _trainable(norms):  # frozen ones would see nothing
            for pictures, _ in batches_of(data, batch_size, is_mixed=True):
                for statistic in statistics:
                    statistic.assign(ops.zeros(statistic.shape))
                observer.predict_on_batch(pictures)
                of_batch = [ops.convert_to_numpy(statistic) for statistic in statistics]
                sums = [total + len(pictures) * each for total, each in zip(sums, of_batch, strict=True)]
                count += len(pictures)
        if not count:
            raise ValueError("`data` must hold a batch at least.")
        for statistic, total, share in zip(statistics, sums, shares, strict=True):
            statistic.assign(total / (count * share))

    def score(self, candidate, validation_data, calibration_data=None, batch_size=BATCH):
        """How good a candidate is with the shared weights. Nothing is changed here.

        Args:
            candidate: the candidate.
            validation_data: pair of pictures and labels, whole numbers or probabilities; or a `tf.data.Dataset` or
                `keras.utils.PyDataset` of batches of such pairs.
            calibration_data: as for `recalibrate`, which is done first; None for the statistics as they are, those of
                all candidates together.
            batch_size: pictures at a time, of arrays.

        Returns:
            A dictionary of `"accuracy"` and `"loss"`, the mean cross-entropy.

        Raises:
            ValueError: if `candidate` is none of the space, or there are no pictures.
        """
        before = [variable.numpy() for variable in self.non_trainable_variables]
        try:
            if calibration_data is None:
                self.choose(candidate)
            else:
                self.recalibrate(candidate, calibration_data, batch_size)
            pairs = [
                (ops.convert_to_numpy(labels), self.predict_on_batch(pictures))
                for pictures, labels in batches_of(validation_data, batch_size)
            ]
        finally:
            for variable, value in zip(self.non_trainable_variables, before, strict=True):
                variable.assign(value)
        if not pairs:
            raise ValueError("`validation_data` must hold a batch at least.")
        labels, outputs = (np.concatenate(each) for each in zip(*pairs, strict=True))
        if self.gives_logits:
            outputs = ops.convert_to_numpy(ops.softmax(outputs))
        shares = np.eye(outputs.shape[-1])[labels.astype(int).reshape(-1)] if labels.size == len(outputs) else labels
        return {
            "accuracy": float((outputs.argmax(-1) == shares.argmax(-1)).mean()),
            "loss": float(-(shares * np.log(np.maximum(outputs, 1e-7))).sum(-1).mean()),
        }

    def _find_observer(self):
        """A model that computes as in training when it is asked to predict."""
        if self._get_observer is None:
            observer = Observer(self)
            self._get_observer = lambda: observer  # not an attribute itself, which Keras would count among the layers
        return self._get_observer()

    def get_config(self):
        arguments = {
            name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for name, value in self.arguments.items()
        }
        return {
            "space": self.space.to_json(),
            "input_shape": list(self.picture_shape),
            **arguments,
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        config = {**config, "space": SearchSpace.from_json(config["space"])}
        for name, kind in (("definition", Definition), ("include_preprocessing", Preprocessing)):
            if isinstance(config[name], dict):
                config[name] = kind(**config[name])
        return cls(**config)


class SharedPlace(layers.Layer):
    """A place in the table: the kinds of rows that may be there, or none.

    Args:
        row: what stands there: a row, or a `Choice` between rows.
        path: the place.
        space: the `SearchSpace`.
        channels: `Table` of the channels that come in.
        filters: `Table` of those that go out.
        style: the `keras_mnv4.applications.network.Style` of all networks.
    """

    def __init__(self, row, path, space, channels, filters, style, **kwargs):
        super().__init__(**kwargs)
        kinds = row.values if isinstance(row, Choice) else (row,)
        unknown = [kind for kind in kinds if kind is not None and type(kind) not in SHARED_ROWS]
        if unknown:
            known = ", ".join(kind.__name__ for kind in SHARED_ROWS)
            raise ValueError(f"A supernet is of rows {known}. Received, at `{path}`: {unknown[0]}")
        if len({kind.stride for kind in kinds if kind is not None}) > 1:
            raise ValueError(f"Rows to choose from must have one stride, at `{path}`: {row}")
        self.decision = space.choice_at(path, row)
        self.labels = [label_of(kind) for kind in kinds]
        self.rows = {
            label: SHARED_ROWS[type(kind)](kind, path, space, channels, style, name=label, dtype=self.dtype_policy)
            for label, kind in zip(self.labels, kinds, strict=True)
            if kind is not None
        }
        self.filters = filters

    def call(self, inputs, parts, training=False):
        results = [
            inputs if label == NONE else self.rows[label](inputs, parts, training=training) for label in self.labels
        ]
        if self.decision is None:
            return results[0]
        axis = next(iter(self.rows.values())).channel_axis
        results = [with_channels(result, self.filters.most, axis) for result in results]
        shares = ops.cast(parts[self.decision], inputs.dtype)
        return sum(result * shares[place] for place, result in enumerate(results))

    def parts_of(self, row):
        """As for `SharedRow`."""
        return self.rows[label_of(row)].parts_of(row)


class Observer(keras.Model):
    """A supernet whose predictions are those in training, and whose statistics move with them."""

    def __init__(self, supernet):
        super().__init__()
        self.supernet = supernet

    def call(self, inputs, training=False):
        return self.supernet(inputs, training=True)


@contextlib.contextmanager
def _trainable(several):
    """While it lasts, these layers are trainable."""
    frozen = [layer for layer in several if not layer.trainable]
    try:
        for layer in frozen:
            layer.trainable = True
        yield
    finally:
        for layer in frozen:
            layer.trainable = False


def _copy_weights(source, target):
    """Copies to a layer the first part of all weights of its kind."""
    for large, small in zip(source.weights, target.weights, strict=True):
        value = ops.convert_to_numpy(large)
        small.assign(value[tuple(slice(size) for size in small.shape)])


def _constant(vector):
    return lambda shape, dtype=None: ops.convert_to_tensor(vector, dtype)
