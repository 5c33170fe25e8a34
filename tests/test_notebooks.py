"""The notebooks run from top to bottom, on little; they are kept without outputs, and their two forms agree."""

import json
import pathlib

import jupytext
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# What takes the place of the values in the cell tagged "parameters"; `make notebooks` runs with the notebooks' own.
SMALL = {
    "datafree": {"HOW": {"digits": {"num_images": 20, "rounds": 2, "steps": 60, "batch_size": 20}}},
    "deployment": {"SIZE": 32, "EPOCHS": 1, "RUNS": 5},
    "distillation": {"PICTURES": 96, "EPOCHS": 2},
    "quantisation": {"SIZE": 32, "WIDTH": 0.25, "EPOCHS": 2, "QAT_EPOCHS": 1, "POLICIES": {"w4a8": "4-bit weights"}},
    "quickstart": {"SIZE": 64, "CROPS": 10, "EPOCHS": 1},
    "search": {"SUPERNET_EPOCHS": 1, "POPULATION": 4, "GENERATIONS": 1, "EPOCHS": 1, "RANDOM": 1},
}

pytestmark = pytest.mark.once


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    small = SMALL.get(path.stem, {})
    namespace = {}
    for cell in code_cells(path):
        exec("".join(cell["source"]), namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert small.keys() <= namespace.keys()
            namespace.update(small)
            small = {}
    assert not small, "no cell is tagged `parameters`"
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_both_forms_agree(path):
    forms = [jupytext.read(file).cells for file in (path, path.with_suffix(".py"))]
    notebook, script = ([(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in form] for form in forms)
    assert notebook == script, "run `make pair`"


def test_every_script_is_a_notebook():
    scripts = {path.stem for path in NOTEBOOKS[0].parent.glob("*.py")}
    assert scripts == {path.stem for path in NOTEBOOKS}
