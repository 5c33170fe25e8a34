"""`profile`: what a network computes, layer by layer; `Profile`: the list, and its prices."""

import csv
import dataclasses
import io
import json
import math
import pathlib

import keras
from rich.console import Console
from rich.table import Table

from keras_mnv4.cost import stock_counters  # noqa: F401  registers them
from keras_mnv4.cost.arithmetic import Arithmetic
from keras_mnv4.cost.arithmetic import Row
from keras_mnv4.cost.arithmetic import Value
from keras_mnv4.cost.counters import count
from keras_mnv4.cost.counters import has_counter
from keras_mnv4.cost.formats import Format
from keras_mnv4.cost.prices import ENERGIES
from keras_mnv4.cost.prices import PRICES
from keras_mnv4.cost.prices import find_prices
from keras_mnv4.cost.records import MAC_ROLES
from keras_mnv4.cost.records import ROLES
from keras_mnv4.cost.records import LayerCost
from keras_mnv4.files import atomic_file
from keras_mnv4.qat.stock.fusion import fusions

AQT_FLOAT_BITS = 16  # what AQT counts a number for that is not quantised: its networks are bfloat16 then
AQT_WIDTHS = (4, 8, 16)  # of the multipliers of the hardware behind its linear cost


def profile(model, input_shape=None, arithmetic=None):
    """Counts all that a model computes for one picture, without computing anything.

    Args:
        model: a Functional or Sequential Keras model, float or from `keras_mnv4.qat.quantize_model`, of layers of this
            package and the common ones of Keras. Others are refused by name: see `register_counter`.
        input_shape: shape of one input without the batch, in place of the model's own; a list of them for a model of
            several inputs. Needed where the model's is not fixed.
        arithmetic: an `Arithmetic`: what the model does not say about how it is computed.

    Returns:
        A `Profile`.

    Raises:
        ValueError: if the size of the input is not known, or a layer has no counter; the message names it.

    Example:

    >>> costs = profile(MobileNetV4ConvSmall(weights=None))
    >>> costs.macs, costs.parameters
    (186005568, 3774024)
    """
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(f"`model` must be built: give `{model.name}` an `Input`.")
    if not hasattr(model, "operations") and not isinstance(model, keras.Sequential):
        raise ValueError(f"`model` must be a Functional or Sequential `keras.Model`. Received: {model!r}")
    walk = _Walk(arithmetic or Arithmetic())
    walk.run(model, _input_values(model, input_shape, walk.arithmetic), prefix="")
    return Profile(model.name, tuple(cost for row in walk.rows for cost in row.costs()))


def profile_of(model):
    """The `Profile` of a Keras model; a `Profile` as it is.

    Args:
        model: a Keras model, as for `profile`, or a `Profile`.
    """
    return model if isinstance(model, Profile) else profile(model)


def _input_values(model, input_shape, arithmetic):
    inputs = keras.tree.flatten(model.inputs)
    shapes = [each.shape[1:] for each in inputs]
    if input_shape is not None:
        shapes = [input_shape] if len(inputs) == 1 and not isinstance(input_shape[0], (tuple, list)) else input_shape
    if len(shapes) != len(inputs) or any(None in shape for shape in shapes):
        raise ValueError(
            f"The size of the input of `{model.name}` is not known. Give `input_shape`, without the batch. Received: "
            f"input_shape={input_shape}; the model's is {model.input_shape}"
        )
    axis = -1 if keras.config.image_data_format() == "channels_last" else 0
    for each, shape in zip(inputs, shapes, strict=True):
        own = each.shape[1:]
        if len(own) != len(shape) or (own and own[axis] not in (None, shape[axis])):
            raise ValueError(f"`input_shape` must fit the model's {own}. Received: input_shape={input_shape}")
    override = arithmetic.float_format
    return [
        Value((1, *shape), Format.named(override or each.dtype), is_picture=True)
        for each, shape in zip(inputs, shapes, strict=True)
    ]


class _Walk:
    """One walk through a model and the models in it."""

    def __init__(self, arithmetic):
        self.arithmetic = arithmetic
        self.rows = []
        self.seen = set()

    def run(self, model, values, prefix):
        """Counts all of `model`; returns the `Value` objects of its outputs."""
        if isinstance(model, keras.Sequential):
            model = keras.Model(model.inputs, model.outputs)
        fused = fusions(model)
        known = {id(tensor): value for tensor, value in zip(model.inputs, values, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, kwargs = node.arguments.fill_in(known)
                named = [value for value in kwargs.values() if isinstance(value, Value)]
                before = node.input_tensors[0]._keras_history.operation
                results = self.call(node.operation, (*args, *named), prefix, fused.get(before) is node.operation)
                known.update(zip(map(id, node.outputs), keras.tree.flatten(results), strict=True))
        return [known[id(tensor)] for tensor in model.outputs]

    def call(self, operation, args, prefix, is_fused):
        path = prefix + operation.name
        is_graph = isinstance(operation, keras.Sequential) or hasattr(operation, "operations")
        if isinstance(operation, keras.Model) and is_graph and not has_counter(operation):
            return self.run(operation, keras.tree.flatten(args), path + "/")
        name = self.arithmetic.float_format or getattr(operation, "compute_dtype", None) or keras.config.floatx()
        kind = type(getattr(operation, "layer", operation)).__name__
        row = Row(path, kind, self.arithmetic, Format.named(name), is_fused, is_repeated=operation in self.seen)
        self.rows.append(row)
        self.seen.add(operation)

        def to_own_floats(value):
            is_float = isinstance(value, Value) and value.format.is_float
            return dataclasses.replace(value, format=row.float_format) if is_float else value

        return count(operation, row, *keras.tree.map_structure(to_own_floats, args))


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a network computes for one picture. As a string, a table.

    Args:
        name: name of the network.
        layers: a tuple of `LayerCost`, in the order of the computation.

    Example:

    >>> costs = profile(model)
    >>> costs.macs == sum(layer.macs for layer in costs.layers)
    True
    >>> 0 < costs.elementwise_share() < 1
    True
    """

    name: str
    layers: tuple[LayerCost, ...]

    @property
    def operations(self):
        """All operations of all layers."""
        return [operation for layer in self.layers for operation in layer.operations]

    @property
    def macs(self):
        """Multiply-accumulates of convolutions, dense layers and attention products."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self):
        """Trainable parameters, whether they are frozen or not."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def weight_bytes(self):
        """Bytes of kernels and biases, as stored for inference."""
        return sum(weights.bits for weights in self._stored) / 8

    def bops(self):
        """Bit operations: for each MAC the product of the widths, and the sum's growing width.

        Source: Baskin et al., "UNIQ: Uniform Noise Injection for Non-Uniform Quantization" (arXiv 1804.10969), section
        4.2: with operands of i and j bits and n products a sum, a MAC is i * j + i + j + log2(n).
        """
        return sum(
            each.count * (i * j + i + j + math.log2(each.terms))
            for each, (i, j) in ((each, (each.formats[0].bits, each.formats[1].bits)) for each in self._macs)
        )

    def ace(self):
        """Arithmetic computation effort: for each MAC, the product of the widths of its operands.

        Source: Zhang et al., "PokeBNN: A Binary Pursuit of Lightweight Accuracy" (arXiv 2112.00133).
        """
        return sum(layer.ace for layer in self.layers)

    def ace_v2(self, prices="energy45", roles=None):
        """Arithmetic computation effort of all operations, not of MACs alone. A reconstruction.

        PikeLPN (arXiv 2404.00103) extends ACE to every arithmetic operation, in proportion to the energy of hardware.
        Its text could not be obtained. Assumed are: products of integers cost i * j, as in ACE; sums max(i, j); floats
        what they cost in energy, in units of the energy of one bit of an adder; and what is counted, see `Arithmetic`.

        Args:
            prices: `"energy45"` or `"energy7"`, floats by their energy at 45 or 7 nm; `"bitwidth"`, floats as integers
                of their bits; or a `PriceTable`.
            roles: one or several of `keras_mnv4.cost.ROLES` to count; None for all.

        Raises:
            ValueError: if there are no such prices or roles, or the prices lack that of a format that occurs.
        """
        return self._total(find_prices(prices, PRICES, "prices"), roles)

    def energy(self, prices="45nm", roles=None):
        """Energy of the arithmetic in picojoules, without that of memory.

        Args:
            prices: `"45nm"` (Horowitz 2014), `"7nm"` (Jouppi 2021), or a `PriceTable`.
            roles: as for `ace_v2`.

        Raises:
            ValueError: as for `ace_v2`.
        """
        return self._total(find_prices(prices, ENERGIES, "prices"), roles)

    def aqt_cost(self, kind="linear"):
        """The costs that cost-quality curves of quantised ResNets are drawn over.

        Source: "Pareto-Optimal Quantized ResNet Is Mostly 4-bit" (arXiv 2105.03536) and the code of AQT. What is not
        quantised counts as bfloat16.

        Args:
            kind: `"linear"`, products by the width of the multiplier of 4, 8 or 16 bits that they need, or by the wider
                of both widths above 16; `"quadratic"`, products by both widths; `"memory"`, kernels by their width.

        Raises:
            ValueError: if there is no such `kind`.
        """
        costs = {
            "linear": lambda i, j: next((width for width in AQT_WIDTHS if max(i, j) <= width), max(i, j)),
            "quadratic": lambda i, j: i * j,
        }
        if kind == "memory":
            kernels = [weights for weights in self._stored if weights.role == "kernel"]
            return sum(weights.count * _aqt_bits(weights.format) for weights in kernels)
        if kind not in costs:
            raise ValueError(f"`kind` must be one of {[*costs, 'memory']}. Received: {kind!r}")
        return sum(each.count * costs[kind](*map(_aqt_bits, each.formats[:2])) for each in self._macs)

    def elementwise_share(self, prices="energy45"):
        """The share of ACEv2 that is not MACs: 0 to 1."""
        total = self.ace_v2(prices)
        return 1 - self.ace_v2(prices, MAC_ROLES) / total if total else 0.0

    def by_role(self, prices="energy45"):
        """ACEv2 of each role that occurs, as a dictionary."""
        occurring = dict.fromkeys(each.role for each in self.operations)
        return {role: self.ace_v2(prices, (role,)) for role in occurring}

    @property
    def _macs(self):
        return [operation for operation in self.operations if operation.kind == "mac"]

    @property
    def _stored(self):
        """All weights, those of layers that are called several times once."""
        return [weights for layer in self.layers for weights in layer.weights if weights.is_stored]

    def _total(self, prices, roles):
        if roles is not None:
            roles = (roles,) if isinstance(roles, str) else tuple(roles)
            if not set(roles) <= set(ROLES):
                raise ValueError(f"`roles` must be of {ROLES}. Received: {roles}")
        return sum(layer.price(prices, roles) for layer in self.layers)

    def rows(self, prices="energy45"):
        """One dictionary a layer, of plain numbers and texts: what tables and files are made of."""
        table = find_prices(prices, PRICES, "prices")
        for layer in self.layers:
            macs = [each for each in layer.operations if each.kind == "mac"]
            widths = sorted({f"{each.formats[0]} x {each.formats[1]}" for each in macs})
            yield {
                "path": layer.path,
                "layer": layer.layer,
                "parameters": layer.parameters,
                "macs": layer.macs,
                "formats": ", ".join(widths),
                "ace": layer.ace,
                "ace_v2": layer.price(table),
                "ace_v2_elementwise": layer.price(table) - layer.price(table, MAC_ROLES),
                "bytes_moved": layer.bits_moved / 8,
            }

    def save(self, path, prices="energy45", overwrite=False):
        """Writes the costs to a file: `.json`, every operation of every layer; `.csv` and `.html`, the table of layers;
        `.png`, their bars.

        Args:
            path: the file to make.
            prices: as for `ace_v2`; JSON has counts only.
            overwrite: whether an existing file may be replaced.

        Raises:
            ValueError: if the name of the file ends otherwise.
        """
        path = pathlib.Path(path)
        texts = {".json": self.to_json, ".csv": lambda: self.to_csv(prices), ".html": lambda: self.to_html(prices)}
        if path.suffix not in (*texts, ".png"):
            raise ValueError(f"`path` must end in one of {', '.join((*texts, '.png'))}. Received: {str(path)!r}")
        with atomic_file(path, overwrite) as temporary:
            if path.suffix == ".png":
                from keras_mnv4.cost import plots

                plots.plot_layers(self, prices).figure.savefig(temporary, dpi=120)
            else:
                temporary.write_text(texts[path.suffix](), encoding="utf-8")

    def to_json(self):
        """Every operation of every layer, as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def to_csv(self, prices="energy45"):
        """The table, as text with commas and a line of names."""
        file = io.StringIO()
        rows = list(self.rows(prices))
        writer = csv.DictWriter(file, rows[0] if rows else ["path"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def to_html(self, prices="energy45"):
        """The table, as a page of its own."""
        console = Console(record=True, file=io.StringIO(), width=150)
        console.print(self._rich_table(prices))
        return console.export_html()

    def table(self, prices="energy45"):
        """The table as text, which `str` gives too."""
        console = Console(file=io.StringIO(), width=150)
        console.print(self._rich_table(prices))
        return console.file.getvalue()

    def _rich_table(self, prices="energy45"):
        table = Table("layer", "", "parameters", "MACs", "formats", "ACE", "ACEv2", "elementwise", title=self.name)
        for row in self.rows(prices):
            share = row["ace_v2_elementwise"] / row["ace_v2"] if row["ace_v2"] else 0.0
            table.add_row(
                row["path"],
                row["layer"],
                f"{row['parameters']:,}",
                f"{row['macs']:,}",
                row["formats"],
                f"{row['ace']:.3g}",
                f"{row['ace_v2']:.3g}",
                f"{share:.0%}",
            )
        table.add_section()
        totals = f"{self.parameters:,}", f"{self.macs:,}", "", f"{self.ace():.3g}", f"{self.ace_v2(prices):.3g}"
        table.add_row("total", "", *totals, f"{self.elementwise_share(prices):.0%}")
        return table

    def __str__(self):
        return self.table()


def _aqt_bits(format):
    return AQT_FLOAT_BITS if format.is_float else format.bits
