"""`SoftLabelStore`: a teacher's probabilities beside the pictures that it saw, read as often as wanted."""

import json
import pathlib

import numpy as np

from keras_mnv4.distillation.distiller import LABELS
from keras_mnv4.distillation.distiller import SOFT_LABELS

PLAN = "store.json"


class SoftLabelStore:
    """A folder of pictures with a teacher's probabilities, as `write_soft_labels` made it.

    Args:
        directory: the folder.

    Raises:
        ValueError: if it is no such folder, or one that is not finished.

    Example:

    >>> store = SoftLabelStore("soft_labels")
    >>> distiller = Distiller(student)
    >>> distiller.compile("adamw")
    >>> distiller.fit(store.tf_data(batch_size=128), epochs=10, shuffle=False)
    """

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        path = self.directory / PLAN
        if not path.exists():
            raise ValueError(f"`directory` must be a store that `write_soft_labels` made. Received: {str(directory)!r}")
        self.plan = json.loads(path.read_text())
        self.size, self.classes = self.plan["mix"]["size"], self.plan["classes"]
        self.num_pictures = self.plan["pictures"]
        self.shards = shard_paths(self.directory, self.plan)
        missing = [path.name for path in self.shards if not path.exists()]
        if missing:
            raise ValueError(
                f"{len(missing)} of the {len(self.shards)} files of '{self.directory}' are missing, {missing[0]} the "
                "first: call `write_soft_labels` again, it goes on where it was stopped."
            )

    def verify(self):
        """Reads all files, whose records carry checksums.

        Raises:
            ValueError: if a file is damaged or incomplete; the message names all such files.
        """
        import tensorflow as tf

        damaged = []
        for path, positions in zip(self.shards, shard_positions(self.plan), strict=True):
            try:
                count = int(tf.data.TFRecordDataset(str(path)).reduce(np.int64(0), lambda count, _: count + 1))
            except tf.errors.DataLossError:
                count = None
            if count != len(positions):
                damaged.append(path.name)
        if damaged:
            raise ValueError(
                f"Damaged files in '{self.directory}': {', '.join(damaged)}. Delete them and call `write_soft_labels` "
                "as before: it makes the missing files anew."
            )

    def tf_data(self, batch_size=32, shuffle=True, flip=True, classes=None, seed=0, verify=True, start=0):
        """One pass over the store: `(pictures, probabilities)` in batches, float32, as `Distiller` takes them.

        Args:
            batch_size: pictures a batch; the last may be smaller.
            shuffle: whether each pass has another order: of the files, and of a few thousand pictures at a time.
            flip: whether one picture in two is mirrored, in each pass others, as the paper does while the student
                trains.
            classes: number of classes of the pictures, which may be fewer than the teacher's, to have labels with them:
                `(pictures, {"soft_labels": probabilities, "labels": labels})`, labels as those of `DatasetMix`; None
                for no labels.
            seed: seed of orders and mirrors.
            verify: whether to check all files first, so that a damaged one is named.
            start: batches to leave out at the beginning, for training that goes on.

        Returns:
            A `tf.data.Dataset`.

        Raises:
            ValueError: if a file is damaged.
        """
        import tensorflow as tf

        if verify:
            self.verify()
        files = tf.data.Dataset.from_tensor_slices([str(path) for path in self.shards])
        if shuffle:
            files = files.shuffle(len(self.shards), seed=seed)
        records = files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=4 if shuffle else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if shuffle:
            records = records.shuffle(4 * self.plan["shard_pictures"], seed=seed)

        numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        numbered = tf.data.Dataset.zip((records, numbers)).skip(start * batch_size)  # before pictures are decoded

        def parse(record, number):
            example = self._parse(record)
            if flip:
                is_heads = tf.random.stateless_uniform((), [seed, number]) < 0.5
                picture = example["picture"]
                example["picture"] = tf.cond(is_heads, lambda: tf.reverse(picture, [1]), lambda: picture)
            return example

        def finish(example):
            pictures, soft_labels = tf.cast(example["picture"], tf.float32), self._spread(example)
            if classes is None:
                return pictures, soft_labels
            tf.debugging.assert_less(
                example["classes"],
                tf.cast(classes, tf.int64),
                f"`classes` must be above all labels of the pictures. Received: {classes}, and a larger label",
            )
            given = tf.reduce_sum(tf.one_hot(example["classes"], classes) * example["shares"][..., None], 1)
            return pictures, {SOFT_LABELS: soft_labels, LABELS: given}

        examples = numbered.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(batch_size).map(finish, num_parallel_calls=tf.data.AUTOTUNE)
        length = tf.data.experimental.assert_cardinality(max(-(-self.num_pictures // batch_size) - start, 0))
        return batches.apply(length).prefetch(tf.data.AUTOTUNE)

    def _parse(self, record):
        import tensorflow as tf

        features = {
            "picture": tf.io.FixedLenFeature([], tf.string),
            "probabilities": tf.io.FixedLenFeature([], tf.string),
            "classes": tf.io.FixedLenFeature([2], tf.int64),
            "shares": tf.io.FixedLenFeature([2], tf.float32),
        }
        top_k = self.plan["top_k"]
        if top_k:
            features["top_classes"] = tf.io.FixedLenFeature([top_k], tf.int64)
        example = tf.io.parse_single_example(record, features)
        if self.plan["image_format"] == "jpeg":  # as Pillow decodes, which the teacher's pictures went through
            picture = tf.io.decode_jpeg(example["picture"], channels=3, dct_method="INTEGER_ACCURATE")
        else:
            picture = tf.io.decode_png(example["picture"], channels=3)
        probabilities = tf.io.decode_raw(example["probabilities"], tf.float16)
        return {
            **example,
            "picture": tf.ensure_shape(picture, (self.size, self.size, 3)),
            "probabilities": tf.ensure_shape(tf.cast(probabilities, tf.float32), (top_k or self.classes,)),
        }

    def _spread(self, example):
        """Probabilities of all classes, which add up to 1."""
        import tensorflow as tf

        kept, top_k = example["probabilities"], self.plan["top_k"]
        if not top_k:
            return kept / tf.reduce_sum(kept, -1, keepdims=True)
        rest = tf.maximum(1 - tf.reduce_sum(kept, -1), 0) / max(self.classes - top_k, 1)
        rows = tf.repeat(tf.range(tf.shape(kept, tf.int64)[0]), top_k)
        places = tf.stack([rows, tf.reshape(example["top_classes"], [-1])], -1)
        spread = tf.tensor_scatter_nd_update(tf.repeat(rest[:, None], self.classes, 1), places, tf.reshape(kept, [-1]))
        return spread / tf.reduce_sum(spread, -1, keepdims=True)


def shard_positions(plan):
    """The positions in the mix that each file of a store holds."""
    step, total = plan["shard_pictures"], plan["pictures"]
    return [range(start, min(start + step, total)) for start in range(0, total, step)]


def shard_paths(directory, plan):
    """The files of a store."""
    count = len(shard_positions(plan))
    return [directory / f"shard-{index:05d}-of-{count:05d}.tfrecord" for index in range(count)]
