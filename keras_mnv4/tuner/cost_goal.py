"""`CostGoal`: a cost to aim at, and what a loss becomes for its sake."""

import keras
from keras import ops

from keras_mnv4.tuner.cost_table import CostTable

FORMS = ("mul", "add", "limit")
LEAST_SHARE = 1e-2  # of the logarithms of cost and target, below which cost does not count


class CostGoal(keras.layers.Layer):
    """A loss that counts the mean cost of what would be drawn.

    In the form `"limit"` that cost has a price. The price is nothing as long as the likeliest network is within the
    target, rises while that is beyond, and falls again: it comes to what the last of the cost is worth, however large
    the loss is. That is gradient ascent for the multiplier of Lagrange, at the network that would be found: of chances
    that are all much the same the mean cost says little about that one.

    Source: Cai et al., "ProxylessNAS" (arXiv 1812.00332), section 3.3, for `"mul"` and `"add"`; `"limit"` is this
    package's, by the method of Arrow and Hurwicz.

    Args:
        costs: a `CostModel`.
        target: pair of a measure of `costs` and the cost to aim at.
        form: `"mul"`, `"add"` or `"limit"`, as for `ProxylessNAS`.
        weight, scale, exponent, price_rate: of these.

    Raises:
        ValueError: if `form` is unknown, or the target of `"mul"` is no more than 1.
    """

    def __init__(self, costs, target, form, weight=0.1, scale=0.2, exponent=0.3, price_rate=0.01):
        super().__init__(name="cost_goal", dtype="float32")
        if form == "mul" and not target[1] > 1:
            raise ValueError(
                f"`form='mul'` takes logarithms of costs, which must be far above 1. Received: {target=}. Take a "
                "smaller unit, or another form."
            )
        self.form, self.weight, self.scale, self.exponent = form, weight, scale, exponent
        self.price_rate = price_rate
        self.table = CostTable(costs, target[0])
        self.target = float(target[1])
        self.price = self.add_weight(name="price", shape=(), trainable=False, initializer="zeros")
        self.built = True

    @classmethod
    def of(cls, costs, target, form, **numbers):
        """A goal, or None without costs and a target. Raises a ValueError where there is only one of them."""
        if form not in FORMS:
            raise ValueError(f"`form` must be one of {', '.join(map(repr, FORMS))}. Received: {form!r}")
        if (costs is None) != (target is None):
            raise ValueError(f"`costs` and `target` belong together. Received: {costs=}, {target=}")
        return None if costs is None else cls(costs, target, form, **numbers)

    def count_in(self, loss, chances, is_due=True):
        """The loss, for its sake.

        Args:
            loss: a scalar tensor.
            chances: with which each value of each decision is taken, as `Gates.split` gives them.
            is_due: whether the chances move in this step, a boolean tensor. The price waits for them: else it would
                rise all the while that they cannot follow.
        """
        ratio = self.table.expect(chances) / self.target
        if self.form == "limit":
            likeliest = {name: ops.one_hot(ops.argmax(each), each.shape[0]) for name, each in chances.items()}
            beyond = ops.stop_gradient(self.table.expect(likeliest) / self.target - 1.0)
            price = ops.maximum(self.price + self.price_rate * beyond, 0.0)
            price = ops.where(is_due, price, ops.convert_to_tensor(self.price))
            self.price.assign(price)
            return loss + price * (ratio - 1.0)
        if self.form == "add":
            return loss + self.weight * (ratio - 1.0)
        goal = ops.log(self.target)
        share = ops.maximum((ops.log(ratio) + goal) / goal, LEAST_SHARE)
        return loss * self.scale * share**self.exponent
