"""Kernels that others call by address are there before anybody calls, and only for the dtypes that are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_cr.kernels import cpu

# As users compute, from a compiled function of their own, and in compiled steps.
USES = {
    "a kernel": "kernels.affine(x, w, x[0], x.copy())",
    "a function that calls helpers": "multiply(x, w, x.copy())",
    "a table": "step(x); step(x); step.scan(np.stack([x, x]))",
}
PROGRAM = """
import numba
import numpy as np
import tinygrad_cr
from tinygrad_cr import Tensor, ops
from tinygrad_cr.kernels import backend
from tinygrad_cr.kernels.cpu import board, dots, product, sparse
from tinygrad_cr.kernels.cpu.threads import pool

WORDS = dict(
    float32=(board.FLOAT32, board.SPARSE32, board.DOTS32), float64=(board.FLOAT64, board.SPARSE64, board.DOTS64)
)
kernels = backend("cpu")


@numba.njit
def multiply(x, w, out):
    product.times(x, 0, x.shape[0], w, False, 0, w.shape[1], 0, w.shape[0], out)


@tinygrad_cr.compile
def step(x):
    return ops.affine(ops.affine(Tensor(x), w, x[0]), w, x[0])


def there():
    return [name for name, words in WORDS.items() if pool.board[list(words)].all()]


assert there() == [], there()
for used, dtype in enumerate({dtypes}, 1):
    x, w = np.ones((3, 3), dtype), np.eye(3, dtype=dtype)
    {use}
    assert there() == sorted({dtypes}[:used]), there()
"""


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("dtypes", [["float32", "float64"], ["float64"]], ids=", ".join)
def test_only_what_is_used_is_there(use: str, dtypes: list[str]) -> None:
    program = PROGRAM.replace("{dtypes}", repr(dtypes)).replace("{use}", use)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_every_kernel_that_reaches_them_says_so() -> None:
    """Otherwise it would work where it is compiled, and crash where it is loaded."""
    reaching = {"strip", "times", "times_columns", "meet", "sparse_times", "weight_gradient", "backward", "affine"}
    marked = 0
    for path in sorted(Path(cpu.__file__).parent.glob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {
            name.name for node in nodes if isinstance(node, ast.ImportFrom) and node.level for name in node.names
        }
        decorators = [
            ast.unparse(decorator)
            for node in nodes
            if isinstance(node, ast.FunctionDef)
            for decorator in node.decorator_list
        ]
        assert not (imported & reaching and "kernel" in decorators), path.name
        marked += decorators.count("calling_kernel")
    assert marked == 7
