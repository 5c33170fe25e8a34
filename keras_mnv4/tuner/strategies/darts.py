"""`DARTS`: a mixture of all networks, whose shares are learnt."""

import keras
from keras import ops

from keras_mnv4.gradients import value_and_gradients
from keras_mnv4.tuner.cost_goal import CostGoal
from keras_mnv4.tuner.strategies.optimizer import rate_for
from keras_mnv4.tuner.strategies.strategy import Strategy

RATE = 3e-4  # of Adam for the logits
NUDGE = 0.01  # length of the step by which a second derivative is taken
WEIGHT_DECAY = 1e-3  # of the logits
START = 1e-3  # standard deviation of the first logits


class DARTS(Strategy):
    """Differentiable search: every value of a decision takes part with a share, and the shares are trained.

    The shares are the softmax of logits, one for each value. Weights learn on one set of pictures, logits on another;
    in each step both from where they were before. At first order the logits' gradient takes the weights for given;
    at second order, for what one more step of plain gradient descent would make of them.

    Source: Liu et al., "DARTS: Differentiable Architecture Search" (arXiv 1806.09055), section 2.3. It has no regard to
    cost; with a target, here the cost of the network of the largest shares is kept within it.

    Args:
        supernet: a `SuperNet`.
        unrolled_rate: learning rate of that further step: a number, or a schedule, as the weights' optimizer has it;
            None for first order.
        costs: a `CostModel`; None for no regard to cost.
        target: pair of a measure of `costs` and the most it may be, such as `("macs", 30e6)`.
        price_rate: what the price of cost rises by in a step in which that network costs twice the target, as with the
            form `"limit"` of `ProxylessNAS`.
        seed: seed of the first logits.
        **kwargs: `augmentation` and `teacher`, as for `Strategy`, and those of `keras.Model`.

    Raises:
        ValueError: if only one of `costs` and `target` is given.

    Example:

    >>> strategy = DARTS(supernet)
    >>> strategy.compile(keras.optimizers.SGD(0.025, momentum=0.9, global_clipnorm=5.0))
    >>> strategy.fit(search_batches((pictures, labels), (other_pictures, other_labels)), epochs=50)
    >>> strategy.best_candidate()
    """

    def __init__(self, supernet, unrolled_rate=None, costs=None, target=None, price_rate=0.01, seed=0, **kwargs):
        super().__init__(supernet, seed, keras.initializers.RandomNormal(stddev=START, seed=seed), **kwargs)
        self.unrolled_rate = unrolled_rate
        self.goal = CostGoal.of(costs, target, "limit", price_rate=price_rate)

    def default_optimizer(self, learning_rate=None):
        return keras.optimizers.Adam(learning_rate or RATE, beta_1=0.5, beta_2=0.999)

    def default_rate(self, steps):
        return rate_for(steps, RATE)

    def draw(self):
        return self._shares(ops.convert_to_tensor(self.logits))

    def _shares(self, logits):
        return {name: ops.softmax(each) for name, each in self.coder.split(logits).items()}

    def architecture_loss(self, pictures, labels, parts, training_data):
        if self.unrolled_rate is None:
            loss = self.loss_of(pictures, labels, self.coder.join(parts))
        else:
            logits = ops.convert_to_tensor(self.logits)
            gradient = ops.stop_gradient(self.unrolled_gradient(logits, (pictures, labels), training_data))
            loss = ops.sum(gradient * logits)
        if self.goal is not None:
            loss = self.goal.count_in(loss, parts)
        return loss + 0.5 * WEIGHT_DECAY * ops.sum(ops.square(self.logits))

    def unrolled_gradient(self, logits, search_data, training_data):
        """The gradient at second order of the loss on `search_data`, with respect to the logits.

        The product with the matrix of second derivatives is a difference of two gradients, at weights that are nudged
        to both sides.

        Args:
            logits: a tensor.
            search_data: pair of pictures and labels.
            training_data: the pair that the further step is taken on.
        """
        weights = [ops.stop_gradient(ops.convert_to_tensor(each)) for each in self.supernet.trainable_variables]
        rate = self.unrolled_rate
        rate = rate(self.steps) if callable(rate) else rate

        def loss(data, logits, weights):
            return self.loss_of(*data, self.coder.join(self._shares(logits)), weights)

        _, steps = value_and_gradients(lambda values: loss(training_data, logits, values), weights)
        moved = [weight - rate * step for weight, step in zip(weights, steps, strict=True)]
        _, (direct, *slopes) = value_and_gradients(
            lambda values: loss(search_data, values[0], values[1:]), [logits, *moved]
        )
        length = ops.sqrt(sum(ops.sum(ops.square(slope)) for slope in slopes))
        nudge = NUDGE / ops.maximum(length, 1e-12)
        ends = [
            value_and_gradients(
                lambda values, sign=sign: loss(
                    training_data,
                    values[0],
                    [weight + sign * nudge * slope for weight, slope in zip(weights, slopes, strict=True)],
                ),
                [logits],
            )[1][0]
            for sign in (1.0, -1.0)
        ]
        return direct - rate * (ends[0] - ends[1]) / (2.0 * nudge)
