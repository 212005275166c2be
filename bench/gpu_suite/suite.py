"""The run itself: phases in order of importance, each with its share of the time; what there is is kept after each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.gpu_suite import parity
from bench.gpu_suite.clock import Clock
from bench.gpu_suite.field import Field, Say, fastest
from bench.gpu_suite.machine import graphics, machine
from bench.gpu_suite.peer import Peer
from bench.gpu_suite.workloads import BY_NAME, Case, networks, populations, title
from bench.process import ContestantError

FORMAT = 1
PHASES = {"tests": 150.0, "networks": 110.0, "populations": 90.0, "kernels": 45.0, "memory": 60.0}
"""The phases in their order, and how they share the time."""
TEST_SECONDS = 150.0
ROUNDS, TURN_SECONDS, POPULATION_ROUNDS = 7, 0.25, 5
LATE = 45.0
"""Seconds that a preparation which was begun in time may last beyond the first phase."""
HELLO, PATIENCE = 60.0, 60.0
REMEMBERED = ("D", "E")
"""The networks whose memory is measured; first ours and PyTorch's plain way of each, then its graph."""
KEPT_FOR_MEMORY = ("compiled", "torch", "torch-graph")


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        dry_run: on the CPU, tiny.
        seconds: the time for everything.
        phases: of `PHASES`.
    """

    dry_run: bool
    seconds: float
    phases: tuple[str, ...] = tuple(PHASES)

    @property
    def device(self) -> str:
        """Where everybody computes."""
        return "cpu" if self.dry_run else "gpu"


class Run:
    """A run; `results` are plain JSON values, and `keep` is given them after each phase and round."""

    def __init__(self, options: Options, say: Say, keep: Callable[[dict[str, Any]], None]) -> None:
        self.options, self.say, self._keep = options, say, keep
        self.clock = Clock(options.seconds, {phase: PHASES[phase] for phase in PHASES if phase in options.phases})
        self.networks, self.populations = networks(options.dry_run), populations(options.dry_run)
        self.field = Field(options.device, say)
        cases = (*self.networks, *self.populations)
        self.results: dict[str, Any] = {
            "format": FORMAT,
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "dry_run": options.dry_run,
            "options": {"seconds": options.seconds, "phases": options.phases},
            "machine": machine(options.device),
            "titles": {case.name: title(case) for case in cases},
            "members": {case.name: case.members for case in self.populations},
            "bar_members": self.populations[0].members,
            "cases": {case.name: case.to_json() for case in cases},
            "finished": False,
        }

    def __call__(self) -> dict[str, Any]:
        """All phases; one that breaks off does not stop the others."""
        try:
            for phase in PHASES:
                if phase not in self.options.phases:
                    continue
                self.say(f"{phase}: up to {self.clock.begin(phase):.0f} s")
                try:
                    getattr(self, f"_{phase}")()
                except Exception:
                    self.results.setdefault("tracebacks", {})[phase] = traceback.format_exc()
                    self.say(traceback.format_exc())
                self.keep()
        finally:
            self.field.close()
        self.results["finished"] = True
        self.keep()
        return self.results

    def keep(self) -> None:
        """Give away what there is."""
        field = self.field
        self.results |= {"seconds": self.clock.spent, "absent": field.absent, "failed": field.failed}
        self.results |= {"prepared": field.prepared, "versions": field.versions}
        self._keep(self.results)

    def _tests(self) -> None:
        """The tests; while they run, everybody builds and compiles what is measured afterwards."""
        with ThreadPoolExecutor(1) as pool:
            ready = pool.submit(self._prepare)
            if self.options.dry_run:
                tests = parity.run(self.clock.left, "cpu and relu_backward", ["tests/test_kernels.py"])
            else:
                tests = parity.run(min(TEST_SECONDS, self.clock.left))
            self.results["tests"] = tests
            self.say(f"tests: {tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped")
            self.keep()
            ready.result()

    def _prepare(self) -> None:
        clock = self.clock
        wanted = [*self.networks] if "networks" in self.options.phases else [self.networks[0]]
        wanted += self.populations if "populations" in self.options.phases else []
        self.field.prepare(wanted, lambda: clock.left, lambda: clock.left + LATE)

    def _networks(self) -> None:
        self._prepared()
        chosen = self._ready(self.networks)

        def keep(times: dict[str, dict[str, list[float]]]) -> None:
            self.results["networks"] = times
            if not self.options.dry_run:
                self.results["gpu_under_load"] = graphics()
            self.keep()

        self.field.rounds(chosen, self.clock, *self._rounds(ROUNDS), keep)

    def _populations(self) -> None:
        self._prepared()
        chosen = self._ready(self.populations)
        base = self.networks[0].name
        measured = self.results.get("networks", {}).get(base, {})
        alone = fastest(measured, lambda name: BY_NAME[name].process in ("torch", "inductor"))
        if alone is None and "torch" in self.field.prepared.get(base, {}):
            alone = "torch"
        if alone is not None:
            chosen.append((base, alone))

        def keep(times: dict[str, dict[str, list[float]]]) -> None:
            # One network takes as long whatever comes after it: it stands beside every population.
            own = times.get(base, {})
            found = {case: ways | own for case, ways in times.items() if case != base}
            self.results["populations"] = found
            self.keep()

        self.field.rounds(chosen, self.clock, *self._rounds(POPULATION_ROUNDS), keep)

    def _rounds(self, most: int) -> tuple[int, float]:
        return (2, 0.0) if self.options.dry_run else (most, TURN_SECONDS)

    def _prepared(self) -> None:
        """Without the phase that does it, prepare now."""
        if "tests" not in self.options.phases and not self.field.peers:
            self._prepare()

    def _ready(self, cases: tuple[Case, ...]) -> list[tuple[str, str]]:
        return [(case.name, variant) for case in cases for variant in self.field.prepared.get(case.name, {})]

    def _kernels(self) -> None:
        """One after another in a process that is made anew when it failed: a fault ends a process's use of the GPU."""
        self.field.close()
        found: dict[str, Any] = {"records": {}}
        self.results["kernels"] = found
        peer = self._kernel_peer()
        try:
            found |= {"copy": peer.ask("copy", PATIENCE), **peer.ask("names", PATIENCE)}
            for name in found["names"]:
                if self.clock.left < 0:
                    found["records"][name] = {"problem": "no time was left for it"}
                    continue
                try:
                    found["records"][name] = peer.ask("kernel", PATIENCE, name=name)
                except ContestantError as problem:
                    found["records"][name] = {"problem": str(problem)}
                    self.say(f"{name}: {problem}")
                    peer.close()
                    peer = self._kernel_peer()
            again = peer.ask("copy", PATIENCE)
            if again["rate"] > found["copy"]["rate"]:
                found["copy"] = again
        finally:
            peer.close()

    def _kernel_peer(self) -> Peer:
        return Peer("kernels", self.options.device, HELLO)

    def _memory(self) -> None:
        """Each figure in a process of its own, while no other holds memory."""
        self.field.close()
        found: dict[str, dict[str, Any]] = {name: {} for name in REMEMBERED}
        self.results["memory"] = found
        cases = {case.name: case for case in self.networks}
        for variant in KEPT_FOR_MEMORY:
            if self.options.dry_run and BY_NAME[variant].needs_gpu:
                continue
            for name in REMEMBERED:
                if self.clock.left < 0:
                    found[name][variant] = {"failed": "no time was left for it"}
                    continue
                process = f"memory {BY_NAME[variant].process}"
                try:
                    peer = Peer(process, self.options.device, HELLO)
                    try:
                        case = cases[name].to_json()
                        found[name][variant] = peer.ask("peak", PATIENCE, case=case, variant=variant)
                    finally:
                        peer.close()
                except ContestantError as problem:
                    found[name][variant] = {"failed": str(problem)}
                    self.say(f"memory, {name}, {variant}: {problem}")
