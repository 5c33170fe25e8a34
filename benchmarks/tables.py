"""How many architectures a second are costed from their tables: MACs, parameters, ACE and ACEv2 of each.

`python benchmarks/tables.py` draws ConvSmall with other kernels and expansions in its blocks, as a search would, and
then with other channels everywhere, which makes nearly every row a new one. It builds one of the models, for the ratio.
"""

import dataclasses
import random
import time

from rich.console import Console
from rich.table import Table

from keras_mnv4 import cost
from keras_mnv4.applications import UIB
from keras_mnv4.applications import build_network
from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES

BASE = ARCHITECTURES["MobileNetV4ConvSmall"]


def with_other_blocks(draw):
    def other(block):
        if not isinstance(block, UIB):
            return block
        start, middle = draw.choice((0, 3, 5)), draw.choice((0, 3, 5))
        middle = 3 if block.stride > 1 and not start else middle
        return dataclasses.replace(block, start=start, middle=middle, expand=draw.choice((3, 4, 6)))

    return dataclasses.replace(BASE, blocks=tuple(map(other, BASE.blocks)))


def with_other_channels(draw):
    blocks = with_other_blocks(draw).blocks
    blocks = tuple(dataclasses.replace(block, filters=8 * draw.randint(2, 40)) for block in blocks)
    return dataclasses.replace(BASE, blocks=blocks)


def figures(costs):
    return costs.macs, costs.parameters, costs.ace(), costs.ace_v2()


def seconds_of_each(profiler, architectures):
    start = time.perf_counter()
    for architecture in architectures:
        figures(profiler.profile(architecture))
    return (time.perf_counter() - start) / len(architectures)


def main():
    draw = random.Random(0)
    start = time.perf_counter()
    figures(cost.profile(build_network(with_other_blocks(draw))))
    built = time.perf_counter() - start
    table = Table("tables", "policy", "a second", "times as fast as building the model")
    for name, make, number in (("blocks", with_other_blocks, 3000), ("channels too", with_other_channels, 500)):
        architectures = [make(draw) for _ in range(number)]
        for policy in (None, "w8a8"):
            seconds = seconds_of_each(cost.TableProfiler(policy=policy), architectures)
            table.add_row(name, policy or "float", f"{1 / seconds:,.0f}", f"{built / seconds:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
