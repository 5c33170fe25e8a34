"""`ReinforceOracle`: TuNAS's controller as an oracle for Keras Tuner; its mathematics, in NumPy, by themselves."""

import math

import numpy as np

from keras_mnv4.tuner.costs import check_measures
from keras_mnv4.tuner.oracle import COMPLETED
from keras_mnv4.tuner.oracle import CandidateOracle
from keras_mnv4.tuner.reward import check_form
from keras_mnv4.tuner.reward import reward_of

TRIES = 500  # before a search for a candidate within the limits ends


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


def learning_rate_at(step, steps, learning_rate, warmup=0.25):
    """The learning rate of a step: 0 at first, then rising from `learning_rate` to its tenfold.

    Source: the code of TuNAS (arXiv 2008.06120).

    Args:
        step: the step, from 0 on.
        steps: their number.
        learning_rate: what it begins with.
        warmup: share of steps without learning.
    """
    progress = step / steps
    return 0.0 if progress < warmup else learning_rate * 10.0 ** ((progress - warmup) / (1.0 - warmup))


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

    def __init__(self, space, steps, learning_rate, warmup=0.25, momentum=0.95):
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
        self.baseline = reward if self.baseline is None else self.baseline
        advantage = reward - self.baseline
        gradient = log_probability_gradient(self.space, self.logits, candidate)
        descent = {name: -advantage * each for name, each in gradient.items()}
        rate = learning_rate_at(self.optimizer.steps, self.steps, self.learning_rate, self.warmup)
        self.logits = self.optimizer.step(self.logits, descent, rate)
        self.baseline = self.momentum * self.baseline + (1.0 - self.momentum) * reward

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


class ReinforceOracle(CandidateOracle):
    """Draws candidates from a distribution that learns from their rewards, by REINFORCE.

    What is drawn and is no network, or is beyond the limits, is brought within them before it is handed out; the
    reward is for what was drawn. Candidates come again, more and more often: `UIBTuner` scores each once.

    Workers need not wait for each other: each reward is learned from when it comes. Trials that fail teach nothing.

    Source: TuNAS (Bender et al., "Can Weight Sharing Outperform Random Architecture Search?", arXiv 2008.06120),
    constants of its code but for the learning rate: there, of a far longer search, it is 3e-4 for 256 pictures a step.
    Its bonus for entropy has weight 0 there, and is left out.

    Args:
        costs: a `CostModel`, of the space to search in. Its limits are never exceeded.
        targets: dictionary from measure to what a candidate should cost, for the reward. Measures are those of
            `CostModel`.
        objective: a `keras_tuner.Objective` that is to be large; None for `"val_accuracy"`.
        max_trials: number of trials.
        reward: form of the reward, as for `keras_mnv4.tuner.reward.reward_of`.
        penalty: how much costs count; below 0.
        learning_rate: as for `Controller`.
        warmup: as for `Controller`.
        momentum: as for `Controller`.
        seed: seed of all random numbers; None for another one each time.
        **kwargs: others of `keras_tuner.Oracle`.

    Raises:
        ValueError: if a measure or a form is not known, the objective is to be small, a number is not possible, or no
            network within the limits.

    Example:

    >>> costs = CostModel(space, input_shape=(96, 96, 3), classes=10)
    >>> oracle = ReinforceOracle(costs, targets={"macs": 50e6}, seed=0)
    >>> UIBTuner(supernet, oracle, costs, directory="search").search(validation_data=(pictures, labels))
    >>> oracle.best_candidate()
    """

    def __init__(
        self,
        costs,
        targets=None,
        objective=None,
        max_trials=1000,
        reward="absolute",
        penalty=-0.1,
        learning_rate=0.02,
        warmup=0.25,
        momentum=0.95,
        seed=None,
        **kwargs,
    ):
        targets = dict(targets or {})
        check_measures(targets, "targets")
        check_form(reward)
        if not 0 <= warmup < 1:
            raise ValueError(f"`warmup` must be a share of the trials, below 1. Received: {warmup}")
        if penalty > 0:
            raise ValueError(f"`penalty` must not be above 0, or costs would be rewarded. Received: {penalty}")
        super().__init__(costs, objective, max_trials, seed, **kwargs)
        if self.objective.direction != "max":
            raise ValueError(f"`objective` must be one that is to be large. Received: {self.objective}")
        self.targets, self.reward, self.penalty = targets, reward, penalty
        self.controller = Controller(self.space, max_trials, learning_rate, warmup, momentum)
        self._drawn = {}  # from trial to the code of what was drawn for it
        self._learned = 0  # of the trials that ended

    def propose(self, trial_id):
        self._learn()
        for _ in range(TRIES):
            drawn = self.controller.sample(self._random)
            candidate = self.bring_within(drawn)
            if candidate is not None:
                self._drawn[trial_id] = self.space.encode(drawn)
                return candidate
        return None

    def best_candidate(self):
        """The candidate of the likeliest values, brought within the limits if it is no network or beyond them."""
        self._learn()
        return self.costs.bring_within(self.controller.best())

    def get_state(self):
        return {
            **super().get_state(),
            "controller": self.controller.get_state(),
            "drawn": self._drawn,
            "learned": self._learned,
        }

    def set_state(self, state):
        super().set_state(state)
        self.controller.set_state(state["controller"])
        self._drawn, self._learned = dict(state["drawn"]), state["learned"]

    def _learn(self):
        """Learns from what has ended since: late, so that state and trials cannot be at odds after a kill."""
        for trial_id in self.end_order[self._learned :]:
            code = self._drawn.pop(trial_id, None)
            if code is not None and self.trials[trial_id].status == COMPLETED:
                self.controller.learn(self.space.decode(code), self._reward_of(trial_id))
        self._learned = len(self.end_order)

    def _reward_of(self, trial_id):
        candidate = self.candidates[trial_id]
        ratios = [self.costs.cost(candidate, measure) / wanted for measure, wanted in self.targets.items()]
        return reward_of(self.trials[trial_id].score, ratios, self.penalty, self.reward)
