"""A contestant's process, from both ends: commands and replies are JSON lines.

A process that has no turn sleeps in a read. One that fails a command says why and goes on; one that dies or hangs is
given up, and the others are not touched.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from bench import checkout
from bench.gpu_suite.workloads import Case
from bench.process import ContestantError, Process

CONTESTANTS = {
    "ours": "ours:Ours",
    "torch": "pytorch:PyTorch",
    "inductor": "pytorch:PyTorch",
    "vmap": "pytorch:PyTorch",
    "vmap-compiled": "pytorch:PyTorch",
    "jax": "jaxes:Jax",
    "kernels": "kernels:Kernels",
    "memory ours": "memory:Ours",
    "memory torch": "memory:PyTorch",
}
"""The class of each process, as module:class of this package; it is made with the device, "gpu" or "cpu"."""

ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TORCHINDUCTOR_COMPILE_THREADS": "4",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Peer(Process):
    """The parent's end.

    Args:
        name: of `CONTESTANTS`.
        device: "gpu" or "cpu".
        patience: seconds until it must have said hello.

    Raises:
        ContestantError: it did not.
    """

    def __init__(self, name: str, device: str, patience: float) -> None:
        own = ENVIRONMENT | ({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
        program = "from bench.gpu_suite.peer import main; main()"
        command = [sys.executable, "-P", "-c", program, name, device]
        super().__init__(name, command, own | {"PYTHONPATH": checkout.path()})
        try:
            self.versions: dict[str, str] = self.reply(patience)["versions"]
        except ContestantError:
            self.close()
            raise

    def ask(self, do: str, patience: float, **arguments: Any) -> dict[str, Any]:
        """Let it do something and wait; see `Process.reply`."""
        self.send({"do": do, **arguments})
        return self.reply(patience)


class Session:
    """The child's end: what has been prepared, by case and variant."""

    def __init__(self, contestant: Any) -> None:
        self.contestant = contestant
        self.ready: dict[tuple[str, str], tuple[Case, Any]] = {}

    def prepare(self, case: Mapping[str, Any], variant: str) -> dict[str, Any]:
        """Build, compile, warm up: two epochs."""
        begin = time.perf_counter()
        made = Case.from_json(dict(case))
        work = self.contestant.make(made, variant)
        losses = [work.epoch() for _ in range(2)]
        self.ready[made.name, variant] = made, work
        return {"seconds": time.perf_counter() - begin, "losses": losses}

    def measure(self, case: str, variant: str, seconds: float) -> dict[str, Any]:
        """Seconds a step: an epoch that does not count, then epochs for so long, at least one."""
        made, work = self.ready[case, variant]
        work.epoch()
        self.contestant.synchronize()
        epochs, begin = 0, time.perf_counter()
        while not epochs or time.perf_counter() - begin < seconds:
            loss = work.epoch()
            epochs += 1
        self.contestant.synchronize()
        spent = time.perf_counter() - begin
        return {"step": spent / (epochs * made.steps), "steps": epochs * made.steps, "loss": loss}

    def run(self, do: str, **arguments: Any) -> dict[str, Any]:
        """A command of this class, or one of the contestant's own."""
        own = getattr(self, do, None) or getattr(self.contestant, do)
        reply: dict[str, Any] = own(**arguments)
        return reply


def main() -> None:
    """Say hello, then obey until the pipe is closed."""
    name, device = sys.argv[1:]
    # Libraries print; replies have a channel of their own.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(value: Mapping[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        module, _, kind = CONTESTANTS[name].partition(":")
        contestant = getattr(importlib.import_module(f"bench.gpu_suite.{module}"), kind)(device)
        session = Session(contestant)
        reply({"versions": contestant.describe()})
    except Exception as problem:
        reply({"error": one_line(problem)})
        return
    for line in sys.stdin:
        try:
            reply(session.run(**json.loads(line)))
        except Exception as problem:
            traceback.print_exc()
            reply({"error": one_line(problem), "traceback": traceback.format_exc()})


def one_line(problem: BaseException) -> str:
    """``ValueError: what is wrong``, at most 300 characters of it."""
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    return text if len(text) <= 300 else text[:297] + "..."
