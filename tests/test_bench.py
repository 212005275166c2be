"""The benchmark runs from end to end. Nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
