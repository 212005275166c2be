"""A real Dask cluster of three processes on this machine: a worker dies in the middle of work, and nothing is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from search_setting import TRIALS, expected, ledger, plain, run

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'tinygrad_cr[dask]'")
pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "dask_program.py"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of one run of the program, and what it found."""
    folder = tmp_path_factory.mktemp("dask")
    code, output = run([sys.executable, PROGRAM, folder])
    assert code == 0, output
    return folder, json.loads((folder / "result.json").read_text())


def test_a_worker_killed_in_the_middle_of_a_task_loses_and_doubles_nothing(cluster):
    found = cluster[1]["tasks"]
    assert cluster[1]["workers"] == 3
    assert {int(key): value for key, value in found["squares"].items()} == {i: i * i for i in range(20)}
    # The victim began twice; so did, at most, what its worker had done and not yet handed over.
    assert found["begun"][6] == 2
    assert sum(found["begun"]) <= 24


def test_a_search_one_of_whose_workers_is_killed_is_the_search_of_one_process(cluster):
    folder, found = cluster[0], cluster[1]["search"]
    assert len(found["victims"]) == 1
    assert found["rows"] == expected()
    written = ledger(folder / "search")
    assert [row["trial"] for row in plain(written)] == list(range(1, TRIALS + 1))
    assert plain(written) == found["rows"]


def test_a_task_that_kills_every_worker_is_named_when_the_others_are_done(cluster):
    found = cluster[1]["poison"]
    assert found["error"].startswith("task 3 was lost with its worker again and again")
    assert "5 tasks (5 trials) finished" in found["error"]
    assert {int(key): value for key, value in found["squares"].items()} == {i: i * i for i in range(6) if i != 3}
