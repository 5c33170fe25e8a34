import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_mnv4.classifiers.resizing import resize

pytestmark = pytest.mark.once

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(source=SIDES, target=SIDES)
@settings(max_examples=20, deadline=None)
def test_it_is_what_keras_gives(source, target):
    maps = np.random.default_rng(0).normal(size=(2, *source, 3)).astype("float32")
    expected = ops.image.resize(maps, target, antialias=True)
    np.testing.assert_allclose(resize(maps, target), expected, rtol=1e-4, atol=1e-5)
