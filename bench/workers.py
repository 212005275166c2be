"""The other end of `worker.py`: starts contestants' processes, and lets one run at a time.

Workers live as long as the run, because torch.compile and JAX pay seconds for a compilation that their users pay once.
A worker that has no turn blocks in a read. Two things make sure that it costs nobody anything: a turn ends when the
process has become quiet, and the CPU time it used while it should have slept is measured and recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.process import ContestantError, Process

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 900.0
"""Seconds after which a command counts as hung."""


def python(program: str) -> list[str]:
    """The command that runs a program which finds `bench`, and tinygrad_cr in the tree if it is not installed."""
    # Appended, so that an installed package comes before the tree.
    return [sys.executable, "-P", "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{program}"]


class Worker:
    """A contestant's process.

    Args:
        name: of a contestant, or "limit:" and a library.
        environment: variables on top of this process's own.
    """

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.idle_cpu_seconds = 0.0
        self._process = Process(name, python("from bench.worker import main; main()"), environment or {})
        try:
            self._ask({"contestant": name})
        except ContestantError:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let the worker do something and wait for it.

        Raises:
            ContestantError: it failed, died or hung.
        """
        reply = self._ask({"do": do, **arguments})
        self.idle_cpu_seconds += reply.pop("idle_cpu_seconds", 0.0)
        return reply

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self._process.send(command)
        return self._process.reply(PATIENCE)

    @property
    def alive(self) -> bool:
        """Whether it can take another command."""
        return self._process.alive

    def close(self) -> None:
        """End the process."""
        self._process.close(grace=10)
