"""`Gates`: a candidate as numbers that gradients can pass through; `Table`: what depends on a few decisions."""

import dataclasses
import functools
import itertools

import numpy as np
from keras import ops

from keras_mnv4.applications.block_spec import Choice
from keras_mnv4.tuner.space import alternatives
from keras_mnv4.tuner.space import label_of
from keras_mnv4.tuner.space import name_of


class Gates:
    """Candidates as vectors: for each value of each decision a number, 1 for the value taken and 0 for the others.

    Where a strategy mixes values, the numbers of a decision are shares that sum to 1. Of a vector's numbers those of
    the first decision come first, in the order of `SearchSpace.decisions`.

    Args:
        space: a `SearchSpace`.

    Example:

    >>> gates = Gates(tiny_space())
    >>> gates.candidate_of(gates.of(candidate)) == candidate
    True
    """

    def __init__(self, space):
        self.space = space
        self.sizes = {name: len(values) for name, values in space.decisions.items()}
        ends = np.cumsum(list(self.sizes.values()))
        self.slices = {
            name: slice(int(end) - size, int(end)) for (name, size), end in zip(self.sizes.items(), ends, strict=True)
        }
        self.size = int(ends[-1])

    def of(self, candidate):
        """The vector of a candidate, a NumPy array."""
        vector = np.zeros(self.size, "float32")
        for part, place in zip(self.slices.values(), self.space.encode(candidate), strict=True):
            vector[part.start + place] = 1.0
        return vector

    def candidate_of(self, vector):
        """The candidate that takes of each decision the value with the largest number. It may be no network."""
        vector = np.asarray(vector)
        return self.space.decode(tuple(int(vector[part].argmax()) for part in self.slices.values()))

    def split(self, vector):
        """A vector as a dictionary from decision to the numbers of its values."""
        return {name: vector[part] for name, part in self.slices.items()}

    def join(self, parts):
        """The vector that `split` took apart."""
        return ops.concatenate([parts[name] for name in self.slices])

    def activity(self, parts):
        """For each decision the share, from 0 to 1, of networks that it matters to: it may be about rows left out."""
        return {name: table.expect(parts) for name, table in self._activity.items()}

    @functools.cached_property
    def _activity(self):
        absences = {name: [] for name in self.sizes}
        for path, row in self.space.rows:
            choice = self.space.choice_at(path, row)
            if choice is not None:
                absences[choice].append(Table.fixed(0))  # which row is there always matters
            for kind in alternatives(row):
                absence = Table.fixed(0)
                if choice is not None:
                    absence = Table.of(self.space, choice, lambda label, kind=kind: label != label_of(kind))
                for name in self.space.decisions_of(path, kind):
                    absences[name].append(absence)
        return {name: Table.combine(_any_present, *tables) for name, tables in absences.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A number, or an array of them, for each combination of the values of some decisions.

    Args:
        names: the decisions.
        values: an array with an axis for each of them, and further ones if entries are arrays.
    """

    names: tuple[str, ...]
    values: np.ndarray

    @classmethod
    def fixed(cls, value):
        """The table of what depends on no decision."""
        return cls((), np.asarray(value))

    @classmethod
    def of(cls, space, name, function=lambda value: value):
        """The table of a function of one decision's value; by default of the value, a number."""
        return cls((name,), np.array([function(value) for value in space.decisions[name]]))

    @classmethod
    def over(cls, space, names, function):
        """The table of a function of candidates: of all combinations of some decisions, the others as in the largest.

        Args:
            space: a `SearchSpace`.
            names: the decisions.
            function: function of a candidate, which may be no network, that gives a number.
        """
        base = space.mend(space.largest)
        values = [space.decisions[name] for name in names]
        entries = [function({**base, **dict(zip(names, each, strict=True))}) for each in itertools.product(*values)]
        return cls(tuple(names), np.array(entries, "float64").reshape([len(each) for each in values]))

    @classmethod
    def combine(cls, function, *tables):
        """A NumPy function of the entries, which are numbers, of several tables."""
        names = tuple(dict.fromkeys(name for table in tables for name in table.names))
        values = np.broadcast_arrays(*[table._along(names) for table in tables])
        return cls(names, np.asarray(function(*values)))._without_idle_axes()

    def expect(self, parts):
        """The entry that gates choose, or the mean of the entries that they mix: a tensor.

        Args:
            parts: what `Gates.split` gives.
        """
        result = ops.convert_to_tensor(self.values.astype("float32"))
        for name in self.names:
            result = ops.tensordot(ops.cast(parts[name], "float32"), result, 1)
        return result

    def mask(self, size):
        """The table of masks: ones for as many channels as an entry says, then zeros, `size` in all."""
        return Table(self.names, np.arange(size) < self.values[..., None])

    @property
    def is_fixed(self):
        """Whether it depends on no decision."""
        return not self.names

    @property
    def most(self):
        """The largest entry, a whole number."""
        return int(self.values.max())

    def _along(self, names):
        """The values with an axis for each of `names`, of length 1 for those that they do not depend on."""
        order = [self.names.index(name) for name in names if name in self.names]
        missing = [axis for axis, name in enumerate(names) if name not in self.names]
        return np.expand_dims(self.values.transpose(order), tuple(missing))

    def _without_idle_axes(self):
        names, values = self.names, self.values
        for name in self.names:
            axis = names.index(name)
            first = values.take([0], axis)
            if (values == first).all():
                names, values = names[:axis] + names[axis + 1 :], first.squeeze(axis)
        return Table(names, values)


def table_of(space, path, row, field):
    """The `Table` of a field of a row, a number."""
    value = getattr(row, field)
    return Table.of(space, name_of(path, field, value)) if isinstance(value, Choice) else Table.fixed(value)


def channels_along(space, channels):
    """How many channels come in at each row, and how many go out of the last: a list of `Table`.

    Args:
        space: a `SearchSpace`.
        channels: channels of pictures.
    """
    tables = [Table.fixed(channels)]
    for path, row in space.rows:
        kinds = row.values if isinstance(row, Choice) else (row,)
        after = [tables[-1] if kind is None else table_of(space, path, kind, "filters") for kind in kinds]
        if isinstance(row, Choice):
            decision = space.choice_at(path, row)
            place = Table.of(space, decision, space.decisions[decision].index)
            tables.append(Table.combine(lambda place, *counts: np.choose(place, counts), place, *after))
        else:
            tables.extend(after)
    return tables


def _any_present(*absences):
    return 1.0 - functools.reduce(np.multiply, absences)
