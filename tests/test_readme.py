import pathlib
import re

import keras
import pytest

from keras_mnv4.cli.parser import make_parser

README = pathlib.Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(example):
    exec(compile(example, str(README), "exec"), {})


@pytest.mark.slow  # `make demo` goes the same way
@pytest.mark.tensorflow
@pytest.mark.no_cover
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    """As it stands, but for training on one batch, without compiling."""
    fit = keras.Model.fit

    def fit_one_batch(self, data, **_):
        self.run_eagerly = True
        return fit(self, *data[0], verbose=0)

    monkeypatch.setattr(keras.Model, "fit", fit_one_batch)
    monkeypatch.chdir(tmp_path)
    run(EXAMPLES[0])
    assert "All 60 operators map to the Edge TPU" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["digits.tflite"]


@pytest.mark.once
def test_the_pretrained_example_knows_a_cat(tmp_path, monkeypatch, capsys):
    import skimage
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.open(pathlib.Path(skimage.__file__).parent / "data" / "chelsea.png").save("cat.jpg")
    run(EXAMPLES[1])
    assert "tabby" in capsys.readouterr().out


@pytest.mark.once
def test_the_commands_are_understood():
    lines = re.findall(r"^mnv4 ([^#\n]*)", README.read_text(encoding="utf-8"), re.MULTILINE)
    commands = [line.split() for line in lines]
    assert len(commands) > 12
    for words in commands:
        make_parser().parse_args(words)
