"""`CostGoal`: a cost to aim at, and what a loss becomes for its sake."""

from keras import ops

from keras_mnv4.tuner.cost_table import CostTable

FORMS = ("mul", "add", "square")
LEAST_SHARE = 1e-2  # of the logarithms of cost and target, below which cost does not count


class CostGoal:
    """A loss that counts the mean cost of what would be drawn.

    Source: Cai et al., "ProxylessNAS" (arXiv 1812.00332), section 3.3, for `"mul"` and `"add"`. `"square"` is this
    package's: as in TuNAS's reward costs are to be as said, but its gradient fades towards the target, where that of a
    distance would jump from side to side and drown what the pictures say.

    Args:
        costs: a `CostModel`.
        target: pair of a measure of `costs` and the cost to aim at.
        form: `"mul"`, `"add"` or `"square"`, as for `ProxylessNAS`.
        weight, scale, exponent: of these.

    Raises:
        ValueError: if `form` is unknown, or the target of `"mul"` is no more than 1.
    """

    def __init__(self, costs, target, form, weight=0.1, scale=0.2, exponent=0.3):
        if form == "mul" and not target[1] > 1:
            raise ValueError(
                f"`form='mul'` takes logarithms of costs, which must be far above 1. Received: {target=}. Take a "
                "smaller unit, or another form."
            )
        self.form, self.weight, self.scale, self.exponent = form, weight, scale, exponent
        self.table = CostTable(costs, target[0])
        self.target = float(target[1])

    @classmethod
    def of(cls, costs, target, form, *numbers):
        """A goal, or None without costs and a target. Raises a ValueError where there is only one of them."""
        if form not in FORMS:
            raise ValueError(f"`form` must be one of {', '.join(map(repr, FORMS))}. Received: {form!r}")
        if (costs is None) != (target is None):
            raise ValueError(f"`costs` and `target` belong together. Received: {costs=}, {target=}")
        return None if costs is None else cls(costs, target, form, *numbers)

    def __call__(self, loss, chances):
        """The loss, for its sake.

        Args:
            loss: a scalar tensor.
            chances: with which each value of each decision is taken, as `Gates.split` gives them.
        """
        ratio = self.table.expect(chances) / self.target
        if self.form == "square":
            return loss + self.weight * ops.square(ratio - 1.0)
        if self.form == "add":
            return loss + self.weight * (ratio - 1.0)
        goal = ops.log(self.target)
        share = ops.maximum((ops.log(ratio) + goal) / goal, LEAST_SHARE)
        return loss * self.scale * share**self.exponent
