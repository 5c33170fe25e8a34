import pathlib
import re

import keras
import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.tensorflow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    """As it stands, but for training on one batch, without compiling."""
    fit = keras.Model.fit

    def fit_one_batch(self, data, **_):
        self.run_eagerly = True
        return fit(self, *data[0], verbose=0)

    monkeypatch.setattr(keras.Model, "fit", fit_one_batch)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(example, str(README), "exec"), {})
    assert "All 60 operators map to the Edge TPU" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"digits.tflite", "digits_app.tflite"}
