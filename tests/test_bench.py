"""The benchmark runs from end to end. Nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from at_root import ROOT
from bench.contestants.ours import Compiled
from bench.inputs import make_inputs
from bench.report import ways
from bench.workloads import Task


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_quick_run_writes_results_and_a_table(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "A", "--rounds", "1", "--peers", "none", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    record = results["tasks"]["A"]
    assert record["failed"] == {}
    assert {*record["rounds"], "population"} == set(results["contestants"])
    assert record["limit"]["seconds"] > 0
    assert "A: 64-32-10, batch 32" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("option", "name", "known"),
    [("--only", "E", "A, B, C, D"), ("--peers", "tensorflow", "pytorch, torch-compile, jax")],
)
def test_an_unknown_name_is_refused_with_the_known_ones(option: str, name: str, known: str) -> None:
    done = bench(option, name)
    assert done.returncode == 2
    assert f"{name!r}; known: {known}" in " ".join(done.stderr.split())


def test_blocks_of_steps_train_as_a_call_a_step_does_bit_for_bit() -> None:
    task = Task("A", "A", "train", (8, 6, 10), 16, 16 * 60 + 5)
    inputs = make_inputs(task)
    trainers = Compiled().trainers(task, inputs)
    block, single = trainers["blocks of steps"](), trainers["a call a step"]()
    for _ in range(2):
        assert block.epoch() == single.epoch()
    for name, value in block.model.state_dict().items():
        np.testing.assert_array_equal(value, single.model.state_dict()[name])


def test_each_way_of_calling_ours_is_printed_with_its_time() -> None:
    tried = {"blocks of steps": 9e-6, "a call a step": 16e-6}
    record = {"variants": {"compiled": {"tuned": tried}, "jax": {"tuned": {"a": 1.0, "b": 2.0}}}}
    results = {
        "tasks": {"A": record},
        "contestants": {"compiled": {"ours": True, "title": "ours"}, "jax": {"ours": False, "title": "JAX"}},
    }
    text = ways(results)
    assert "blocks of steps: 9.0; a call a step: 16.0" in text
    assert "JAX" not in text
    del record["variants"]["compiled"]["tuned"]["blocks of steps"]
    assert ways(results) == ""
