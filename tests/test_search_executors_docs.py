"""The programs of docs/scaling.md run as printed, as far as this machine has what they need."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from search_setting import ledger, run
from under_mpi import NO_MPI, run_under_mpi

DOCUMENT = Path(__file__).parents[1] / "docs" / "scaling.md"
FIND, *PROGRAMS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
BY_LIBRARY = {re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)[0]: text for text in PROGRAMS}


def test_each_way_to_share_out_a_search_has_a_program():
    assert list(BY_LIBRARY) == ["find", "distributed", "dask_jobqueue", "dask_kubernetes", "mpi4py", "optuna"]


@pytest.mark.parametrize("library", BY_LIBRARY)
def test_a_program_compiles(library):
    compile(BY_LIBRARY[library], library, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("library", ["find", "distributed", "mpi4py"])
def test_a_program_for_this_machine_runs_as_printed(library, tmp_path):
    if library == "mpi4py" and NO_MPI:
        pytest.skip(NO_MPI)
    if library != "find" and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    (tmp_path / "find.py").write_text(FIND)
    program = tmp_path / "program.py"
    program.write_text(BY_LIBRARY[library])
    if library == "mpi4py":
        code, output = run_under_mpi(program, folder=tmp_path)
    else:
        code, output = run([sys.executable, program], folder=tmp_path)
    assert code == 0, output
    assert output.splitlines()[-1].startswith("{'trial': ")
    assert sorted(row["trial"] for row in ledger(tmp_path / "runs" / "search")) == list(range(1, 25))


def test_the_program_for_optuna_runs_as_printed(capsys):
    pytest.importorskip("optuna")
    exec(compile(BY_LIBRARY["optuna"], str(DOCUMENT), "exec"), {})
    accuracy, point = capsys.readouterr().out.split(" ", 1)
    assert float(accuracy) > 0.8
    assert "'hidden': [" in point
