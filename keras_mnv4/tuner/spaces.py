"""Search spaces, ready to use: MobileNetV4's two stages, one for pictures of 32 pixels, and a tiny one.

Source: MobileNetV4 (arXiv 2404.10518), section 6: first the channels, of inverted bottlenecks with expansion 4 and 3x3
kernels; then, with channels as found, both depthwise convolutions of every block. Which channels there were to choose
from, and how many blocks, the paper does not say: these are a reconstruction, around the published networks.
"""

import dataclasses

from keras_mnv4.applications.block_spec import UIB
from keras_mnv4.applications.block_spec import Choice
from keras_mnv4.applications.block_spec import Conv
from keras_mnv4.applications.block_spec import FusedIB
from keras_mnv4.applications.block_spec import choice
from keras_mnv4.applications.network import Architecture
from keras_mnv4.tuner.space import SearchSpace

KERNELS = (0, 3, 5)  # of the depthwise convolutions, 0 for none


def _stage(name, filters, depth, expand=4, stride=2, **kernels):
    """A block with the stride, and `depth - 1` that may be left out, all of the same channels."""
    filters = choice(*filters, name=f"{name}/filters")
    first = UIB(filters, expand=expand, stride=stride, **kernels)
    return first, *[choice(None, UIB(filters, expand=expand, **kernels))] * (depth - 1)


def coarse_space():
    """The first stage: channels and depth of four stages, of inverted bottlenecks.

    Example:

    >>> len(coarse_space().rows)
    23
    """
    rows = (
        Conv(choice(24, 32, name="stem/filters"), kernel=3, stride=2),
        FusedIB(choice(32, 48, 64, name="fused/filters"), kernel=3, expand=4, stride=2),
        *_stage("stage_1", (48, 64, 80, 96), 4, middle=3),
        *_stage("stage_2", (96, 128, 160, 192), 6, middle=3),
        *_stage("stage_3", (96, 128, 160, 192), 4, middle=3, stride=1),
        *_stage("stage_4", (128, 192, 256, 320), 6, middle=3),
        Conv(960, kernel=1),
    )
    return SearchSpace(Architecture("mobilenet_v4_coarse", rows))


def fine_space(architecture, weight_bits=()):
    """The second stage: both depthwise convolutions of every UIB block, and whether those without a stride are there.

    Args:
        architecture: an `Architecture`, with channels as the first stage found them.
        weight_bits: as for `SearchSpace`.

    Example:

    >>> fine_space(applications.mobilenet_v4.ARCHITECTURES["MobileNetV4ConvSmall"]).decisions["block_5/start"]
    (0, 3, 5)
    """
    kernels = {"start": choice(*KERNELS), "middle": choice(*KERNELS)}
    rows = []
    for row in architecture.blocks:
        if isinstance(row, UIB):
            row = dataclasses.replace(row, **kernels)
            row = choice(None, row) if row.stride == 1 and _keeps_channels(rows, row) else row
        rows.append(row)
    return SearchSpace(dataclasses.replace(architecture, blocks=tuple(rows)), weight_bits)


def _keeps_channels(rows, row):
    before = next(each for each in rows[-1].values if each is not None) if isinstance(rows[-1], Choice) else rows[-1]
    return before.filters == row.filters


def small_space(weight_bits=()):
    """For pictures of 32 pixels: three stages, with channels, depth and kernels to choose.

    Example:

    >>> small_space().largest["stage_3/filters"]
    128
    """
    kernels = {"start": choice(*KERNELS), "middle": choice(*KERNELS)}
    rows = (
        Conv(16, kernel=3),
        *_stage("stage_1", (16, 24, 32), 3, stride=1, **kernels),
        *_stage("stage_2", (32, 48, 64), 4, **kernels),
        *_stage("stage_3", (64, 96, 128), 4, **kernels),
        Conv(256, kernel=1),
    )
    return SearchSpace(Architecture("mobilenet_v4_32", rows, default_size=32, head_filters=None), weight_bits)


def tiny_space(weight_bits=()):
    """Two stages of few channels, for tests: hundreds of networks that train in seconds.

    Example:

    >>> tiny_space(weight_bits=(4, 8)).decisions["block_1/weight_bits"]
    (4, 8)
    """
    kernels = {"start": choice(0, 3), "middle": choice(0, 3)}
    rows = (
        Conv(8, kernel=3, stride=2),
        *_stage("stage_1", (8, 16), 1, expand=2, **kernels),
        *_stage("stage_2", (16, 24), 2, expand=2, **kernels),
    )
    return SearchSpace(Architecture("tiny", rows, default_size=32, head_filters=None), weight_bits)
