"""Under `mpiexec`: one process asks, the others work."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search_setting import TRIALS, expected, ledger, plain, run

PROGRAM = Path(__file__).parent / "mpi_program.py"
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def reason() -> str:
    """Why there is no MPI here; nothing if there is."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install 'tinygrad_cr[mpi]'"
    if MPIEXEC is None:
        return "no mpiexec: pip install mpich, or your system's MPI"
    # In a process of its own: tests are no MPI program.
    command = [sys.executable, "-c", "from mpi4py import MPI"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return f"mpi4py finds no MPI: {done.stderr.splitlines()[-1]}" if done.returncode else ""


NO_MPI = reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)]


def mpi(folder: Path, *arguments: str) -> tuple[int, str]:
    # Open MPI asks to be told that it may run as root and start more processes than there are cores; MPICH does not.
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    more = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    command = [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", PROGRAM, folder, *arguments]
    return run(command, **allowed, **more)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A job one of whose workers is killed after 4 trials, and another in the same folder, which nobody kills."""
    folder = tmp_path_factory.mktemp("mpi")
    first, _ = mpi(folder, "4")
    before = ledger(folder / "search")
    second, output = mpi(folder)
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
