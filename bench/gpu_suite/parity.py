"""The parity and gradient tests on the GPU: pytest in a process of its own, with a time limit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.checkout import ROOT

TESTS = ROOT / "tests"
FIRST = ("test_kernels.py", "test_gradients.py")
BY_BACKEND = re.compile(r"""["']gpu["']|\bavailable\(\)|\bFAST\b|\(kernels[,)]""")
"""What the text of a test file has that takes a backend as a parameter."""
CHOSEN = "gpu and not simulated"
"""Of their tests, for pytest's -k: those whose name or parameters say gpu."""
GRACE = 15.0
LISTED = 20


def files() -> list[str]:
    """The test files that have rows for a GPU, the most important first."""
    found = [path.name for path in sorted(TESTS.glob("test_*.py")) if BY_BACKEND.search(path.read_text())]
    own = Path(__file__).name
    rest = [name for name in found if name not in (*FIRST, "test_bench_gpu.py", own)]
    rest.sort(key=lambda name: not name.startswith("test_gpu"))
    return [f"tests/{name}" for name in (*FIRST, *rest)]


def run(seconds: float, only: str = CHOSEN, among: list[str] | None = None) -> dict[str, Any]:
    """Counts of what passed, failed and was skipped, and the failures; `complete` is False if time ran out."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "reports.jsonl"
        command = [sys.executable, "-m", "pytest", *(files() if among is None else among), "-k", only]
        command += ["-p", "bench.gpu_suite.reporter", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        # What is new in NumPy or CuPy there may be deprecated, and still right.
        command += ["-W", "default::DeprecationWarning", "-W", "default::FutureWarning"]
        # Plugins that happen to be installed have no part in this.
        own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "BENCH_REPORTS": str(log)}
        with (Path(folder) / "output").open("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | own,
                start_new_session=True,
            )
            complete = True
            try:
                status = process.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                complete, status = False, _stopped(process)
            output.seek(0)
            tail = output.read()[-6000:]
        reports = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return summed(reports) | {"complete": complete, "status": status, "files": files(), "output": tail}


def summed(reports: list[dict[str, str]]) -> dict[str, Any]:
    """What the reports of single tests come to.

    >>> summed([{"test": "a", "outcome": "passed"}, {"test": "b", "outcome": "failed", "why": "1 != 2"}])["failed"]
    1
    """
    outcomes = [report["outcome"] for report in reports]
    failures = [report for report in reports if report["outcome"] == "failed"]
    skipped: dict[str, int] = {}
    for report in reports:
        if report["outcome"] == "skipped":
            skipped[report["why"]] = skipped.get(report["why"], 0) + 1
    return {
        "passed": outcomes.count("passed"),
        "failed": len(failures),
        "skipped": outcomes.count("skipped"),
        "failures": [f"{report['test']}: {report['why']}" for report in failures[:LISTED]],
        "why_skipped": skipped,
    }


def _stopped(process: subprocess.Popen[Any]) -> int:
    """End pytest and what it started; first so that it can say how far it came."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
