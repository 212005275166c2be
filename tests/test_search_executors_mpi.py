"""Under `mpiexec`: one process asks, the others work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search_setting import TRIALS, expected, ledger, plain
from under_mpi import NO_MPI, run_under_mpi

PROGRAM = Path(__file__).parent / "mpi_program.py"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A job one of whose workers is killed after 4 trials, and another in the same folder, which nobody kills."""
    folder = tmp_path_factory.mktemp("mpi")
    first, _ = run_under_mpi(PROGRAM, folder, "4")
    before = ledger(folder / "search")
    second, output = run_under_mpi(PROGRAM, folder)
    assert second == 0, output
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found | {"first": first, "before": before, "after": ledger(folder / "search")}


def test_two_workers_under_mpiexec_do_every_task_once(jobs):
    assert jobs["workers"] == 2
    assert jobs["squares"] == [i * i for i in range(8)]
    assert len(set(jobs["processes"])) == 2
    assert jobs["master"] not in jobs["processes"]


def test_a_job_that_dies_with_one_of_its_workers_leaves_a_ledger(jobs):
    assert jobs["first"] != 0
    assert 4 <= len(jobs["before"]) < TRIALS


def test_the_next_job_goes_on_from_there_and_finds_what_one_process_finds(jobs):
    assert jobs["after"][: len(jobs["before"])] == jobs["before"]
    assert plain(jobs["after"]) == jobs["rows"] == expected()
