"""`Strategy`: what all ways of training a supernet have in common."""

import keras
import numpy as np
from keras import ops

from keras_mnv4.classifiers.outputs import ends_in_softmax
from keras_mnv4.classifiers.soft_labels import SoftLabelLoss
from keras_mnv4.classifiers.view import ClassifierView
from keras_mnv4.tuner.strategies.optimizer import SearchOptimizer

RANDOM = "random"  # where weights' files have the state of the random numbers


class Strategy(keras.Model):
    """Trains all networks of a supernet together, with `fit`, and may learn which of them is good.

    A subclass says in `draw` which network, or which mixture of networks, a step trains. One that learns of
    architectures has logits for them, a vector as that of `Gates`, and says in `architecture_loss` how good they are:
    its gradient is for the logits alone, that of the training loss for the weights alone.

    Such a strategy needs two sets of pictures, one for the weights and one for the architecture: `search_batches` makes
    pairs of batches of them. `predict` and `evaluate` ask the network of the largest logits. What is to be kept is the
    supernet, `strategy.supernet.save(...)`; `save_weights` keeps all that training needs to go on.

    Args:
        supernet: a `SuperNet`.
        seed: seed of all that is drawn.
        first_logits: initialiser of the logits; None for a strategy without any.
        augmentation: Keras layers that change the pictures for the weights, and not those for the architecture.
        teacher: a built Keras classifier of the same classes that takes what the supernet takes, or a function from
            such pictures to probabilities. What it says of pictures takes the place of their labels in the loss, in
            training and in `evaluate`; metrics keep the labels. It computes as at inference and stays as it is.
        **kwargs: those of `keras.Model`.
    """

    def __init__(self, supernet, seed=0, first_logits=None, augmentation=(), teacher=None, **kwargs):
        super().__init__(**kwargs)
        self.supernet = supernet
        self.space = supernet.space
        self.coder = supernet.coder
        self.augmentation = list(augmentation)
        self._ask = labeller(teacher)
        self.random = keras.random.SeedGenerator(seed)
        self.steps = self.add_weight(name="steps", shape=(), dtype="int32", trainable=False, initializer="zeros")
        self.logits = None
        if first_logits is not None:
            shape = (self.coder.size,)
            self.logits = self.add_weight(
                name="logits", shape=shape, dtype="float32", initializer=first_logits, autocast=False
            )
        self.built = True

    def draw(self):
        """The gates of a training step in parts, by decision, as `Gates.split` gives them."""
        raise NotImplementedError(f"{type(self).__name__} must implement `draw`")

    def architecture_loss(self, pictures, labels, parts, training_data):
        """The loss of which the logits get the gradient.

        Args:
            pictures: those for the architecture.
            labels: theirs.
            parts: what `draw` gave.
            training_data: pair of the pictures, as they were changed, and labels for the weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `architecture_loss`")

    def is_due(self, step):
        """Whether the logits take a step in step number `step`, from 1: a boolean tensor, or None for yes."""
        return None

    def best_candidate(self):
        """The network of the largest logits; of a strategy without any, that which was chosen of the supernet.

        If the largest make no network, one is found in which the fewest decisions are others.
        """
        return self.space.mend(self.coder.candidate_of(ops.convert_to_numpy(self._best_gates())))

    def _best_gates(self):
        if self.logits is None:
            return ops.convert_to_tensor(self.supernet.gates)
        parts = self.coder.split(ops.convert_to_tensor(self.logits)).items()
        return self.coder.join({name: ops.one_hot(ops.argmax(each), each.shape[0]) for name, each in parts})

    def compile(self, optimizer="adamw", loss=None, architecture_optimizer=None, **kwargs):
        """As `keras.Model.compile`.

        Args:
            optimizer: that of the weights.
            loss: of the networks' outputs with the labels; None for the cross-entropy with classes, or, with a
                teacher, for `keras_mnv4.datafree.SoftLabelLoss`, with the square of the temperature where it stands
                beside a cost; of logits where the supernet gives those.
            architecture_optimizer: that of the logits; None for that of the paper.
            **kwargs: those of `keras.Model.compile`.
        """
        if self.logits is not None:
            own = self.default_optimizer() if architecture_optimizer is None else architecture_optimizer
            optimizer = SearchOptimizer(*map(keras.optimizers.get, (optimizer, own)), [self.logits], self.is_due)
        elif architecture_optimizer is not None:
            raise ValueError(f"`{type(self).__name__}` has no logits for an `architecture_optimizer`.")
        if loss is None:
            from_logits = self.supernet.gives_logits
            if self._ask is None:
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
            else:
                loss = SoftLabelLoss(from_logits=from_logits, times_square=self.logits is not None)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self.optimizer.build(self.trainable_variables)  # in a step, devices would make collectives in another order

    def default_optimizer(self, learning_rate=None):
        """The paper's optimizer of the logits.

        Args:
            learning_rate: one to take in place of the paper's.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `default_optimizer`")

    def default_rate(self, steps):
        """The rate of the logits in a training of so many steps: None for the paper's, however few they are."""
        return None

    def call(self, inputs, training=False):
        pictures, search_pictures = _pair(inputs)
        if not training:
            return self.supernet(pictures, self._best_gates(), training=False)
        pictures = self._changed(pictures)
        parts = self.draw()
        self.steps.assign_add(1)
        gates = ops.stop_gradient(self.coder.join(parts))
        outputs = self.supernet(pictures, gates, training=True)
        return {"outputs": outputs, "parts": parts, "pictures": pictures, "search_pictures": search_pictures}

    def _changed(self, pictures):
        if self.augmentation:
            pictures = ops.cast(pictures, self.compute_dtype)
        for layer in self.augmentation:
            pictures = layer(pictures, training=True)
        return pictures

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        pictures, labels = _pair(x)[0], _pair(y)[0]
        if not isinstance(y_pred, dict):
            return super().compute_loss(pictures, self._labels_of(pictures, labels), y_pred, sample_weight, training)
        pictures, search_pictures = y_pred["pictures"], y_pred["search_pictures"]
        if self.logits is not None and search_pictures is None:
            raise ValueError(
                f"`{type(self).__name__}` needs pictures for the weights and others for the architecture: "
                "`fit(search_batches(data, search_data))`."
            )
        labels = self._labels_of(pictures, labels)
        loss = super().compute_loss(pictures, labels, y_pred["outputs"], sample_weight, training)
        if self.logits is None:
            return loss
        search_labels = self._labels_of(search_pictures, _pair(y)[1])
        return loss + self.architecture_loss(search_pictures, search_labels, y_pred["parts"], (pictures, labels))

    def _labels_of(self, pictures, labels):
        """The teacher's probabilities, or the labels that there are if there is no teacher."""
        return labels if self._ask is None else ops.stop_gradient(self._ask(pictures))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        pictures, labels = _pair(x)[0], _pair(y)[0]
        outputs = y_pred["outputs"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(pictures, labels, outputs, sample_weight)

    def outputs_of(self, pictures, gates, weights=None):
        """Outputs in training of the networks that gates choose. Gradients are for the gates, and `weights`, alone.

        Normalisations take the statistics of the batch, and keep none of it.

        Args:
            pictures: a batch.
            gates: vector of `Gates`.
            weights: list of tensors in place of the supernet's trainable variables; None for those.
        """
        variables = self.supernet.trainable_variables
        weights = [ops.stop_gradient(ops.convert_to_tensor(each)) for each in variables] if weights is None else weights
        others = [ops.convert_to_tensor(each) for each in self.supernet.non_trainable_variables]
        outputs, _ = self.supernet.stateless_call(weights, others, pictures, gates=gates, training=True)
        return outputs

    def loss_of(self, pictures, labels, gates, weights=None):
        """The compiled loss of `outputs_of`, without what regularises weights."""
        return self._compile_loss(labels, self.outputs_of(pictures, gates, weights))

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[RANDOM] = ops.convert_to_numpy(self.random.state)  # Keras leaves it out: what is drawn would come again

    def load_own_variables(self, store):
        self.random.state.assign(store[RANDOM])
        super().load_own_variables({name: store[name] for name in set(store.keys()) - {RANDOM}})


def labeller(teacher):
    """A function from pictures to what a teacher says of them: probabilities. None if there is no teacher.

    Args:
        teacher: a built Keras classifier, or such a function.

    Raises:
        ValueError: if it is neither, or it is not clear whether it gives probabilities.
    """
    if teacher is None or (callable(teacher) and not isinstance(teacher, keras.Model)):
        return teacher
    is_functional = bool(getattr(teacher, "inputs", None))
    is_built = isinstance(teacher, keras.Model) and teacher.built
    if is_built and not (is_functional and ends_in_softmax(teacher) is not None):
        raise ValueError(
            f"It is not clear from the last layer of `teacher`, model `{teacher.name}`, whether it gives "
            "probabilities: give a function from pictures to probabilities in its place."
        )
    view = ClassifierView(teacher, "teacher")
    return lambda pictures: ops.softmax(view(pictures)["logits"])


def _pair(data):
    """Pictures, or labels: those for the weights and, if there are any, those for the architecture."""
    return data if isinstance(data, (tuple, list)) else (data, None)


def search_batches(data, search_data, batch_size=64, seed=0):
    """Batches for a strategy: pictures for the weights and, beside them, others for the architecture.

    Args:
        data: pair of pictures and labels; or a `tf.data.Dataset` of batches of such pairs.
        search_data: the same, of other pictures. Where there are fewer, they come again.
        batch_size: pictures of each kind at a time, of arrays; those that fill no batch are left out, others each time.
        seed: seed of the orders of arrays.

    Returns:
        What `fit` takes: a `keras.utils.PyDataset`, or a `tf.data.Dataset` where both are.

    Raises:
        ValueError: if only one is a `tf.data.Dataset`, or there is not even a batch.

    Example:

    >>> batches = search_batches((pictures, labels), (other_pictures, other_labels), batch_size=4)
    >>> strategy = DARTS(supernet)
    >>> strategy.compile("adam")
    >>> strategy.fit(batches, epochs=50)
    """
    if hasattr(data, "element_spec") != hasattr(search_data, "element_spec"):
        raise ValueError("`data` and `search_data` must both be arrays, or both a `tf.data.Dataset`.")
    if not hasattr(data, "element_spec"):
        return _PairedBatches(data, search_data, batch_size, seed)
    pairs = data.zip(data, search_data.repeat())
    return pairs.map(lambda first, second: ((first[0], second[0]), (first[1], second[1])))


class _PairedBatches(keras.utils.PyDataset):
    """Batches of two pairs of arrays, each in an order of its own, new each epoch."""

    shuffle = True

    def __init__(self, data, search_data, batch_size, seed):
        super().__init__()
        self.sides = [tuple(map(np.asarray, pair)) for pair in (data, search_data)]
        self.batch_size = batch_size
        self.seed = seed
        if min(len(pictures) for pictures, _ in self.sides) < batch_size:
            sizes = [len(pictures) for pictures, _ in self.sides]
            raise ValueError(f"`batch_size` must be at most the number of pictures, {sizes}. Received: {batch_size}")
        self.turn_to(0)

    def __len__(self):
        return len(self.sides[0][0]) // self.batch_size

    def turn_to(self, epoch):
        """As for `keras_mnv4.data.PictureSet`."""
        self.random = np.random.default_rng(self.seed)
        for _ in range(epoch + 1):
            self.on_epoch_end()

    def on_epoch_end(self):
        self.orders = []
        for pictures, _ in self.sides:
            rounds = -(-len(self) * self.batch_size // len(pictures))
            orders = [self.random.permutation(len(pictures)) for _ in range(rounds)]
            self.orders.append(np.concatenate(orders))

    def __getitem__(self, index):
        places = [order[index * self.batch_size : (index + 1) * self.batch_size] for order in self.orders]
        return tuple(
            tuple(side[part][place] for side, place in zip(self.sides, places, strict=True)) for part in (0, 1)
        )
