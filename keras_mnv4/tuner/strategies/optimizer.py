"""`SearchOptimizer`: one optimizer for the weights of a supernet, another one for what is learnt of architectures."""

import keras


class SearchOptimizer(keras.optimizers.Optimizer):
    """Leaves some variables to one optimizer and the others to another.

    Args:
        weights: the `keras.optimizers.Optimizer` of all variables but those.
        architecture: that of `variables`.
        architecture_variables: list of the variables that `architecture` trains.
    """

    def __init__(self, weights, architecture, architecture_variables, name="search"):
        super().__init__(learning_rate=0.0, name=name)
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
        for optimizer, (own_grads, own) in zip(self.inner_optimizers, self._split(grads, variables), strict=True):
            optimizer.apply(own_grads, own)
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
        for optimizer in self.inner_optimizers:
            optimizer.finalize_variable_values(var_list)

    def get_config(self):
        names = "weights", "architecture"
        inner = map(keras.optimizers.serialize, self.inner_optimizers)
        return {"name": self.name, **dict(zip(names, inner, strict=True))}
