"""`reward_of`: what a candidate is worth to reinforcement learning, of numbers and of tensors alike."""

import math

REWARDS = {
    "absolute": lambda quality, ratios, penalty: quality + penalty * sum(abs(ratio - 1.0) for ratio in ratios),
    "mnas": lambda quality, ratios, penalty: quality * math.prod(ratio**penalty for ratio in ratios),
    "mnas_hard": lambda quality, ratios, penalty: quality * math.prod(_least_one(ratio) ** penalty for ratio in ratios),
}


def reward_of(quality, ratios, penalty=-0.1, form="absolute"):
    """What a candidate is worth: how good it is, less what it costs.

    Source: TuNAS (arXiv 2008.06120), section 3, for `"absolute"`; MnasNet (arXiv 1807.11626), section 3, for the
    others.

    Args:
        quality: a number that is to be large, such as an accuracy from 0 to 1.
        ratios: what it costs divided by what it should cost, one number for each target.
        penalty: how much costs count; 0 or below.
        form: `"absolute"`, which wants costs to be as said; `"mnas"`, which wants them to be small; `"mnas_hard"`,
            which wants them not to be larger.
    """
    return REWARDS[form](quality, ratios, penalty)


def check_reward(form, penalty):
    """Raises a ValueError unless there is such a form of the reward, and costs count against it."""
    if form not in REWARDS:
        raise ValueError(f"`reward` must be one of {tuple(REWARDS)}. Received: {form!r}")
    if penalty > 0:
        raise ValueError(f"`penalty` must not be above 0, or costs would be rewarded. Received: {penalty}")


def _least_one(ratio):
    """The ratio, or 1 where it is smaller."""
    return (ratio + 1.0 + abs(ratio - 1.0)) / 2.0
