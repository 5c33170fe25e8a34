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
    assert qat.Policy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize("text", ["", "3", "{}", '{"class_name": "Policy"}', qat.Policy(()).to_json()[:-9]])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"`Policy\.to_json`"):
        qat.Policy.from_json(text)


def test_hidden_and_mistyped_rules_are_unused():
    everything, hidden, mistyped = qat.Rule(".*"), qat.Rule("stem"), qat.Rule("bloc_1")
    assert qat.Policy((everything, hidden, mistyped)).unused_rules(["stem", "block_1"]) == (hidden, mistyped)
    assert qat.Policy((hidden, everything)).unused_rules(["stem", "block_1"]) == ()


def test_first_and_last_layers_can_keep_8_bits():
    policy = qat.get_policy("w4a4_first_last_8")
    bits = {path: policy.rule_for(path) for path in ("stem", "block_1", "head", "predictions/conv")}
    assert [rule.weights.num_bits for rule in bits.values()] == [8, 4, 4, 8]
    assert [rule.outputs.num_bits for rule in bits.values()] == [8, 4, 4, 8]
    assert policy.rule_for("predictions/softmax").outputs == qat.FixedQuantizer(8, 0.0, 255 / 256)


def test_what_is_no_quantiser_is_refused():
    with pytest.raises(TypeError, match="`outputs` must be a quantiser"):
        qat.Rule("stem", outputs=8)


def test_w8a8_is_tfmots_default_scheme():
    """Per-channel symmetric narrow weights, per-tensor asymmetric moving-average activations, 8 bits."""
    rule = qat.get_policy("w8a8").rule_for("block_3/expand")
    assert rule.weights == qat.LastValueQuantizer(8, per_axis=True, symmetric=True, narrow_range=True)
    assert rule.outputs == qat.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)
    assert qat.get_policy("w4a8").rule_for("block_3/expand").weights.num_bits == 4


def test_unknown_policies_and_broken_rules_are_errors():
    with pytest.raises(ValueError, match=r"'w4a8', .*'w8a8'.*'w9a9'"):
        qat.get_policy("w9a9")
    with pytest.raises(ValueError, match="regular expression"):
        qat.Rule("(")
    with pytest.raises(TypeError, match="`rules`"):
        qat.Policy(("stem",))


@pytest.mark.once
def test_a_list_of_rules_is_no_policy():
    with pytest.raises(ValueError, match="`policy` must be a `Policy` or one of"):
        qat.get_policy([qat.Rule(".*")])
