from dataclasses import replace

import pytest

from vertinst.config import load_config
from vertinst.demo import CONFIG, FROM_SCRATCH, SHORT, WEIGHTS_SEED, run_demo
from vertinst.errors import ConfigError


def test_the_demo_goes_the_whole_way(tmp_path):
    said = []
    small = replace(SHORT, films=8, settings=("schedule.epochs=1", "schedule.batch_size=2"))
    result = run_demo(tmp_path / "demo", seed=3, plan=small, say=said.append)
    assert result.report.read_text().lower().startswith("<!doctype html>")
    assert [line[0] for line in said if line[0].isdigit()] == list("123456")
    assert "starts from the weights" in " ".join(said)
    held_out = {i["file_name"] for i in result.metrics["images"]}
    assert held_out
    # One epoch on a handful of films spoils nothing: the packaged weights already find most vertebrae.
    vertebrae = result.metrics["summary"]["vertebrae"]
    assert vertebrae["found"] >= 0.7 * vertebrae["annotated"]


def test_the_films_of_the_weights_are_no_test(tmp_path):
    with pytest.raises(ConfigError, match="demo's weights were trained on it"):
        run_demo(tmp_path / "demo", seed=WEIGHTS_SEED)
    assert not (tmp_path / "demo").exists()


def test_from_scratch_starts_from_random_weights():
    assert load_config(CONFIG, SHORT.settings).init.weights == "demo"
    assert load_config(CONFIG, FROM_SCRATCH.settings).init.weights is None
