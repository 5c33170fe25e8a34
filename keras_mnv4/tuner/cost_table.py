"""`CostTable`: what candidates cost, as a sum that gradients pass through."""

import functools
import math

import numpy as np

from keras_mnv4.applications.block_spec import BLOCK
from keras_mnv4.cost.profile import Profile
from keras_mnv4.tuner.costs import measure_of
from keras_mnv4.tuner.gates import Table
from keras_mnv4.tuner.gates import channels_along
from keras_mnv4.tuner.space import STEM


class CostTable:
    """The cost of a candidate as a sum of entries, one for each place in the table, that its gates choose.

    Of gates that mix values it is the mean cost of the networks that are drawn with these shares: what ProxylessNAS
    calls the expected latency. Blocks that are none, for the lack of a convolution that could take a stride, count as
    the dearest of their place.

    Source: Cai et al., "ProxylessNAS" (arXiv 1812.00332), section 3.3; the linear cost model of TuNAS (arXiv
    2008.06120).

    Args:
        costs: a `CostModel`. Its measures must be sums over layers, as all those with a name are.
        measure: what is counted: a name or a function, as in the limits of a `CostModel`.

    Example:

    >>> table = CostTable(CostModel(space, input_shape=(32, 32, 3), classes=10), "macs")
    >>> table.expect(gates.split(gates.of(candidate)))
    """

    def __init__(self, costs, measure):
        self.costs, self.space = costs, costs.space
        self._measure = measure_of(measure)
        *before, last = channels_along(self.space, 3)
        self.tables = [
            self._row_table(path, row, channels) for (path, row), channels in zip(self.space.rows, before, strict=True)
        ]
        self.tables.append(Table.over(self.space, last.names, self._cost_of_ends))

    def expect(self, parts):
        """The cost of the candidate that gates choose, or the mean of those that they mix: a scalar tensor.

        Args:
            parts: what `Gates.split` gives.
        """
        return sum(table.expect(parts) for table in self.tables)

    def _row_table(self, path, row, channels):
        choice = self.space.choice_at(path, row)
        names = dict.fromkeys((*channels.names, *self.space.decisions_of(path, row)))
        names = names if choice is None else {choice: None, **names}
        table = Table.over(self.space, names, functools.partial(self._cost_of_row, path))
        return Table(table.names, np.where(np.isnan(table.values), np.nanmax(table.values), table.values))

    def _cost_of_row(self, path, candidate):
        try:
            paths = [path for path, _ in self.space.chosen(candidate)]
        except ValueError:
            return math.nan
        if path not in paths:
            return 0.0
        number = paths.index(path)
        name = f"{BLOCK}{number}" if number else STEM
        return self._cost(candidate, lambda each: each == name)

    def _cost_of_ends(self, candidate):
        """Of what comes before the first row and behind the last."""
        return self._cost(candidate, lambda name: name != STEM and not name.startswith(BLOCK))

    def _cost(self, candidate, is_counted):
        profile = self.costs.profile(candidate)
        layers = tuple(layer for layer in profile.layers if is_counted(layer.path.partition("/")[0]))
        return self._measure(Profile(profile.name, layers))
