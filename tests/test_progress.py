import sys

import pytest

from keras_mnv4.progress import resolve_verbose

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, 1), (False, 2)])
def test_auto_is_a_bar_on_a_terminal_alone(is_terminal, expected, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert resolve_verbose("auto") == expected
    assert [resolve_verbose(verbose) for verbose in (0, 1, 2)] == [0, 1, 2]
