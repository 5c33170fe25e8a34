import json

import keras
import pytest

from keras_mnv4 import qat
from keras_mnv4.qat.policies import POLICIES


def test_first_matching_rule_decides():
    policy = qat.Policy((qat.Rule("predictions/.*"), qat.Rule(".*", outputs=qat.MovingAverageQuantizer(8))))
    assert policy.rule_for("predictions/conv").outputs is None
    assert policy.rule_for("block_1/expand").outputs == qat.MovingAverageQuantizer(8)


def test_patterns_match_whole_paths():
    assert not qat.Rule("block_1").matches("block_12")
    assert not qat.Rule("expand").matches("block_1/expand")


@pytest.mark.parametrize("name", POLICIES)
def test_named_policies_survive_json(name):
    policy = qat.get_policy(name)
    text = json.dumps(keras.saving.serialize_keras_object(policy))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == policy


def test_w8a8_is_tfmots_default_scheme():
    """Per-channel symmetric narrow weights, per-tensor asymmetric moving-average activations, 8 bits."""
    rule = qat.get_policy("w8a8").rule_for("block_3/expand")
    assert rule.weights == qat.LastValueQuantizer(8, per_axis=True, symmetric=True, narrow_range=True)
    assert rule.outputs == qat.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)
    assert qat.get_policy("w4a8").rule_for("block_3/expand").weights.num_bits == 4


def test_unknown_policies_and_broken_rules_are_errors():
    with pytest.raises(ValueError, match=r"'w4a8', 'w8a8'.*'w9a9'"):
        qat.get_policy("w9a9")
    with pytest.raises(ValueError, match="regular expression"):
        qat.Rule("(")
    with pytest.raises(TypeError, match="`rules`"):
        qat.Policy(("stem",))
