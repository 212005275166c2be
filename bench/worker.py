"""A contestant's process: takes commands as JSON lines, one at a time, and sleeps in a read between them.

A turn begins with an untimed epoch (the caches hold what the previous contestant left) and ends only when the
process uses no more CPU: thread pools spin after their work, and would spin into the next contestant's turn.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import contestants
from bench.contestants.base import Predictor, Trainer
from bench.inputs import make_inputs
from bench.workloads import Task

QUIET_SHARE = 0.05
QUIET_WAIT = 0.02
QUIET_LIMIT = 1.0
MAX_BLOCKS = 200
CALLS_SECONDS = 0.02
TRIALS = 3
"""Turns in which the variants of a contestant are tried; the least median counts."""


def settle() -> None:
    """Wait until no thread of this process runs any more."""
    end = time.perf_counter() + QUIET_LIMIT
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(QUIET_WAIT)
        if time.process_time() - used < QUIET_SHARE * QUIET_WAIT:
            return


def peak_memory() -> int:
    """The most memory this process ever held, in bytes.

    Linux's ru_maxrss starts from the parent's peak when a process is made by fork, so VmHWM is asked where it exists.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train_block(trainer: Trainer, steps: int) -> float:
    """Seconds a step, and member, over one epoch."""
    begin = time.perf_counter()
    trainer.epoch()
    return (time.perf_counter() - begin) / steps / getattr(trainer, "members", 1)


class Calls:
    """Blocks of calls, long enough to be timed."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.count = 1
        predictor.repeat(3)
        while self() * self.count < CALLS_SECONDS:
            self.count *= 2

    def __call__(self) -> float:
        """Seconds a call."""
        begin = time.perf_counter()
        self.predictor.repeat(self.count)
        return (time.perf_counter() - begin) / self.count


def blocks(block: Callable[[], float], seconds: float, least: int) -> list[float]:
    """Measure for so many seconds, after one block that does not count."""
    block()
    end = time.perf_counter() + seconds
    found: list[float] = []
    while len(found) < least or (time.perf_counter() < end and len(found) < MAX_BLOCKS):
        found.append(block())
    return found


class Session:
    """What a contestant holds between commands: one task, its fastest variant."""

    def __init__(self, name: str) -> None:
        self.contestant = contestants.make(name)
        self.task: Task | None = None
        self.work: Any = None
        self.block: Callable[[], float] | None = None

    def prepare(self, task: dict[str, Any], seconds: float, variant: str | None = None) -> dict[str, Any]:
        """Build every variant of the task, keep the one with the fastest blocks; everything is compiled and warm.

        variant: take this one instead; seconds: how long each is tried, and 0 takes the first.
        """
        begin = time.perf_counter()
        self.task, self.work, self.block = Task.from_json(task), None, None
        inputs = make_inputs(self.task)
        training = self.task.kind != "infer"
        ways: Mapping[str, Callable[[], Any]]
        ways = (self.contestant.trainers if training else self.contestant.predictors)(self.task, inputs)
        if not ways:
            return {"absent": f"does not take part in {self.task.name}"}
        if variant is not None or not seconds:
            only = next(iter(ways)) if variant is None else variant
            ways = {only: ways[only]}
        ready, tuned, broken = self._tried(ways, seconds)
        if not tuned:
            raise RuntimeError("; ".join(broken.values()))
        chosen = min(tuned, key=tuned.__getitem__)
        self.work, self.block = ready[chosen]
        return {"variant": chosen, "tuned": tuned, "broken": broken, "setup_seconds": time.perf_counter() - begin}

    def _tried(self, ways: Mapping[str, Callable[[], Any]], seconds: float) -> tuple[dict[str, Any], ...]:
        """Each variant with its block, the seconds that a step took, and what went wrong with others."""
        ready: dict[str, tuple[Any, Callable[[], float]]] = {}
        tuned: dict[str, float] = {}
        broken: dict[str, str] = {}
        spent = dict.fromkeys(ways, 0.0)
        # In turns, each until it had its time: what the neighbours do for a moment would choose.
        for name in [*ways] * (TRIALS if len(ways) > 1 else 1):
            if name in broken or (name in tuned and spent[name] >= seconds):
                continue
            try:
                if name not in ready:
                    work = ways[name]()
                    ready[name] = work, self._block(work)
                    ready[name][1]()
                start = time.perf_counter()
                took = statistics.median(blocks(ready[name][1], seconds / TRIALS, 1)) if len(ways) > 1 else 0.0
                spent[name] += time.perf_counter() - start
            except Exception as problem:
                traceback.print_exc()
                broken[name] = f"{type(problem).__name__}: {problem}"
                tuned.pop(name, None)
                continue
            tuned[name] = min(took, tuned.get(name, took))
            settle()
        return ready, tuned, broken

    def _block(self, work: Any) -> Callable[[], float]:
        assert self.task is not None
        steps = self.task.steps
        return Calls(work) if self.task.kind == "infer" else lambda: train_block(work, steps)

    def measure(self, seconds: float, least: int) -> dict[str, Any]:
        """One turn."""
        assert self.block is not None
        return {"blocks": blocks(self.block, seconds, least)}

    def race(self, lr: float, seed: int, target: float, max_epochs: int) -> dict[str, Any]:
        """Train from scratch, with everything compiled, until a validation accuracy is reached."""
        assert self.task is not None
        validation = make_inputs(self.task).validation
        assert validation is not None
        trainer: Trainer = self.work
        trainer.accuracy(*validation)
        trainer.reset(lr, seed)
        curve: list[tuple[float, float]] = []
        begin = time.perf_counter()
        while not curve or (curve[-1][1] < target and len(curve) < max_epochs):
            trainer.epoch()
            accuracy = trainer.accuracy(*validation)
            curve.append((time.perf_counter() - begin, accuracy))
        return {"curve": curve, "reached": curve[-1][1] >= target}

    def peak(self) -> dict[str, Any]:
        """The peak memory of the process."""
        return {"bytes": peak_memory()}


def make_session(name: str) -> Any:
    """A contestant's session, or one that measures the machine ("limit:torch")."""
    kind, _, library = name.partition(":")
    if kind == "limit":
        from bench.rates import Rates

        return Rates(library)
    return Session(name)


def main() -> None:
    """Serve until standard input ends. Libraries may print: replies have a channel of their own."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    session: Any = None
    used = 0.0
    for line in sys.stdin:
        command = json.loads(line)
        idle = time.process_time() - used
        try:
            if session is None:
                session, reply = make_session(command["contestant"]), {}
            else:
                reply = getattr(session, command.pop("do"))(**command)
            reply["idle_cpu_seconds"] = idle
        except Exception as problem:
            traceback.print_exc()
            reply = {"error": f"{type(problem).__name__}: {problem}"}
        settle()
        used = time.process_time()
        replies.write(json.dumps(reply) + "\n")
