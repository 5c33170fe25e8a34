import importlib.util
import pathlib

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"


@pytest.mark.slow
def test_the_model_zoo_is_up_to_date():
    """If not: `python docs/make_model_zoo.py` writes it anew."""
    spec = importlib.util.spec_from_file_location("make_model_zoo", DOCS / "make_model_zoo.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (DOCS / "model_zoo.md").read_text(encoding="utf-8") == script.make_page()
