import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.mark.once
def test_the_layout_in_contributing_names_every_part_of_the_package():
    layout = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Layout")[2].partition("## ")[0]
    parts = [path for path in (ROOT / "keras_mnv4").iterdir() if path.suffix in ("", ".py") and path.name[0] != "_"]
    names = [path.name + "/" * path.is_dir() for path in parts if path.name != "version.py"]
    assert [name for name in names if f"\n  {name} " not in layout] == []


@pytest.mark.slow
def test_the_model_zoo_is_up_to_date():
    """If not: `python docs/make_model_zoo.py` writes it anew."""
    spec = importlib.util.spec_from_file_location("make_model_zoo", DOCS / "make_model_zoo.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (DOCS / "model_zoo.md").read_text(encoding="utf-8") == script.make_page()
