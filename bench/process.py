"""A contestant's process as its parent sees it: commands and replies are JSON lines, errors come back in one line."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any


class ContestantError(RuntimeError):
    """What a contestant could not do, in one line."""


class Process:
    """A process that takes commands one at a time, and sleeps in a read between them.

    Args:
        name: for messages.
        command: the program and its arguments.
        environment: variables on top of this process's own.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | dict(environment),
        )

    def send(self, command: Mapping[str, Any]) -> None:
        """Give it something to do.

        Raises:
            ContestantError: it is dead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise ContestantError(self._obituary()) from None

    def reply(self, patience: float) -> dict[str, Any]:
        """Wait for its next line; after `patience` seconds it counts as hung and is ended.

        Raises:
            ContestantError: it failed, died or hung.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, patience)):
                self._process.kill()
                self._process.wait()
                raise ContestantError(f"{self.name} gave no answer for {max(0.0, patience):.0f} s and was ended")
        line = self._process.stdout.readline()
        if not line:
            raise ContestantError(self._obituary())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ContestantError(reply["error"])
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

    def close(self, grace: float = 0.0) -> None:
        """End the process; it has so many seconds to end by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not grace:
            self._process.kill()
        with suppress(OSError):  # the rest of a command that it did not live to read
            self._process.stdin.close()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
