"""Pictures of costs, with matplotlib: cost against quality, where a network's costs lie, and rooflines."""

import numpy as np

from keras_mnv4.cost.pareto import pareto_front
from keras_mnv4.cost.profile import profile_of
from keras_mnv4.cost.records import MAC_ROLES
from keras_mnv4.cost.roofline import SWEEP
from keras_mnv4.cost.roofline import on_fronts
from keras_mnv4.cost.roofline import sweep
from keras_mnv4.cost.study import study_curves


def plot_pareto(points, names=None, label=None, axes=None):
    """Cost against quality, with the Pareto front as a line.

    Args:
        points: `(cost, quality)` pairs.
        names: a text for each point, or None.
        label: name of the whole set, for the legend.
        axes: matplotlib axes to draw on; None for new ones. Several sets can share theirs.

    Returns:
        The axes.

    Example:

    >>> axes = plot_pareto([(0.2, 73.8), (1.0, 79.9)], ["Conv-S", "Conv-M"])
    >>> axes.figure.savefig("front.png")
    """
    axes = axes or _new_axes()
    points = np.asarray(points, "float64").reshape(-1, 2)
    front = points[pareto_front(points)]
    (line,) = axes.step(*front.T, where="post", alpha=0.6)
    axes.scatter(*points.T, color=line.get_color(), label=label, zorder=3)
    for name, point in zip(names or (), points, strict=bool(names)):
        axes.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="cost", ylabel="quality")
    axes.margins(x=0.05 if names is None else 0.3)  # room for the names
    if label is not None:
        axes.legend()
    return axes


def plot_curves(records, cost="linear", axes=None):
    """Cost against quality of the networks of a study, a curve for each policy.

    Args:
        records: dictionaries, as `ParetoStudy.records` gives.
        cost: as for `keras_mnv4.cost.study_curves`.
        axes: matplotlib axes to draw on; None for new ones.

    Returns:
        The axes.

    Example:

    >>> records = [{"policy": "w8a8", "network": "small", "width": 1.0, "seed": 0, "linear": 2.0, "top1_eval": 0.7}]
    >>> plot_curves(records).figure.savefig("curves.png")
    """
    axes = axes or _new_axes()
    for policy, points in study_curves(records, cost).items():
        plot_pareto(points, label=policy, axes=axes)
    axes.set(xlabel=f"{cost} cost", ylabel="top-1")
    return axes


def plot_layers(model, prices="energy45", axes=None):
    """A bar for each layer's ACEv2, in which MACs and all other arithmetic are told apart.

    Args:
        model: a Keras model or a `Profile`.
        prices: as for `Profile.ace_v2`.
        axes: matplotlib axes to draw on; None for new ones.

    Returns:
        The axes.

    Example:

    >>> plot_layers(quantized).figure.savefig("layers.png")
    """
    costs = profile_of(model)
    axes = axes or _new_axes(height=2 + 0.16 * len(costs.layers))
    rows = [row for row in costs.rows(prices) if row["ace_v2"]][::-1]
    elementwise = np.array([row["ace_v2_elementwise"] for row in rows])
    products = np.array([row["ace_v2"] for row in rows]) - elementwise
    places = np.arange(len(rows))
    axes.barh(places, products, label="multiply-accumulates")
    axes.barh(places, elementwise, left=products, label="elementwise")
    axes.set_yticks(places, [row["path"] for row in rows], fontsize=7)
    axes.set(xlabel=_axis(prices), title=f"{costs.name}: {costs.elementwise_share(prices):.0%} elementwise")
    axes.margins(y=0.01)
    axes.legend()
    return axes


def plot_roles(models, names=None, prices="energy45", axes=None):
    """A bar for each network's ACEv2, made up of what the arithmetic is for.

    Args:
        models: Keras models or `Profile` objects.
        names: a text for each; None for the models' own names.
        prices: as for `Profile.ace_v2`.
        axes: matplotlib axes to draw on; None for new ones.

    Returns:
        The axes.

    Example:

    >>> plot_roles([model, quantized], names=["float", "w8a8"]).figure.savefig("roles.png")
    """
    profiles = [profile_of(model) for model in models]
    names = names or [each.name for each in profiles]
    axes = axes or _new_axes()
    shares = [each.by_role(prices) for each in profiles]
    roles = sorted({role for each in shares for role in each}, key=lambda role: (role not in MAC_ROLES, role))
    left = np.zeros(len(profiles))
    for role in roles:
        width = np.array([each.get(role, 0.0) for each in shares])
        axes.barh(names, width, left=left, label=role)
        left += width
    axes.invert_yaxis()
    axes.set(xlabel=_axis(prices))
    axes.legend(fontsize=8)
    return axes


def plot_roofline(models, names=None, ridge_points=SWEEP, axes=None):
    """Roofline times over ridge points, each divided by the least at that point.

    Args:
        models: Keras models or `Profile` objects.
        names: a text for each; None for the models' own names.
        ridge_points: numbers, in MACs a byte.
        axes: matplotlib axes to draw on; None for new ones.

    Returns:
        The axes.

    Example:

    >>> plot_roofline([small, large]).figure.savefig("roofline.png")
    """
    profiles = [profile_of(model) for model in models]
    times = sweep(profiles, ridge_points)
    axes = axes or _new_axes()
    for name, row in zip(names or [each.name for each in profiles], times / times.min(0), strict=True):
        axes.plot(ridge_points, row, marker=".", label=name)
    axes.set(xlabel="ridge point, MACs a byte (0: MACs alone)", ylabel="time, in that of the fastest", yscale="log")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.legend(fontsize=8)
    return axes


def _axis(prices):
    return f"ACEv2 ({getattr(prices, 'name', prices)})"


def plot_universal(models, qualities, names=None, ridge_points=SWEEP, axes=None):
    """A row of marks for each network: the ridge points at which it is Pareto-optimal in time and quality.

    Args:
        models: Keras models or `Profile` objects.
        qualities: a number for each, such as its top-1; more is better.
        names: a text for each; None for the models' own names.
        ridge_points: numbers, in MACs a byte.
        axes: matplotlib axes to draw on; None for new ones.

    Returns:
        The axes.

    Example:

    >>> plot_universal([small, large], [73.8, 82.9]).figure.savefig("universal.png")
    """
    profiles = [profile_of(model) for model in models]
    names = names or [each.name for each in profiles]
    axes = axes or _new_axes(height=1.5 + 0.4 * len(profiles))
    for name, is_on in zip(names, on_fronts(profiles, qualities, ridge_points), strict=True):
        points = np.asarray(ridge_points)[is_on]
        axes.plot(points, [f"{name} ({is_on.mean():.0%})"] * len(points), marker="s", linestyle="")
    axes.set(xlabel="ridge points at which it is Pareto-optimal, MACs a byte")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=-0.2)
    return axes


def _new_axes(height=4.8):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots are drawn with matplotlib: `pip install 'keras-mnv4[plots]'`.") from error
    return Figure(figsize=(8, height), layout="constrained").subplots()
