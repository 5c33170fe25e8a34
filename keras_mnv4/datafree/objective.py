"""`Objective`: what pictures out of nothing are made to satisfy."""

import dataclasses
import math

from keras import ops

STATISTICS = ("relative", "norm")
DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1))  # rows and columns between the pixels that are compared


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights of the terms that are minimised, and how statistics are compared.

    The terms are: the cross-entropy of the teacher's probabilities with the labels; total variation, the differences of
    neighbouring pixels in four directions; the squares of all pixels; and how far the inputs of every batch
    normalisation are, in mean and variance over the batch, from those that it was trained on. Pixels count from the
    mean of ImageNet's, in its standard deviations.

    `PAPER` has the terms and the weights of the authors' code. Its norms over a whole batch, or all channels of a
    layer, grow with how many there are, and layers of few channels hardly count. `RELATIVE` takes means in their place,
    and compares statistics relative to the variance that was trained: the default of `synthesize`, for pictures that
    other networks recognise, too. `NATURAL`, that of natural noise, has ten times its variation, so that what began
    smooth stays so.

    Source: "Data-Free Neural Architecture Search via Recursive Label Calibration" (arXiv 2112.02086), its code for the
    constants; DeepInversion (arXiv 1912.08795). `RELATIVE` and `NATURAL` are this package's.

    Args:
        classification: weight of the cross-entropy.
        variation: weight of total variation.
        squares: weight of the squares.
        features: weight of the normalisations' statistics.
        first_feature: what the first normalisation's count more than the others'.
        statistics: `"norm"`, Euclidean norms of the differences of means and of variances, added up over the layers,
            and norms over the batch for the other terms; or `"relative"`: squared differences of means in trained
            variances, and of logarithms of variances, as means over channels and layers, and means for the other terms.

    Raises:
        ValueError: if a weight is below 0, or `statistics` is none of these.

    Example:

    >>> synthesize(teacher, 64, "pictures", objective=dataclasses.replace(RELATIVE, features=0.0))
    """

    classification: float = 1.0
    variation: float = 1e-4
    squares: float = 1e-5
    features: float = 0.01
    first_feature: float = 10.0
    statistics: str = "norm"

    def __post_init__(self):
        weights = {key: value for key, value in dataclasses.asdict(self).items() if key != "statistics"}
        if min(weights.values()) < 0:
            raise ValueError(f"The weights of an `Objective` must be 0 or more. Received: {weights}")
        if self.statistics not in STATISTICS:
            raise ValueError(f"`statistics` must be one of {STATISTICS}. Received: {self.statistics!r}")

    def terms(self, pictures, labels, logits, heard):
        """The weighted terms, by name.

        Args:
            pictures: tensor `(batch, height, width, 3)`, in units of ImageNet's standard deviations.
            labels: probabilities `(batch, classes)`.
            logits: what the teacher says, `(batch, classes)`.
            heard: pairs of a normalisation and its input, in the order of the network.
        """
        relative = self.statistics == "relative"
        distance = relative_distance if relative else norm_distance
        factors = [self.first_feature, *[1.0] * (len(heard) - 1)]
        features = sum(factor * distance(*each) for factor, each in zip(factors, heard, strict=True))
        cross_entropy = -ops.mean(ops.sum(labels * ops.log_softmax(logits), axis=-1))
        return {
            "classification": self.classification * cross_entropy,
            "variation": self.variation * total_variation(pictures, relative),
            "squares": self.squares * sum_of_squares(pictures, relative),
            "features": self.features * (features / sum(factors) if relative else features),
        }


PAPER = Objective()
RELATIVE = Objective(variation=0.1, squares=0.01, features=3.0, first_feature=1.0, statistics="relative")
NATURAL = dataclasses.replace(RELATIVE, variation=1.0)


def total_variation(pictures, relative=False):
    """Differences of neighbouring pixels, in four directions: the norms over the batch, or the mean squares."""
    height, width = pictures.shape[1:3]
    total = 0.0
    for rows, columns in DIRECTIONS:
        left = max(-columns, 0), width - max(columns, 0)
        first = pictures[:, : height - rows, left[0] : left[1]]
        second = pictures[:, rows:, left[0] + columns : left[1] + columns]
        square = ops.square(second - first)
        total = total + (ops.mean(square) if relative else _root(ops.sum(square)))
    return total


def sum_of_squares(pictures, relative=False):
    """The norm of each picture, on average; or the mean square."""
    square = ops.square(pictures)
    return ops.mean(square) if relative else ops.mean(_root(ops.sum(square, axis=(1, 2, 3))))


def moments(layer, inputs):
    """Mean and biased variance of each channel over a batch, and the layer's own: four tensors in float32."""
    axis = layer.axis % len(inputs.shape)
    others = [each for each in range(len(inputs.shape)) if each != axis]
    mean, variance = channel_moments(ops.cast(inputs, "float32"), others)
    return mean, variance, ops.convert_to_tensor(layer.moving_mean), ops.convert_to_tensor(layer.moving_variance)


def channel_moments(inputs, axes):
    """Mean and biased variance over axes, as `keras.ops.moments` has them, in half the time with their gradient.

    It is linear in the inputs, with a slope and an offset for each channel; derived op by op it takes four passes over
    them, here two.
    """
    count = math.prod(inputs.shape[axis] for axis in axes)

    @ops.custom_gradient
    def compute(x):
        mean = ops.mean(x, axes, keepdims=True)
        variance = ops.mean(ops.square(x - mean), axes)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            of_mean, of_variance = (ops.reshape(upstream[place], ops.shape(mean)) for place in range(2))
            slope = of_variance * (2.0 / count)
            return x * slope + (of_mean / count - mean * slope)

        return ops.stack([ops.reshape(mean, ops.shape(variance)), variance]), gradient

    both = compute(inputs)
    return both[0], both[1]


def norm_distance(layer, inputs):
    """Euclidean distance of the means, and of the variances, added."""
    mean, variance, trained_mean, trained_variance = moments(layer, inputs)
    return sum(
        _root(ops.sum(ops.square(one - other))) for one, other in ((mean, trained_mean), (variance, trained_variance))
    )


def relative_distance(layer, inputs):
    """Squared difference of means over the trained variance, and of the variances' logarithms: mean over channels."""
    mean, variance, trained_mean, trained_variance = moments(layer, inputs)
    variance, trained_variance = variance + layer.epsilon, trained_variance + layer.epsilon
    return ops.mean(
        ops.square(mean - trained_mean) / trained_variance + ops.square(ops.log(variance) - ops.log(trained_variance))
    )


def _root(number):
    return ops.sqrt(number + 1e-12)  # at 0 a root has no gradient
