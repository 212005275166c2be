"""The search that tests run here, on a pool, on a cluster and under MPI, and how they run programs of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tinygrad_cr.data import load, split
from tinygrad_cr.search import LogUniform, SearchReporter, SearchResult, random_search

TRIALS = 10
SPACE = {"lr": LogUniform(1e-4, 1.0), "reg": LogUniform(1e-6, 1e-2), "dropout": 0.1, "hidden": 16}
SECONDS = 100


class After(SearchReporter):
    """Does something once, after so many trials."""

    def __init__(self, trials: int, what: Callable[[], object]) -> None:
        self.trials, self.what = trials, what

    def trial(self, row: Any, space: Any) -> None:
        self.trials -= 1
        if self.trials == 0:
            self.what()


def search(executor: Any = None, out: Path | None = None, **options: Any) -> SearchResult:
    """Trials one by one, so that there is something to share out, and long enough to be killed."""
    parts = split(load("digits"), seed=0)
    wanted = {"trials": TRIALS, "epochs": 10, "seed": 3, "group_size": 1, "reporter": False}
    return random_search(parts.train, parts.validation, SPACE, out=out, executor=executor, **wanted | options)


def plain(rows: Any) -> list[dict[str, Any]]:
    """Rows in the order of trials, without what differs from run to run."""
    kept = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return sorted(kept, key=lambda row: row["trial"])


@cache
def expected() -> list[dict[str, Any]]:
    """What a search in one process finds."""
    return plain(search())


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The lines of a ledger, as they were written."""
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def environment(**values: str) -> dict[str, str]:
    """For programs that import the helpers of these tests."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | values


def run(command: list[Any], folder: Path | None = None, **values: str) -> tuple[int, str]:
    """Exit code and all output of a program; whatever it started ends with it."""
    running = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=environment(**values),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = running.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        raise AssertionError(f"{command} took more than {SECONDS} s:\n{running.communicate()[0]}") from None
    return running.returncode, output


def wait_for(look: Callable[[], list[Any]], count: int) -> list[Any]:
    """What `look` finds, as soon as it finds so many."""
    for _ in range(600):
        found = look()
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited 30 s for {count}, found {found}")
