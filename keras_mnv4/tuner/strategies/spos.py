"""`SPOS`: one network at a time, drawn by chance."""

import keras
import numpy as np
from keras import ops

from keras_mnv4.tuner.costs import check_measures
from keras_mnv4.tuner.strategies.strategy import Strategy

TRIES = 100  # for a path within the limits, before one is brought within them
BINS = 10  # ranges of cost that are drawn with the same chance


class SPOS(Strategy):
    """Single path one-shot: every step trains one network, drawn by chance from those within the limits.

    It learns weights alone. Which network is good is found out afterwards, by `EvolutionOracle`. Networks are drawn
    from a list of many, which was itself drawn by chance; so they are all within the limits.

    Source: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (arXiv 1904.00420).

    Args:
        supernet: a `SuperNet`.
        costs: a `CostModel`, with limits or without.
        paths: length of the list.
        uniform_in: a measure of `costs`, such as `"macs"`: networks of each range of costs, of ten from the least to
            the largest of the list, are then drawn with the same chance. None for networks drawn as they come.
        seed: seed of the list and of what is drawn from it.
        **kwargs: `augmentation` and `teacher`, as for `Strategy`, and those of `keras.Model`.

    Raises:
        ValueError: if a measure is not known, or no network within the limits.

    Example:

    >>> strategy = SPOS(supernet, CostModel(space, {"macs": 30e6}, classes=10))
    >>> strategy.compile(keras.optimizers.SGD(0.5, momentum=0.9))
    >>> strategy.fit(pictures, labels, epochs=30)
    """

    def __init__(self, supernet, costs, paths=1024, uniform_in=None, seed=0, **kwargs):
        if uniform_in is not None:
            check_measures((uniform_in,), "uniform_in")
        super().__init__(supernet, seed, **kwargs)
        random = np.random.default_rng(seed)
        candidates = [costs.sample(random, TRIES) for _ in range(paths)]
        chances = np.ones(paths)
        if uniform_in is not None:
            prices = np.array([costs.cost(candidate, uniform_in) for candidate in candidates])
            edges = np.linspace(prices.min(), prices.max(), BINS + 1)[1:-1]
            bins = np.digitize(prices, edges)
            chances = 1.0 / np.bincount(bins, minlength=BINS)[bins]
        self._paths = np.stack([self.coder.of(candidate) for candidate in candidates])
        self._log_chances = np.log(chances / chances.sum()).astype("float32")

    def draw(self):
        place = keras.random.categorical(self._log_chances[None], 1, seed=self.random)[0, 0]
        return self.coder.split(ops.take(self._paths, place, axis=0))
