import pytest
from pydantic import ValidationError

from vertinst.config import load_config, save_config
from vertinst.errors import ConfigError
from vertinst.postprocess.policy import PairRule, Policy, pair_name
from vertinst.structures.dataset import CLASSES


def load(tmp_path, text, overrides=()):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, overrides).postprocess.suppression


def test_bone_is_limited_metal_on_its_class_and_everything_else_allowed():
    policy = Policy()
    for pair in (("lumbar", "lumbar"), ("sacral", "lumbar"), ("sacral", "sacral")):
        assert policy.rule(*pair) == PairRule(iou=0.5, over_smaller=0.85)
    for name in ("cage", "screw", "rod", "wire"):
        assert policy.rule(name, name) == PairRule(iou=0.8, over_smaller=1)
    for pair in (("lumbar", "screw"), ("cage", "screw"), ("rod", "screw"), ("wire", "lumbar")):
        assert policy.rule(*pair) == PairRule(iou=1, over_smaller=1)


def test_what_is_written_changes_single_limits_and_leaves_the_rest():
    policy = Policy(pairs={"lumbar lumbar": {"iou": 0.3}, "screw cage": {"over_smaller": 0.9}})
    assert policy.rule("lumbar", "lumbar") == PairRule(iou=0.3, over_smaller=0.85)
    assert policy.rule("cage", "screw") == policy.rule("screw", "cage") == PairRule(iou=1, over_smaller=0.9)
    assert policy.rule("sacral", "lumbar") == PairRule(iou=0.5, over_smaller=0.85)


def test_a_class_with_a_space_is_written_with_a_comma():
    policy = Policy(pairs={"screw, pedicle screw": {"iou": 0.7}})
    assert policy.rule("pedicle screw", "screw").iou == 0.7
    assert pair_name("screw", "pedicle screw") == "pedicle screw, screw"


def test_limits_as_tables_are_symmetric():
    iou, smaller = Policy(pairs={"cage screw": {"iou": 0.6}}).limits(CLASSES)
    assert (iou == iou.T).all()
    assert (smaller == smaller.T).all()
    cage, screw = CLASSES.index("cage"), CLASSES.index("screw")
    assert (iou[cage, screw], iou[0, 1], iou[0, cage], smaller[1, 0]) == (0.6, 0.5, 1, 0.85)
    assert Policy().limits(())[0].shape == (0, 0)


def test_from_yaml_and_back(tmp_path):
    text = "postprocess:\n  suppression:\n    pairs:\n      cage screw: {iou: 0.6}\n      lumbar lumbar: {iou: 0.4}\n"
    policy = load(tmp_path, text)
    assert (policy.rule("screw", "cage").iou, policy.rule("lumbar", "lumbar").over_smaller) == (0.6, 0.85)
    config = load_config(tmp_path / "run.yaml")
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_one_limit_on_the_command_line(tmp_path):
    policy = load(tmp_path, "", ["postprocess.suppression.pairs.lumbar lumbar.iou=0.45"])
    assert policy.rule("lumbar", "lumbar") == PairRule(iou=0.45, over_smaller=0.85)


@pytest.mark.parametrize("pair", ["lumbar", "lumbar cage screw", "lumbar,", "a, b, c", "", "lumbar-cage"])
def test_a_pair_that_is_none_is_refused(tmp_path, pair):
    with pytest.raises(ConfigError, match=r"a pair must be two classes with a space between \(cage screw\)"):
        load(tmp_path, f"postprocess: {{suppression: {{pairs: {{'{pair}': {{iou: 0.5}}}}}}}}")


def test_a_pair_written_twice_is_refused():
    with pytest.raises(ValidationError, match="'cage screw' and 'screw cage' are the same pair"):
        Policy(pairs={"cage screw": {}, "screw cage": {}})


def test_a_misspelt_class_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"suppression\.pairs names lumbr, which is no class of this run"):
        load(tmp_path, "postprocess: {suppression: {pairs: {lumbr lumbar: {iou: 0.5}}}}")
    own = load(tmp_path, "classes: [lumbr]\npostprocess: {suppression: {pairs: {lumbr lumbr: {iou: 0.5}}}}")
    assert own.rule("lumbr", "lumbr").iou == 0.5


@pytest.mark.parametrize("rule", [{"iou": 1.1}, {"over_smaller": -0.1}, {"iuo": 0.5}])
def test_limits_are_shares_and_their_names_known(rule):
    with pytest.raises(ValidationError, match=next(iter(rule))):
        Policy(pairs={"lumbar lumbar": rule})


def test_a_rule_given_whole_replaces_the_default():
    assert Policy(pairs={"lumbar lumbar": PairRule(iou=0.4)}).rule("lumbar", "lumbar") == PairRule(iou=0.4)
