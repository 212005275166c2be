"""Programs under `mpiexec`, where there is one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from search_setting import run

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def _reason() -> str:
    """Why there is no MPI here; nothing if there is."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install 'tinygrad_cr[mpi]'"
    if MPIEXEC is None:
        return "no mpiexec: pip install mpich, or your system's MPI"
    # In a process of its own: tests are no MPI program.
    command = [sys.executable, "-c", "from mpi4py import MPI"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return f"mpi4py finds no MPI: {done.stderr.splitlines()[-1]}" if done.returncode else ""


NO_MPI = _reason()


def run_under_mpi(program: Path, *arguments: Any, folder: Path | None = None) -> tuple[int, str]:
    """Exit code and all output of a program of which one process asks and two work."""
    # Open MPI asks to be told that it may run as root and start more processes than there are cores; MPICH does not.
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    more = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    command = [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", program, *arguments]
    return run(command, folder, **allowed, **more)
