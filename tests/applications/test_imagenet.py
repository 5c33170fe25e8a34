import importlib.resources

import keras
import numpy as np
import pytest

from keras_mnv4.applications import imagenet

KNOWN = {  # the names were held against torchvision's list
    0: ("n01440764", "tench"),
    134: ("n02012849", "crane"),  # the bird
    281: ("n02123045", "tabby"),
    282: ("n02123159", "tiger_cat"),
    285: ("n02124075", "Egyptian_cat"),
    386: ("n02504458", "African_elephant"),
    504: ("n03063599", "coffee_mug"),
    517: ("n03126707", "crane"),  # the machine
    657: ("n03773504", "missile"),
    812: ("n04266014", "space_shuttle"),
    967: ("n07920052", "espresso"),
    986: ("n12057211", "yellow_lady's_slipper"),
    999: ("n15075141", "toilet_tissue"),
}


@pytest.mark.once
def test_the_table_is_whole():
    text = importlib.resources.files("keras_mnv4.applications").joinpath("imagenet_classes.txt").read_text("utf-8")
    lines = text.splitlines()
    wnids, names = zip(*(line.split(" ") for line in lines), strict=True)
    assert len(lines) == len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)  # the order of the ImageNet challenge
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)
    assert imagenet.class_names() == names
    assert sorted({name for name in names if names.count(name) > 1}) == ["crane", "maillot"]


@pytest.mark.once
@pytest.mark.parametrize("index", KNOWN)
def test_known_classes(index):
    (((wnid, name, score),),) = imagenet.decode_predictions(np.eye(1000)[[index]], top=1)
    assert (wnid, name) == KNOWN[index]
    assert imagenet.class_names()[index] == name
    assert score == 1


def test_the_highest_score_comes_first_and_of_equal_ones_the_lower_index():
    scores = np.zeros((2, 1000), "float32")
    scores[0, [285, 281, 282]] = 0.25, 0.5, 0.25
    scores[1, 999] = 1
    decoded = imagenet.decode_predictions(keras.ops.convert_to_tensor(scores))
    assert decoded[0] == [
        (*KNOWN[281], 0.5),
        (*KNOWN[282], 0.25),
        (*KNOWN[285], 0.25),
        (*KNOWN[0], 0),
        ("n01443537", "goldfish", 0),
    ]
    assert decoded[1][0] == (*KNOWN[999], 1)


@pytest.mark.once
def test_integer_scores_are_in_order_too():
    scores = np.zeros((1, 1000), "uint8")
    scores[0, [504, 967]] = 255, 128
    assert imagenet.decode_predictions(scores, top=2) == [[(*KNOWN[504], 255), (*KNOWN[967], 128)]]


@pytest.mark.once
def test_top_is_the_number_of_classes():
    scores = np.random.default_rng(0).normal(size=(3, 1000))
    for top in (1, np.int64(7), 1000):
        decoded = imagenet.decode_predictions(scores, top)
        assert [len(row) for row in decoded] == [top] * 3
        assert decoded == [row[:top] for row in imagenet.decode_predictions(scores, 1000)]
    assert imagenet.decode_predictions(np.zeros((0, 1000))) == []


@pytest.mark.once
@pytest.mark.parametrize("shape", [(1000,), (1, 11821), (1, 1001), (1, 1000, 1), ()])
def test_other_shapes_are_errors(shape):
    with pytest.raises(ValueError, match=r"`predictions` must have the shape.*11821") as error:
        imagenet.decode_predictions(np.zeros(shape))
    assert f"Received: shape {shape}" in str(error.value)


@pytest.mark.once
@pytest.mark.parametrize("top", [0, -1, 1001, 2.0, None, "5"])
def test_other_numbers_of_classes_are_errors(top):
    with pytest.raises(ValueError, match=rf"`top` must be a whole number from 1 to 1000. Received: top={top!r}"):
        imagenet.decode_predictions(np.zeros((1, 1000)), top)
