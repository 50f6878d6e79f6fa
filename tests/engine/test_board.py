"""The curves as TensorBoard reads them, and what a full disk leaves."""

import resource
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vertinst.engine.board import Board
from vertinst.errors import VertinstError


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_what_was_added(tmp_path: Path) -> None:
    board = Board(tmp_path / "tensorboard", 1)
    board.add({"loss": 2.5, "lr": 0.25}, 1)
    board.add({"loss": 1.5}, 2)
    assert read(tmp_path / "tensorboard") == {"loss": [(1, 2.5), (2, 1.5)], "lr": [(1, 0.25)]}


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path: Path) -> None:
    first = Board(tmp_path, 1)
    for step in (1, 2, 3):
        first.add({"loss": 1.0}, step)
    Board(tmp_path, 3).add({"loss": 0.5}, 3)
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 1.0), (3, 0.5)]}


def test_a_full_disk_is_told_and_leaves_whole_records(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    board = Board(tmp_path, 1)
    board.add({"loss": 1.0}, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (board.path.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(VertinstError, match=r"tfevents\S+: cannot be written: .*\nFree space.*--resume"):
            board.add({"loss": 0.5}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Traceback" not in capfd.readouterr().err
    assert read(tmp_path) == {"loss": [(1, 1.0)]}
    board.add({"loss": 0.5}, 2)
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 0.5)]}
