"""`Controller`: TuNAS's chances of each decision, which rewards change, in NumPy."""

import math

import numpy as np

# Of TuNAS's code.
WARMUP = 0.25  # share of the steps without learning
MOMENTUM = 0.95  # of the baseline


def softmax(logits):
    """Probabilities of logits, an array."""
    powers = np.exp(logits - np.max(logits))
    return powers / powers.sum()


def log_probability(space, logits, candidate):
    """The logarithm of the probability that the active decisions of a candidate are taken as they are.

    Args:
        space: a `SearchSpace`.
        logits: dictionary from decision to an array, a number for each of its values.
        candidate: a candidate of the space.
    """
    return sum(
        math.log(softmax(logits[name])[space.decisions[name].index(candidate[name])])
        for name in space.active_decisions(candidate)
    )


def log_probability_gradient(space, logits, candidate):
    """The gradient of `log_probability` with respect to the logits: a dictionary like `logits`."""
    active = space.active_decisions(candidate)
    gradient = {}
    for name, values in space.decisions.items():
        taken = np.eye(len(values))[values.index(candidate[name])]
        gradient[name] = taken - softmax(logits[name]) if name in active else np.zeros(len(values))
    return gradient


def rising_rate(progress, learning_rate, warmup=WARMUP):
    """The learning rate behind a warm-up, which rises from `learning_rate` to its tenfold.

    Source: the code of TuNAS (arXiv 2008.06120).

    Args:
        progress: share of the steps that are done, a number or a tensor, from `warmup` to 1.
        learning_rate: what it begins with.
        warmup: share of the steps without learning.
    """
    return learning_rate * 10.0 ** ((progress - warmup) / (1.0 - warmup))


class Adam:
    """Adam without momentum, its `beta_1` being 0: steps by the gradient, divided by the root of its mean square.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization" (arXiv 1412.6980), section 2, in the order of
    operations in which Keras computes it.

    Args:
        shapes: dictionary from name to the number of parameters.
        beta_2: how slowly the mean square follows.
        epsilon: what is added to the root.
    """

    def __init__(self, shapes, beta_2=0.999, epsilon=1e-8):
        self.beta_2, self.epsilon = beta_2, epsilon
        self.steps = 0
        self.mean_squares = {name: np.zeros(shape) for name, shape in shapes.items()}

    def step(self, parameters, gradients, learning_rate):
        """The parameters after a step against the gradients: a new dictionary of arrays."""
        self.steps += 1
        rate = learning_rate * math.sqrt(1.0 - self.beta_2**self.steps)
        changed = {}
        for name, gradient in gradients.items():
            squares = self.beta_2 * self.mean_squares[name] + (1.0 - self.beta_2) * np.square(gradient)
            changed[name] = parameters[name] - rate * gradient / (np.sqrt(squares) + self.epsilon)
            self.mean_squares[name] = squares
        return changed


class Controller:
    """For each decision a distribution over its values, independent of the others, that rewards change.

    What is left out does not learn: decisions on rows that a candidate does not have are not active.

    Source: TuNAS (arXiv 2008.06120), section 3, and its code.

    Args:
        space: a `SearchSpace`.
        steps: how many times it will learn.
        learning_rate: Adam's learning rate behind the warm-up, which rises from there to its tenfold.
        warmup: share of steps in which nothing but the baseline and Adam's mean squares are learned.
        momentum: of the baseline, a running mean of rewards; it begins with the first.
    """

    def __init__(self, space, steps, learning_rate, warmup=WARMUP, momentum=MOMENTUM):
        sizes = {name: len(values) for name, values in space.decisions.items()}
        self.space, self.steps = space, steps
        self.learning_rate, self.warmup, self.momentum = learning_rate, warmup, momentum
        self.logits = {name: np.zeros(size) for name, size in sizes.items()}
        self.baseline = None
        self.optimizer = Adam(sizes)

    def sample(self, random):
        """A candidate by chance, a network or not.

        Args:
            random: a `numpy.random.Generator`.
        """
        return {
            name: values[random.choice(len(values), p=softmax(self.logits[name]))]
            for name, values in self.space.decisions.items()
        }

    def best(self):
        """The candidate of the likeliest values, a network or not."""
        return {name: values[int(self.logits[name].argmax())] for name, values in self.space.decisions.items()}

    def learn(self, candidate, reward):
        """Makes a candidate, as `sample` gave it, likelier if its reward is above the baseline.

        Candidates may come back later than they were drawn: the gradient is that of now.
        """
        before = reward if self.baseline is None else self.baseline
        self.baseline = self.momentum * before + (1.0 - self.momentum) * reward
        advantage = reward - self.baseline
        gradient = log_probability_gradient(self.space, self.logits, candidate)
        descent = {name: -advantage * each for name, each in gradient.items()}
        progress = self.optimizer.steps / self.steps
        rate = 0.0 if progress < self.warmup else rising_rate(progress, self.learning_rate, self.warmup)
        self.logits = self.optimizer.step(self.logits, descent, rate)

    def get_state(self):
        """All that was learned, as JSON can hold it."""
        return {
            "logits": {name: each.tolist() for name, each in self.logits.items()},
            "mean_squares": {name: each.tolist() for name, each in self.optimizer.mean_squares.items()},
            "steps": self.optimizer.steps,
            "baseline": self.baseline,
        }

    def set_state(self, state):
        """Takes over what `get_state` gave."""
        self.logits = {name: np.array(each) for name, each in state["logits"].items()}
        self.optimizer.mean_squares = {name: np.array(each) for name, each in state["mean_squares"].items()}
        self.optimizer.steps, self.baseline = state["steps"], state["baseline"]
