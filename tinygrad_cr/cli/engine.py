"""`tinygrad-cr gradcheck` and `warmup`: the engine itself, checked and compiled."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinygrad_cr.errors import CacheError, unknown_name
from tinygrad_cr.op_table import check_all
from tinygrad_cr.tensor import FLOATS
from tinygrad_cr.train import warmup as compile_all


def gradcheck(
    seed: Annotated[int, typer.Option(help="Of the numbers that the operations are tried on.")] = 0,
) -> None:
    """Check the gradient of every operation against finite differences; exit code 1 if one is wrong."""
    table = Table("operation", "case", "derivatives", "largest error", "verdict")
    failures = []
    for operation, case, report in check_all(seed):
        verdict = "[green]ok[/green]" if report.ok else "[red]WRONG[/red]"
        table.add_row(operation, case, str(report.compared), f"{report.error:.1e}", verdict)
        if not report.ok:
            failures.append(str(report))
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table)
    if failures:
        console.print("\n".join(failures), markup=False)
        raise typer.Exit(1)
    console.print(f"{table.row_count} cases, all gradients agree with finite differences")


def warmup(
    dtype: Annotated[str, typer.Option(help="Of the networks to come: float32, float64 or both.")] = "float32",
) -> None:
    """Compile every kernel now and keep the result, so that later processes start fast."""
    dtypes = [str(known) for known in FLOATS]
    if dtype not in [*dtypes, "both"]:
        raise unknown_name("dtype", dtype, [*dtypes, "both"])
    folders: set[str] = set()
    for each in dtypes if dtype == "both" else [dtype]:
        begin = time.perf_counter()
        done = compile_all([each])
        seconds = time.perf_counter() - begin
        what = f"{done.compiled} kernels compiled" if done.compiled else "nothing to compile"
        print(f"{each}: {what}, {done.loaded} loaded, {seconds:.1f} s")
        if done.kept < done.compiled + done.loaded:
            raise CacheError(
                "the compiled kernels could not all be kept: no cache folder can be written, or its disk is full; "
                "set TINYGRAD_CR_CACHE to a folder that can"
            )
        folders.update(done.folders)
    print(f"kept in {', '.join(sorted(folders))}")
