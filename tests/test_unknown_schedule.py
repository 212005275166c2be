"""A run folder whose schedule this version does not know: it is still reported, and resuming says what to pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cr import schedules
from tinygrad_cr.errors import RunError
from tinygrad_cr.nn import MLP
from tinygrad_cr.report import write_report
from tinygrad_cr.report.settings import settings
from tinygrad_cr.train import Trainer

NEWER = {"name": "newer", "bend": 3}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    options = {"epochs": 2, "checkpoint_epochs": 1, "reporter": False, "monitors": False, "generator": 0}
    schedule = schedules.cosine(0.1, 9)
    Trainer(MLP([3, 4, 2], generator=0), schedule=schedule, out=tmp_path / "run", **options).fit((x, y))
    path = tmp_path / "run/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schedule": NEWER}))
    return tmp_path / "run"


@pytest.mark.parametrize("schedule", [NEWER, {"bend": 3}, {"name": "cosine", "lr": [], "steps": {}}], ids=repr)
def test_an_unknown_schedule_stands_in_the_report_as_it_was_written_down(schedule):
    assert settings({"schedule": schedule})["Training"]["schedule"] == str(schedule)


def test_a_run_with_an_unknown_schedule_has_a_report(run):
    assert "newer" in write_report([run]).read_text()


def test_resuming_a_run_with_an_unknown_schedule_names_the_run_and_what_to_pass(run):
    with pytest.raises(RunError, match=r"run holds a schedule that cannot be made again: .*'newer'.*pass schedule="):
        Trainer.resume(run)
