"""`SearchOptimizer`: one optimizer for the weights of a supernet, another one for what is learnt of architectures."""

import keras
from keras import ops

REACH = 4.0  # how far Adam can take a logit in a search, however short
LARGEST_RATE = 0.02


def rate_for(steps, rate):
    """The paper's rate of the logits, or a larger one that lets them come as far as `REACH` in so many steps."""
    return max(rate, min(REACH / max(steps, 1), LARGEST_RATE))


class SearchOptimizer(keras.optimizers.Optimizer):
    """Leaves some variables to one optimizer and the others to another.

    Args:
        weights: the `keras.optimizers.Optimizer` of all variables but those.
        architecture: that of `variables`.
        architecture_variables: list of the variables that `architecture` trains.
        is_due: function of the number of a step, from 1, that says whether `architecture` takes it: a boolean tensor,
            or None for yes. If it does not, neither those variables nor its own change: moments are of its steps alone.
    """

    def __init__(self, weights, architecture, architecture_variables, is_due=lambda step: None, name="search"):
        super().__init__(learning_rate=0.0, name=name)
        self._is_due = is_due
        self.inner_optimizers = [weights, architecture]
        self._ids = {id(variable) for variable in architecture_variables}

    def build(self, variables):
        for optimizer, (_, own) in zip(self.inner_optimizers, self._split(variables, variables), strict=True):
            optimizer.build(own)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(trainable_variables)
        variables = trainable_variables or self._trainable_variables
        of_weights, (grads, own) = self._split(grads, variables)
        weights, architecture = self.inner_optimizers
        weights.apply(*of_weights)
        is_due, changing = self._is_due(self.iterations + 1), [*own, *architecture.variables]
        before = [ops.copy(variable) for variable in changing]
        architecture.apply(grads, own)
        if is_due is not None:
            for variable, value in zip(changing, before, strict=True):
                variable.assign(ops.where(is_due, ops.convert_to_tensor(variable), value))
        self.iterations.assign_add(1)

    def _split(self, grads, variables):
        """The gradients and variables of the weights, and those of the architecture."""
        groups = ([], []), ([], [])
        for grad, variable in zip(grads, variables, strict=True):
            own_grads, own = groups[id(variable) in self._ids]
            own_grads.append(grad)
            own.append(variable)
        return groups

    @property
    def variables(self):
        return [*self._variables, *(each for optimizer in self.inner_optimizers for each in optimizer.variables)]

    @property
    def learning_rate(self):
        """That of the weights."""
        return self.inner_optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.inner_optimizers[0].learning_rate = value

    def finalize_variable_values(self, var_list):
        for optimizer, (_, own) in zip(self.inner_optimizers, self._split(var_list, var_list), strict=True):
            optimizer.finalize_variable_values(own)

    def get_config(self):
        names = "weights", "architecture"
        inner = map(keras.optimizers.serialize, self.inner_optimizers)
        return {"name": self.name, **dict(zip(names, inner, strict=True))}
