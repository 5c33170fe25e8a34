"""`ReinforceOracle`: TuNAS's controller as an oracle for Keras Tuner."""

from keras_mnv4.tuner.controller import MOMENTUM
from keras_mnv4.tuner.controller import WARMUP
from keras_mnv4.tuner.controller import Controller
from keras_mnv4.tuner.costs import check_measures
from keras_mnv4.tuner.oracle import COMPLETED
from keras_mnv4.tuner.oracle import CandidateOracle
from keras_mnv4.tuner.reward import check_reward
from keras_mnv4.tuner.reward import reward_of

TRIES = 500  # before a search for a candidate within the limits ends


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
        penalty: how much costs count; 0 or below.
        learning_rate: of the chances, when it begins to rise, tenfold, behind the warm-up.
        warmup: share of the trials in which chances stay as they are.
        momentum: of the running mean of rewards, from which a reward counts.
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
        warmup=WARMUP,
        momentum=MOMENTUM,
        seed=None,
        **kwargs,
    ):
        targets = dict(targets or {})
        check_measures(targets, "targets")
        check_reward(reward, penalty)
        if not 0 <= warmup < 1:
            raise ValueError(f"`warmup` must be a share of the trials, below 1. Received: {warmup}")
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
