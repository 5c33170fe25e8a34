"""`SearchSpace`: tables in which choices stand where numbers, or whole rows, do."""

import dataclasses
import functools
import json
import math

from keras_mnv4.applications.block_spec import BLOCK
from keras_mnv4.applications.block_spec import MQA
from keras_mnv4.applications.block_spec import Choice
from keras_mnv4.applications.network import Architecture
from keras_mnv4.qat.policies import Policy
from keras_mnv4.qat.policies import get_policy

STEM = "stem"
NONE = "none"  # the label of a row that is left out
BITS = "weight_bits"  # what the decision on the bits of a block is called
EVERYTHING = ".*"
EIGHT_BITS = get_policy("w8a8")
TRIES = 1000  # before a space counts as empty


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All networks that a table with choices in it stands for.

    A candidate, one of these networks, is a dictionary from decision to value. Decisions are called after where they
    stand, `"block_3/filters"`, or by the name of their `Choice`; those between rows, `"block_3"`, have the rows' kinds
    for values, and `"none"` for leaving the block out. Not all candidates are networks: a block that takes a stride
    needs a depthwise convolution.

    Args:
        architecture: an `Architecture` whose rows have a `Choice` in them, or are a `Choice` between rows. Among these
            may be None, if the others have no stride.
        weight_bits: bits that the kernels of each block can have, a decision each; empty for networks that are not
            quantised. Feature maps, the first and the last layer have 8.

    Raises:
        ValueError: if there is nothing to choose, two choices of one name differ, or there is no policy of such bits.

    Example:

    >>> rows = (
    ...     Conv(16, kernel=3, stride=2),
    ...     UIB(choice(24, 32), expand=4, start=choice(0, 3, 5), middle=choice(0, 3, 5), stride=2),
    ...     choice(None, UIB(32, expand=2, middle=3)),
    ... )
    >>> space = SearchSpace(Architecture("example", rows))
    >>> space.size
    36
    """

    architecture: Architecture
    weight_bits: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "weight_bits", tuple(self.weight_bits))
        for bits in self.weight_bits:
            _uniform(bits)  # raises if there is no such policy
        if not self.decisions:
            raise ValueError("`architecture` must have a `Choice` in one of its rows at least.")

    @functools.cached_property
    def decisions(self):
        """A dictionary from decision to the tuple of its values, in the order of the table."""
        found = {}

        def add(name, values):
            if found.setdefault(name, values) != values:
                raise ValueError(f"Choices called {name!r} must have the same values. Found: {found[name]}, {values}")

        for path, row in self.rows:
            if isinstance(row, Choice):
                _check_row_choice(path, row)
                add(self.choice_at(path, row), tuple(label_of(each) for each in row.values))
            for each in alternatives(row):
                for field, choice in each.choices.items():
                    add(name_of(path, field, choice), choice.values)
            if self.weight_bits and path != STEM:
                add(f"{path}/{BITS}", self.weight_bits)
        return found

    @property
    def rows(self):
        """Pairs of a row's place, `"stem"` or `"block_1"` and so on, and the row, choices in it."""
        stem, *body = self.architecture.blocks
        return ((STEM, stem), *((f"{BLOCK}{number}", row) for number, row in enumerate(body, 1)))

    def choice_at(self, path, row):
        """The decision between the kinds of rows at a place; None where there is one kind."""
        return row.name or path if isinstance(row, Choice) else None

    def decisions_of(self, path, row):
        """The decisions within the rows at a place, a tuple; not `choice_at`."""
        names = [name_of(path, field, each) for kind in alternatives(row) for field, each in kind.choices.items()]
        if self.weight_bits and path != STEM:
            names.append(f"{path}/{BITS}")
        return tuple(dict.fromkeys(names))

    @property
    def size(self):
        """The number of candidates, those that are no networks among them."""
        return math.prod(len(values) for values in self.decisions.values())

    @property
    def largest(self):
        """The candidate of the largest numbers, with all rows."""
        return {name: _largest(values) for name, values in self.decisions.items()}

    def sample(self, random):
        """A candidate, each of its decisions taken by chance; always a network.

        Args:
            random: a `numpy.random.Generator`.

        Raises:
            ValueError: if of many candidates none is a network.
        """
        for _ in range(TRIES):
            candidate = {name: values[random.integers(len(values))] for name, values in self.decisions.items()}
            if self.is_network(candidate):
                return candidate
        raise ValueError(f"Of {TRIES} random candidates of `{self.architecture.name}` none is a network.")

    def neighbors(self, candidate):
        """The networks that differ from a candidate in one decision, as a list."""
        self._check(candidate)
        changed = (
            {**candidate, name: value}
            for name, values in self.decisions.items()
            for value in values
            if value != candidate[name]
        )
        return [each for each in changed if self.is_network(each)]

    def is_network(self, candidate):
        """Whether a candidate's rows describe blocks."""
        try:
            self.architecture_of(candidate)
        except ValueError:
            return False
        return True

    def mend(self, candidate):
        """A candidate that is a network: in rows that describe no block, the first decision that helps is changed.

        Raises:
            ValueError: if none does.
        """
        self._check(candidate)
        for path, row in self.rows:
            changed = (
                {**candidate, name: value} for name in self.decisions_of(path, row) for value in self.decisions[name]
            )
            candidate = next((each for each in (candidate, *changed) if _is_block(path, row, each)), candidate)
        self.architecture_of(candidate)
        return candidate

    def active_decisions(self, candidate):
        """The decisions that a candidate's network depends on, a set: not those on rows that are left out.

        Args:
            candidate: a candidate, a network or not.
        """
        active = set()
        for path, row in self.rows:
            choice = self.choice_at(path, row)
            if choice is not None:
                active.add(choice)
                row = next((each for each in alternatives(row) if label_of(each) == candidate[choice]), None)
            if row is not None:
                active.update(self.decisions_of(path, row))
        return active

    def network_code(self, candidate):
        """What candidates of the same network, at the same places of the table, have in common.

        It is what `encode` gives, with 0 for decisions that are not active.
        """
        active = self.active_decisions(candidate)
        places = zip(self.decisions, self.encode(candidate), strict=True)
        return tuple(place if name in active else 0 for name, place in places)

    def encode(self, candidate):
        """A candidate as a tuple of whole numbers: the place of each value among those of its decision."""
        self._check(candidate)
        return tuple(values.index(candidate[name]) for name, values in self.decisions.items())

    def decode(self, code):
        """The candidate that `encode` made a code of.

        Raises:
            ValueError: if it is not a code of this space.
        """
        lengths = [len(values) for values in self.decisions.values()]
        if len(code) != len(lengths) or not all(0 <= place < most for place, most in zip(code, lengths, strict=True)):
            raise ValueError(f"A code has {len(lengths)} numbers, below {lengths}. Received: {code}")
        return {name: values[place] for (name, values), place in zip(self.decisions.items(), code, strict=True)}

    def architecture_of(self, candidate):
        """The `Architecture` of a candidate, which `build_network` and `TableProfiler` take.

        Raises:
            ValueError: if the candidate is not of this space, or is no network.
        """
        self._check(candidate)
        rows = tuple(row for _, row in self.chosen(candidate))
        return dataclasses.replace(self.architecture, blocks=rows)

    def bits_of(self, candidate, default=None):
        """The bits of the kernels of a candidate's blocks, a dictionary from the block's name in its network.

        Args:
            candidate: one of this space.
            default: bits of all blocks where the space has none to choose; None for an empty dictionary then.
        """
        if not self.weight_bits and default is None:
            return {}
        return {name: bits if self.weight_bits else default for name, _, bits in self._blocks(candidate)}

    def policy_of(self, candidate):
        """The `keras_mnv4.qat.Policy` of a candidate: None if the space has no bits to choose."""
        if not self.weight_bits:
            return None
        rules = []
        for width in self.weight_bits:
            blocks = [(name, row) for name, row, bits in self._blocks(candidate) if bits == width]
            for rule in _uniform(width).rules:
                names = [name for name, row in blocks if rule.pattern == EVERYTHING or isinstance(row, MQA)]
                if names and rule not in EIGHT_BITS.rules:
                    pattern = f"(?={'|'.join(f'{name}(/|$)' for name in names)}){rule.pattern}"
                    rules.append(dataclasses.replace(rule, pattern=pattern))
        return Policy((*rules, *EIGHT_BITS.rules), name=f"{self.architecture.name}_mixed")

    def to_hyperparameters(self, hyperparameters, default=None):
        """Declares the decisions to Keras Tuner, and gives the candidate that it has chosen.

        Args:
            hyperparameters: a `keras_tuner.HyperParameters`.
            default: the candidate to begin with; None for the first values.
        """
        default = default or self.decode((0,) * len(self.decisions))
        candidate = {}
        for name, values in self.decisions.items():
            chosen = hyperparameters.Choice(name, [str(value) for value in values], default=str(default[name]))
            candidate[name] = next(value for value in values if str(value) == chosen)
        return candidate

    def to_json(self):
        """This space as a text that `from_json` reads."""
        return json.dumps({"architecture": self.architecture.to_dict(), "weight_bits": self.weight_bits}, indent=1)

    @classmethod
    def from_json(cls, text):
        """The space that `to_json` wrote."""
        fields = json.loads(text)
        return cls(Architecture.from_dict(fields["architecture"]), tuple(fields["weight_bits"]))

    def chosen(self, candidate):
        """Pairs of a row's place in the space and the row without choices; those left out are not among them."""
        for path, row in self.rows:
            chosen = _choose(path, row, candidate)
            if chosen is not None:
                yield path, chosen

    def _blocks(self, candidate):
        """The name in its network, the row and the bits of each of a candidate's blocks."""
        _, *body = self.chosen(candidate)
        for number, (path, row) in enumerate(body, 1):
            yield f"{BLOCK}{number}", row, candidate.get(f"{path}/{BITS}")

    def _check(self, candidate):
        for name, values in self.decisions.items():
            if name not in candidate or candidate[name] not in values:
                raise ValueError(
                    f"Decision {name!r} must be one of {values}. Received: {candidate.get(name, 'nothing')!r}"
                )


def _choose(path, row, candidate):
    """A row without choices, or None if it is left out; ValueError if it describes no block."""
    if isinstance(row, Choice):
        label = candidate[row.name or path]
        row = next(each for each in row.values if label_of(each) == label)
    if row is None or not row.choices:
        return row
    return _with(row, tuple(candidate[name_of(path, field, choice)] for field, choice in row.choices.items()))


@functools.lru_cache(maxsize=10_000)
def _with(row, values):
    """A row with values in place of its choices. Searches ask for the same few again and again."""
    return dataclasses.replace(row, **dict(zip(row.choices, values, strict=True)))


def _largest(values):
    """Of numbers, with None for nothing, the largest; of rows the last that is not left out."""
    if any(isinstance(value, str) for value in values):
        return next(value for value in reversed(values) if value != NONE)
    return max(values, key=lambda value: value or 0)


def _is_block(path, row, candidate):
    try:
        _choose(path, row, candidate)
    except ValueError:
        return False
    return True


def _check_row_choice(path, row):
    labels = [label_of(each) for each in row.values]
    if len(set(labels)) < len(labels):
        raise ValueError(f"Rows to choose from must differ in kind, at `{path}`: {labels}. Put choices into one row.")
    if NONE in labels and any(each.stride != 1 for each in alternatives(row)):
        raise ValueError(f"A row with a stride cannot be left out, at `{path}`: {row}")


def name_of(path, field, choice):
    """The name of the decision that a `Choice` in a field of a row is."""
    return choice.name or f"{path}/{field}"


def alternatives(row):
    """The kinds of rows that there are to choose from at a place, without that of leaving it out; a list."""
    return [each for each in row.values if each is not None] if isinstance(row, Choice) else [row]


def label_of(row):
    """The value that stands for a kind of row, or for none, in candidates."""
    return NONE if row is None else type(row).__name__


def _uniform(weight_bits):
    return get_policy(f"w{weight_bits}a8")
