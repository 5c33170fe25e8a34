import numpy as np
import pytest

from keras_mnv4.distillation import select_relevant

pytestmark = pytest.mark.once

TABLE = np.array(
    [
        [0.90, 0.05, 0.05],
        [0.30, 0.36, 0.34],
        [0.60, 0.20, 0.20],
        [0.10, 0.80, 0.10],
        [0.95, 0.03, 0.02],
        [0.34, 0.33, 0.33],
    ]
)


def test_the_most_relevant_of_each_class_are_chosen():
    with pytest.warns(UserWarning, match=r"1 classes, which are left out: \[2\]"):
        chosen = select_relevant(TABLE, per_class=2)
    assert chosen.tolist() == [4, 0, 3, 1]


def test_rare_classes_are_repeated_evenly():
    table = np.vstack([TABLE, [[0.0, 0.2, 0.8]]])
    chosen = select_relevant(table, per_class=5, threshold=0.35)
    zero, one, two = chosen[:5].tolist(), chosen[5:10].tolist(), chosen[10:].tolist()
    assert sorted(np.bincount(zero, minlength=7)[[0, 2, 4]]) == [1, 2, 2]
    assert sorted(np.bincount(one, minlength=7)[[1, 3]]) == [2, 3]
    assert two == [6] * 5
    assert select_relevant(table, per_class=5, threshold=0.35).tolist() == chosen.tolist()


def test_what_cannot_be_chosen_from_is_an_error():
    with pytest.raises(ValueError, match=r"threshold=0.99.*0.950"):
        select_relevant(TABLE, per_class=1, threshold=0.99)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        select_relevant(TABLE[0], per_class=1)
    with pytest.raises(ValueError, match="`per_class`"):
        select_relevant(TABLE, per_class=0)
