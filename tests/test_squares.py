"""Squares that are transposed in registers: what they write, and that they touch nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_cr.kernels.cpu.board import portable


@pytest.mark.skipif(not portable(), reason="pages are protected by a function of POSIX")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("what", ["update", "pack"])
def test_at_the_edges_of_arrays(what: str, dtype: str, tmp_path: Path) -> None:
    program = Path(__file__).with_name("squares_program.py")
    command = [sys.executable, "-X", "faulthandler", str(program), what, dtype]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
