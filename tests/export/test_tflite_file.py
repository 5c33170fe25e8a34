"""TFLite files that are whole, and such as are not."""

import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from export import models
from keras_mnv4.export import LiteRTModel
from keras_mnv4.export.tflite_file import read_tflite

pytestmark = pytest.mark.tensorflow

SHAPE = (4, 4, 3)


@pytest.fixture(scope="module")
def content():
    return models.convert(models.integer_model, SHAPE)


@settings(max_examples=200, deadline=None)
@given(share=st.floats(0.0, 1.0, exclude_max=True))
@example(share=0.0)
@example(share=0.99)
def test_files_that_were_cut_off_are_refused(content, share):
    """Or read as the whole one, where but a filling is missing."""
    part = content[: int(share * len(content))]
    for read in (read_tflite, LiteRTModel):
        message = refusal(read, part)
        assert len(content) - len(part) < 16 if message is None else message.startswith("Not a TFLite file")


def refusal(read, content):
    """What the `ValueError` of reading says; None if there is none."""
    try:
        read(content)
    except ValueError as error:
        return str(error)
    return None


def test_what_is_refused_is_named(content, tmp_path):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(content[:-100])
    for read in (read_tflite, LiteRTModel):
        with pytest.raises(ValueError, match=r"^Not a TFLite file, or one that was cut off: '.*cut\.tflite'\."):
            read(cut)
        with pytest.raises(ValueError, match=r"^Not a TFLite file.*: the bytes\."):
            read(b"")
    assert LiteRTModel(content).predict(np.zeros((1, *SHAPE), "float32")).shape == (1, 4, 4, 4)
