"""The run itself: contestants take turns, round after round, and everything raw is kept."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from bench import limit, start
from bench.contestants import BY_NAME, ENTRIES, Entry, missing
from bench.inputs import fashion_mnist_is_here
from bench.machine import cores, describe
from bench.process import ContestantError
from bench.workers import Worker
from bench.workloads import FASHION, LEARNING_RATES, NETWORKS, TARGET_ACCURACY, Task, make_tasks

FORMAT = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        groups: of `workloads.GROUPS`.
        peers: names of contestants that are not ours.
        rounds: how often everybody has a turn.
        turn_seconds: how long a turn measures, after its untimed beginning.
        least_blocks: epochs a turn times at least.
        tuning_seconds: how long each variant is tried; 0 takes the first.
        max_epochs: when a race to an accuracy is given up.
    """

    groups: tuple[str, ...]
    peers: tuple[str, ...]
    quick: bool
    rounds: int
    turn_seconds: float
    least_blocks: int
    tuning_seconds: float
    max_epochs: int
    learning_rates: tuple[float, ...]
    starts: int

    def side_by_side(self, ask: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
        """What each contestant answers, one after the other; together in a quick run, whose figures mean nothing."""
        if not self.quick:
            return [ask(name) for name in names]
        with ThreadPoolExecutor(cores()) as pool:
            return list(pool.map(ask, names))

    @classmethod
    def make(cls, groups: Sequence[str], peers: Sequence[str], quick: bool, rounds: int | None) -> Options:
        """The settings of a full run, or of a quick one, whose figures mean nothing."""
        own = (tuple(groups), tuple(peers), quick)
        if quick:
            return cls(*own, rounds or 1, 0.02, 1, 0.0, 1, LEARNING_RATES[-1:], 1)
        return cls(*own, rounds or 7, 0.4, 3, 0.2, 30, LEARNING_RATES, 5)


class Field:
    """The contestants of a run and their processes."""

    def __init__(self, entries: Sequence[Entry], say: Say) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self.say = say
        self.idle_cpu_seconds: dict[str, float] = {}
        self._workers: dict[str, Worker] = {}

    def worker(self, name: str) -> Worker:
        """Its process; a new one if the last one died."""
        if name not in self._workers or not self._workers[name].alive:
            self._workers[name] = Worker(name)
        return self._workers[name]

    def prepare(self, task: Task, options: Options) -> tuple[dict[str, Any], dict[str, str]]:
        """Everybody's chosen variant for a task, and who cannot do it and why."""
        chosen: dict[str, Any] = {}
        failed: dict[str, str] = {}

        def ask(name: str) -> dict[str, Any]:
            try:
                return self.worker(name)("prepare", task=task.to_json(), seconds=options.tuning_seconds)
            except ContestantError as problem:
                self.say(f"  {name} failed: {problem}")
                return {"problem": str(problem)}

        names = [name for name, entry in self.entries.items() if entry.trains or task.kind == "infer"]
        for name, reply in zip(names, options.side_by_side(ask, names), strict=True):
            if "problem" in reply:
                failed[name] = reply["problem"]
            elif "absent" not in reply:
                chosen[name] = reply
        return chosen, failed

    def close(self) -> None:
        """End all processes."""
        for name, worker in self._workers.items():
            self.idle_cpu_seconds[name] = worker.idle_cpu_seconds
            worker.close()


def run(options: Options, say: Say, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure everything asked for; the results are plain JSON values.

    keep: takes what there is after each task, so that a run that is cut off was not for nothing.
    """
    skipped: dict[str, str] = {}
    entries = []
    for entry in ENTRIES:
        if entry.ours or entry.name in options.peers:
            reason = missing(entry)
            if reason is None:
                entries.append(entry)
            else:
                skipped[entry.name] = reason
                say(f"skipping {entry.name}: {reason}")
    begin = time.time()
    results: dict[str, Any] = {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%d", time.gmtime(begin)),
        "options": asdict(options),
        "machine": describe(),
        "contestants": {entry.name: asdict(entry) for entry in entries},
        "skipped": skipped,
        "fashion_mnist": fashion_mnist_is_here(),
        "load_average": [],
        "tasks": {},
    }
    tasks = [task for task in make_tasks(options.quick) if task.group in options.groups]
    names = [entry.name for entry in entries]
    with ExitStack() as outside:
        caches = outside.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        pool = ThreadPoolExecutor(1)
        outside.callback(pool.shutdown, cancel_futures=True)
        starts = None
        if options.quick and "start" in options.groups:
            # Beside everything else: no figure means anything.
            starts = start.begin(names, options.starts, say, pool, caches)
        with ExitStack() as stack:
            field = Field(entries, say)
            stack.callback(field.close)
            limits = None
            if any(task.kind == "train" for task in tasks):
                limits = stack.enter_context(limit.limits(options.quick))
            for task in tasks:
                results["load_average"].append(os.getloadavg()[0])
                if task.kind == "accuracy":
                    results["accuracy"] = race(field, task, options, say)
                    continue
                stand_in = " (random bytes: the data set is not on this machine)"
                say(f"{task.name}{stand_in if task.data == FASHION and not results['fashion_mnist'] else ''}")
                results["tasks"][task.name] = timed(field, task, options, limits, say)
                keep(results | {"seconds": time.time() - begin})
            if "memory" in options.groups:
                results["memory"] = memory(field, make_tasks(options.quick), results["tasks"], options, say)
            if limits is not None:
                results["limit"] = {"measured": limits.libraries, "failed": limits.failed}
        results["idle_cpu_seconds"] = field.idle_cpu_seconds
        if "start" in options.groups:
            say("start")
            results["start"] = (starts or start.begin(names, options.starts, say, pool))()
    results["seconds"] = time.time() - begin
    keep(results)
    return results


def timed(field: Field, task: Task, options: Options, limits: limit.Limits | None, say: Say) -> dict[str, Any]:
    """Rounds of turns on one task. Each round begins with another contestant."""
    prepared, failed = field.prepare(task, options)
    record: dict[str, Any] = {
        "task": task.to_json(),
        "variants": prepared,
        "failed": failed,
        "rounds": {name: [] for name in prepared},
    }
    product_rounds, bandwidths = [], []
    for i in range(options.rounds):
        names = list(record["rounds"])
        turn = i % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            try:
                reply = field.worker(name)("measure", seconds=options.turn_seconds, least=options.least_blocks)
            except ContestantError as problem:
                failed[name] = str(problem)
                del record["rounds"][name]
                say(f"  {name} failed: {problem}")
                continue
            record["rounds"][name].append(reply["blocks"])
        if limits is not None and task.kind == "train":
            product_rounds.append(limits.product_seconds(limit.products(task)))
            if i in (0, options.rounds - 1):
                bandwidths.append(limits.bandwidths())
    if product_rounds:
        record["limit"] = limit.limit_seconds(task, product_rounds, bandwidths)
        record["limit_rounds"] = {"products": product_rounds, "bandwidths": bandwidths}
    return record


def race(field: Field, task: Task, options: Options, say: Say) -> dict[str, Any]:
    """Seconds until each contestant reaches the accuracy, with the best learning rate of the same short list.

    The first round tries every rate; later rounds (three are enough) repeat each contestant's best. Compilation is
    done before the clock starts; evaluation after each epoch counts.
    """
    if not fashion_mnist_is_here():
        say("accuracy skipped: Fashion-MNIST is not on this machine")
        return {"skipped": "Fashion-MNIST is not on this machine"}
    say(f"accuracy {TARGET_ACCURACY}")
    prepared, failed = field.prepare(task, options)
    record: dict[str, Any] = {
        "target": TARGET_ACCURACY,
        "learning_rates": options.learning_rates,
        "variants": prepared,
        "failed": failed,
        "runs": {name: [] for name in prepared},
    }
    best: dict[str, float] = {}
    for seed in range(min(3, options.rounds)):
        for name in list(record["runs"]):
            rates = [best[name]] if name in best else options.learning_rates
            for lr in rates:
                arguments = {"lr": lr, "seed": seed, "target": TARGET_ACCURACY, "max_epochs": options.max_epochs}
                try:
                    reply = field.worker(name)("race", **arguments)
                except ContestantError as problem:
                    failed[name] = str(problem)
                    say(f"  {name} failed: {problem}")
                    break
                record["runs"][name].append({"lr": lr, "seed": seed, **reply})
            reached = [run for run in record["runs"][name] if run["reached"]]
            if reached:
                best.setdefault(name, min(reached, key=lambda run: run["curve"][-1][0])["lr"])
    record["best_lr"] = best
    return record


def memory(
    field: Field, tasks: Sequence[Task], done: dict[str, Any], options: Options, say: Say
) -> dict[str, dict[str, Any]]:
    """Peak memory of a fresh process that trains network D for two epochs, data set included."""
    say("memory")
    task = next(task for task in tasks if task.name == NETWORKS["D"].name)
    chosen = done.get(task.name, {}).get("variants") or field.prepare(task, options)[0]

    def peak(name: str) -> dict[str, Any]:
        try:
            with Worker(name) as worker:
                imported = worker("peak")["bytes"]
                worker("prepare", task=task.to_json(), seconds=0.0, variant=chosen[name]["variant"])
                worker("measure", seconds=0.0, least=1)
                return {"imported_bytes": imported, "peak_bytes": worker("peak")["bytes"]}
        except ContestantError as problem:
            say(f"  {name} failed: {problem}")
            return {"failed": str(problem)}

    return dict(zip(chosen, options.side_by_side(peak, list(chosen)), strict=True))


def title(name: str) -> str:
    """What tables call a contestant."""
    return BY_NAME[name].title
