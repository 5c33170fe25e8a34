"""`ProxylessNAS`: one network at a time, drawn from chances that are learnt by gradients."""

import keras
from keras import ops

from keras_mnv4.tuner.cost_goal import CostGoal
from keras_mnv4.tuner.strategies.optimizer import rate_for
from keras_mnv4.tuner.strategies.strategy import Strategy

RATE = 1e-3  # of Adam for the logits
START = 1e-3  # standard deviation of the first logits


class ProxylessNAS(Strategy):
    """Binary gates: every step computes with one network; the chances it was drawn with get its gates' gradient.

    Chances are the softmax of logits. A logit's gradient is the sum over the gates of its decision, each the gradient
    of the loss for that gate, times how much the logit moves the gate's chance: `sum_j dL/dg_j p_j (1[i = j] - p_i)`.
    Meanwhile the mean cost of what would be drawn counts, too.

    Source: Cai et al., "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware" (arXiv
    1812.00332), sections 3.2 and 3.3; constants of its code.

    Args:
        supernet: a `SuperNet`.
        warmup_steps: steps at the beginning that train weights alone, of networks that are drawn with equal chances.
        costs: a `CostModel`; None for no regard to cost.
        target: pair of a measure of `costs` and the cost to aim at, such as `("macs", 30e6)`.
        form: how cost counts: `"mul"`, the loss times `scale * (log(cost) / log(target)) ** exponent`; `"add"`, the
            loss plus `weight * (cost / target - 1)`; or `"limit"`, this package's, the loss plus `price * (cost /
            target - 1)`, of a price that is 0 as long as the likeliest network is within the target, and rises while it
            is not.
        scale, exponent, weight: of these.
        price_rate: what that price rises by in a step of the logits in which that network costs twice the target.
        every: steps of the weights for each step of the logits. In between, and in warm-up, their optimizer rests.
        seed: seed of the first logits and of what is drawn.
        **kwargs: `augmentation` and `teacher`, as for `Strategy`, and those of `keras.Model`.

    Raises:
        ValueError: if `form` is unknown, only one of `costs` and `target` is given, or the target of `"mul"` is no more
            than 1.

    Example:

    >>> strategy = ProxylessNAS(supernet, warmup_steps=2000, costs=costs, target=("macs", 30e6))
    >>> strategy.compile(keras.optimizers.SGD(0.025, momentum=0.9, nesterov=True))
    >>> strategy.fit(search_batches((pictures, labels), (other_pictures, other_labels)), epochs=50)
    """

    def __init__(
        self,
        supernet,
        warmup_steps=0,
        costs=None,
        target=None,
        form="mul",
        scale=0.2,
        exponent=0.3,
        weight=0.1,
        price_rate=0.01,
        every=5,
        seed=0,
        **kwargs,
    ):
        super().__init__(supernet, seed, keras.initializers.RandomNormal(stddev=START, seed=seed), **kwargs)
        self.warmup_steps, self.every = warmup_steps, every
        self.goal = CostGoal.of(
            costs, target, form, weight=weight, scale=scale, exponent=exponent, price_rate=price_rate
        )

    def default_optimizer(self, learning_rate=None):
        return keras.optimizers.Adam(learning_rate or RATE, beta_1=0.0, beta_2=0.999)

    def default_rate(self, steps):
        return rate_for((steps - self.warmup_steps) // self.every, RATE)

    def draw(self):
        logits = ops.convert_to_tensor(self.logits)
        logits = ops.where(self.steps < self.warmup_steps, ops.zeros_like(logits), logits)
        return self.binary_gates(logits)

    def binary_gates(self, logits):
        """Gates of a network that is drawn, in parts, with the gradient of their chances."""
        parts = {}
        for name, each in self.coder.split(logits).items():
            place = keras.random.categorical(each[None], 1, seed=self.random)[0, 0]
            drawn = ops.one_hot(place, each.shape[0], dtype="float32")
            chances = ops.softmax(each)
            parts[name] = chances + ops.stop_gradient(drawn - chances)
        return parts

    def architecture_loss(self, pictures, labels, parts, training_data):
        loss = self.loss_of(pictures, labels, self.coder.join(parts))
        if self.goal is not None:
            chances = {name: ops.softmax(each) for name, each in self.coder.split(self.logits).items()}
            loss = self.goal.count_in(loss, chances, self.is_due(self.steps))  # counted before the loss is computed
        return loss

    def is_due(self, step):
        past = step - self.warmup_steps
        return ops.logical_and(past > 0, past % self.every == 0)
