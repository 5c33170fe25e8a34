import json

import numpy as np
import pytest

from keras_mnv4.applications import MQA
from keras_mnv4.applications import UIB
from keras_mnv4.applications import Architecture
from keras_mnv4.applications import Basic
from keras_mnv4.applications import BlockSpec
from keras_mnv4.applications import Bottleneck
from keras_mnv4.applications import Conv
from keras_mnv4.applications import Definition
from keras_mnv4.applications import FusedIB
from keras_mnv4.applications import MaxPool
from keras_mnv4.applications import MobileNetV4
from keras_mnv4.applications import build_network
from keras_mnv4.applications import choice

BLOCKS = (
    Conv(16, kernel=3, stride=2),
    MaxPool(),
    FusedIB(16, kernel=3, expand=4),
    UIB(24, expand=2, start=3, middle=5, stride=2),
    UIB(24, expand=None, middle=3),
    Basic(24),
    Bottleneck(64, stride=2),
    MQA(64, heads=2, key_dim=8, kv_stride=2),
)


@pytest.mark.once
def test_no_expansion_may_be_said_by_a_0():
    assert UIB(24, expand=0, middle=3) == UIB(24, expand=None, middle=3)


def test_own_tables_build_and_survive_json():
    again = tuple(BlockSpec.from_dict(row) for row in json.loads(json.dumps([row.to_dict() for row in BLOCKS])))
    assert again == BLOCKS
    model = build_network(Architecture("mine", again), classes=3, input_shape=(32, 32, 3))
    assert model.name == "mine"
    assert model.output_shape == (None, 3)


@pytest.mark.once
def test_a_file_of_a_table_becomes_a_network(tmp_path):
    mine = Architecture("mine", BLOCKS, definition=Definition(padding="symmetric"), head_filters=None)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(mine.to_dict()))
    assert Architecture.from_dict(json.loads(path.read_text())) == mine
    models = [MobileNetV4(each, classes=3, input_shape=(32, 32, 3)) for each in (mine, mine.to_dict(), path)]
    expected = build_network(mine, classes=3, input_shape=(32, 32, 3))
    assert {model.count_params() for model in models} == {expected.count_params()}
    assert models[2].get_layer("block_1").get_config() == expected.get_layer("block_1").get_config()
    with pytest.raises(ValueError, match="`blocks`"):
        MobileNetV4({"name": "mine"})
    path.write_text("no table")
    with pytest.raises(ValueError, match="`architecture` must be a JSON file"):
        MobileNetV4(path)
    with pytest.raises(FileNotFoundError, match="`architecture` names no file"):
        MobileNetV4(tmp_path / "missing.json")


def test_a_width_of_one_leaves_a_row_as_it_is():
    assert Conv(12, kernel=3).scaled(1.0).filters == 12
    assert Conv(12, kernel=3).scaled(0.99).filters == 16


def test_width_scales_filters_and_nothing_else():
    assert MQA(160, heads=4, key_dim=64).scaled(0.75) == MQA(120, heads=4, key_dim=64)
    assert UIB(96, expand=3, start=5, middle=5, stride=2).scaled(0.35) == UIB(32, expand=3, start=5, middle=5, stride=2)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Conv, {"filters": 8, "kernel": 2}),
        (Conv, {"filters": 8, "kernel": 0}),
        (Conv, {"filters": "8", "kernel": 3}),
        (FusedIB, {"filters": 8, "kernel": 3, "expand": 0}),
        (UIB, {"filters": 8, "expand": 2, "stride": 2}),
        (UIB, {"filters": 8, "expand": 2, "start": 4}),
        (UIB, {"filters": 0, "expand": 2}),
        (FusedIB, {"filters": 8, "kernel": 3, "expand": None}),
        (Conv, {"filters": 48.5, "kernel": 3}),
        (Conv, {"filters": 8, "kernel": 3, "stride": 1.5}),
        (MQA, {"filters": 8, "heads": 0, "key_dim": 8}),
        (MaxPool, {"kernel": 2}),
        (Bottleneck, {"filters": 8, "reduction": 0}),
    ],
)
def test_rows_that_describe_no_block_are_refused(kind, arguments):
    with pytest.raises(ValueError, match="Received"):
        kind(**arguments)


def test_numbers_of_numpy_are_numbers():
    row = UIB(np.int64(16), expand=np.float32(2), middle=np.int32(3))
    assert json.loads(json.dumps(row.to_dict())) == UIB(16, expand=2.0, middle=3).to_dict()


ROW = Conv(8, kernel=3).to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (None, "An architecture is a dictionary"),
        ([1], "An architecture is a dictionary"),
        ({"name": "x", "blocks": 5}, "`blocks`, which is a list"),
        ({"name": "x", "blocks": [3]}, "`kind` must be one of"),
        ({"name": "x", "blocks": [{**ROW, "strides": 2}]}, "`Conv` has the fields filters, kernel, stride"),
        ({"name": "x", "blocks": [{"kind": "Conv", "filters": 8}]}, "`Conv` has the fields filters, kernel, stride"),
        ({"name": "x", "blocks": [ROW], "definition": {"pad": 1}}, "`Definition` has the fields padding"),
    ],
)
def test_dictionaries_that_are_no_table_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(fields)


@pytest.mark.parametrize("rows", [[Conv(8, kernel=3), choice(UIB(8, expand=2), None)], [Conv(choice(8, 16), kernel=3)]])
def test_search_spaces_are_no_network(rows):
    space = Architecture("space", rows)
    assert Architecture.from_dict(space.to_dict()) == space
    with pytest.raises(ValueError, match="it is a search space"):
        build_network(space)


def test_unknown_kinds_are_refused():
    kinds = "'Basic', 'Bottleneck', 'Conv', 'FusedIB', 'MQA', 'MaxPool', 'Separable', 'UIB'"
    with pytest.raises(ValueError, match=kinds):
        BlockSpec.from_dict({"kind": "Dense", "filters": 8})
