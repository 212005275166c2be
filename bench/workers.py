"""The other end of `worker.py`: starts contestants' processes, and lets one run at a time.

Workers live as long as the run, because torch.compile and JAX pay seconds for a compilation that their users pay once.
A worker that has no turn blocks in a read. Two things make sure that it costs nobody anything: a turn ends when the
process has become quiet, and the CPU time it used while it should have slept is measured and recorded.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 900.0
"""Seconds after which a command counts as hung."""


class WorkerError(RuntimeError):
    """What a worker could not do, in one line."""


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
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            python("from bench.worker import main; main()"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | dict(environment or {}),
        )
        try:
            self._ask({"contestant": name})
        except WorkerError:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let the worker do something and wait for it.

        Raises:
            WorkerError: it failed, died or hung.
        """
        reply = self._ask({"do": do, **arguments})
        self.idle_cpu_seconds += reply.pop("idle_cpu_seconds", 0.0)
        return reply

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        except OSError:
            raise WorkerError(self._obituary()) from None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                process.kill()
                raise WorkerError(f"{self.name} gave no answer for {PATIENCE:.0f} s and was stopped")
        line = process.stdout.readline()
        if not line:
            raise WorkerError(self._obituary())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _obituary(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:] or ["it printed nothing"]
        return f"{self.name} ended with status {code}: {last[0]}"

    @property
    def alive(self) -> bool:
        """Whether it can take another command."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self.alive:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()
        self._errors.close()
