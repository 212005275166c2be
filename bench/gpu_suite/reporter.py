"""A plugin of pytest: a line of JSON for each test as it ends, so that a run that is stopped has told what it did."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Calls, and what failed or was skipped before one."""
    if report.when == "call" or (report.when == "setup" and not report.passed) or report.failed:
        _tell(report.nodeid, report.outcome, report)


def pytest_collectreport(report: Any) -> None:
    """Files that could not be read."""
    if report.failed:
        _tell(report.nodeid, "failed", report)


def _tell(test: str, outcome: str, report: Any) -> None:
    record = {"test": test, "outcome": outcome} | ({} if outcome == "passed" else {"why": _why(report)})
    with Path(os.environ["BENCH_REPORTS"]).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _why(report: Any) -> str:
    """The last line of an error, or the reason for skipping."""
    told = report.longrepr
    if isinstance(told, tuple):
        return str(told[2]).removeprefix("Skipped: ")
    crash = getattr(told, "reprcrash", None)
    text = crash.message if crash is not None else str(told)
    return " ".join(text.split())[:300]
