"""What is drawn is what was counted: bars and lines are read back from the axes."""

import numpy as np
import pytest
from conftest import tiny_hybrid
from conftest import tiny_network

from keras_mnv4 import cost
from keras_mnv4 import qat
from keras_mnv4.cost import plots

pytestmark = pytest.mark.once


def test_bars_of_layers_add_up():
    model = qat.quantize_model(tiny_network(), "w4a8")
    axes = plots.plot_layers(model)
    drawn = sum(bar.get_width() for bars in axes.containers for bar in bars)
    assert drawn == pytest.approx(cost.profile(model).ace_v2())
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "stem"


def test_bars_of_roles_add_up():
    models = [tiny_network(), tiny_hybrid()]
    axes = plots.plot_roles(models, ["one", "other"])
    drawn = [sum(bars[index].get_width() for bars in axes.containers) for index in (0, 1)]
    assert drawn == pytest.approx([cost.profile(model).ace_v2() for model in models])


def test_rooflines_are_relative_to_the_fastest():
    axes = plots.plot_roofline([tiny_network(), tiny_hybrid()], ridge_points=(0, 10, 100))
    lines = np.array([line.get_ydata() for line in axes.lines])
    np.testing.assert_array_equal(lines.min(0), 1)


def test_marks_stand_where_a_network_is_on_the_front():
    small, large = tiny_network(), tiny_network(input_shape=(64, 64, 3))
    axes = plots.plot_universal([small, large], [0.9, 0.5], ["small", "large"], ridge_points=(0, 10, 100))
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 0]
    assert cost.universally_pareto([small, large], [0.9, 0.5], (0, 10, 100)) == [1.0, 0.0]


def test_sets_of_points_share_axes():
    axes = plots.plot_pareto([(1, 0.5), (2, 0.4), (4, 0.9)], ["a", "b", "c"], label="float")
    assert plots.plot_pareto([(0.5, 0.5)], label="8 bits", axes=axes) is axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["float", "8 bits"]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 0.5], [4, 0.9]])


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-mnv4\[plots\]"):
        plots.plot_layers(tiny_network())
