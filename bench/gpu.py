"""``python bench/gpu.py``: the tests and the benchmark of the GPU backend, in under 8 minutes on one GPU.

Runs as it is from a fresh checkout, the package installed or not. PyTorch and JAX are measured beside it where they
are installed. What it prints is also written as JSON, after every phase: a run that is stopped leaves what it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The folder of a script stands on the path in front of everything; the modules in this one are not meant to.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import checkout

OUT = Path("runs") / "gpu.json"
SECONDS = 460.0
NO_GPU = 2


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        "python bench/gpu.py",
        description="Run the parity and gradient tests on the GPU, then measure networks, populations, kernels and "
        "memory beside PyTorch and JAX. Exits with 2 where there is no GPU.",
    )
    p.add_argument("--seconds", type=float, default=SECONDS, help=f"time for everything; rounds are cut; {SECONDS:g}")
    p.add_argument("--out", type=Path, default=OUT, help=f"the JSON file; {OUT}")
    p.add_argument("--only", type=phases, help="some phases, e.g. networks,kernels")
    p.add_argument("--plan", action="store_true", help="print what would be run, and end")
    p.add_argument("--dry-run", action="store_true", help="tiny and on the CPU: a test of the script")
    return p


def phases(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    from bench.gpu_suite.suite import PHASES

    given = tuple(text.split(","))
    if unknown := [name for name in given if name not in PHASES]:
        raise argparse.ArgumentTypeError(f"unknown phase {unknown[0]!r}; known: {', '.join(PHASES)}")
    return given


def say(line: str) -> None:
    """Progress, on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def problem() -> str | None:
    """Why nothing can be measured here."""
    from tinygrad_cr.kernels import BackendError, backend

    try:
        backend("gpu")
    except BackendError as error:
        return str(error)
    return None


def plan() -> str:
    """What a run does, in lines."""
    from bench.gpu_suite import parity, workloads
    from bench.gpu_suite.suite import PHASES

    lines = [f"tests, up to {PHASES['tests']:.0f} s: pytest -k '{parity.CHOSEN}' {' '.join(parity.files())}"]
    lines += ["networks, us a step:", *(f"  {workloads.title(case)}" for case in workloads.NETWORKS)]
    lines += [f"    {variant.title}" for variant in workloads.SOLO]
    lines += [f"populations of B, members x steps a second: {', '.join(map(str, sorted(workloads.MEMBERS)))}"]
    lines += [f"    {variant.title}" for variant in workloads.TOGETHER]
    lines += ["    the fastest PyTorch of the above, one after another"]
    lines += ["kernels: GB/s of each at 64 MiB, beside a copy", "memory: peak of training D and E"]
    return "\n".join(lines)


def write(file: Path, results: dict[str, Any]) -> None:
    """The results as a file that is always whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results))
    unfinished.replace(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a run, 1 if tests failed in it or a phase broke off, 2 where there is no GPU."""
    chosen = parser().parse_args(arguments)
    checkout.use()
    if chosen.plan:
        print(plan())
        return 0
    if not chosen.dry_run and (why := problem()):
        print(f"nothing was measured: {why}", file=sys.stderr)
        return NO_GPU
    from rich.console import Console

    from bench.gpu_suite.report import WIDTH, show
    from bench.gpu_suite.suite import PHASES, Options, Run

    options = Options(chosen.dry_run, chosen.seconds, chosen.only or tuple(PHASES))
    results = Run(options, say, lambda found: write(chosen.out, found))()
    show(results, Console(width=WIDTH))
    return int(bool(results.get("tracebacks") or results.get("tests", {}).get("failed")))


if __name__ == "__main__":
    raise SystemExit(main())
