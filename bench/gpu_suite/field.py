"""All contestants of a run: their processes, what they prepared, and turns of all of them, round after round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.gpu_suite.clock import Clock
from bench.gpu_suite.peer import Peer
from bench.gpu_suite.workloads import BY_NAME, SOLO, TOGETHER, Case, Variant
from bench.process import ContestantError

Say = Callable[[str], None]
HELLO = 90.0
"""Seconds in which a process must have imported its library."""
SLOWEST_TURN = 60.0


class Field:
    """Who takes part.

    Attributes:
        versions: what each process said of itself.
        absent: why a process does not take part, or takes no part any more.
        prepared: of a case and variant that is ready, the seconds that took, and the losses of its first epochs.
        failed: why it is not.
    """

    def __init__(self, device: str, say: Say) -> None:
        self.device, self.say = device, say
        self.peers: dict[str, Peer] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.absent: dict[str, str] = {}
        self.prepared: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, dict[str, str]] = {}

    def variants(self, case: Case) -> list[Variant]:
        """The ways to compute it that there are on this device."""
        known = SOLO if case.members is None else TOGETHER
        return [variant for variant in known if self.device == "gpu" or not variant.needs_gpu]

    def prepare(self, cases: Sequence[Case], last_start: Callable[[], float], patience: Callable[[], float]) -> None:
        """Start all processes and let them build and compile everything, each in its own order, all at once.

        last_start, patience: seconds in which something may still be begun, and must have ended.
        """
        work: dict[str, list[tuple[Case, Variant]]] = {}
        for case in cases:
            for variant in self.variants(case):
                work.setdefault(variant.process, []).append((case, variant))
        with ThreadPoolExecutor(len(work)) as pool:
            list(pool.map(lambda item: self._prepare(*item, last_start, patience), work.items()))

    def _prepare(
        self,
        process: str,
        work: list[tuple[Case, Variant]],
        last_start: Callable[[], float],
        patience: Callable[[], float],
    ) -> None:
        try:
            peer = self.peers[process] = Peer(process, self.device, min(HELLO, patience()))
        except ContestantError as problem:
            self.absent[process] = str(problem)
            self.say(f"{process} does not take part: {problem}")
            return
        self.versions[process] = peer.versions
        for case, variant in work:
            try:
                if last_start() <= 0:
                    raise ContestantError("there was no time left to prepare it")
                reply = peer.ask("prepare", patience(), case=case.to_json(), variant=variant.name)
                if not all(math.isfinite(loss) for loss in reply["losses"]):
                    raise ContestantError(f"its loss is not finite: {reply['losses']}")
                self.prepared.setdefault(case.name, {})[variant.name] = reply
            except ContestantError as problem:
                self.fail(case.name, variant.name, str(problem))

    def fail(self, case: str, variant: str, why: str) -> None:
        """Something did not work and is left out from now on."""
        self.prepared.get(case, {}).pop(variant, None)
        self.failed.setdefault(case, {})[variant] = why
        self.say(f"{case}, {BY_NAME[variant].title}: {why}")

    def turn(self, case: str, variant: str, seconds: float) -> float | None:
        """Seconds a step in one turn; None if it failed."""
        try:
            peer = self.peers[BY_NAME[variant].process]
            reply = peer.ask("measure", SLOWEST_TURN, case=case, variant=variant, seconds=seconds)
        except ContestantError as problem:
            self.fail(case, variant, str(problem))
            return None
        return float(reply["step"])

    def rounds(
        self,
        chosen: Sequence[tuple[str, str]],
        clock: Clock,
        most: int,
        seconds: float,
        keep: Callable[[dict[str, dict[str, list[float]]]], None],
    ) -> None:
        """Turns of everybody, as often as time allows, at most so many rounds; each begins with another variant.

        Args:
            chosen: pairs of a case and a variant that is prepared for it.
            seconds: of a turn.
            keep: takes the times so far, by case and variant, after each round.
        """
        times: dict[str, dict[str, list[float]]] = {}
        cases = list(dict.fromkeys(case for case, _ in chosen))
        longest = 0.0
        for i in range(most):
            if i and clock.left < longest:
                self.say(f"{i} of {most} rounds: no time for another")
                break
            begin = clock.spent
            for case in cases:
                variants = [variant for named, variant in chosen if named == case]
                first = i % len(variants)
                for variant in variants[first:] + variants[:first]:
                    out_of_time = clock.left < 0 and (i > 0 or clock.end - clock.start < clock.spent)
                    if out_of_time or variant in self.failed.get(case, {}):
                        continue
                    if (found := self.turn(case, variant, seconds)) is not None:
                        times.setdefault(case, {}).setdefault(variant, []).append(found)
            longest = max(longest, clock.spent - begin)
            keep(times)

    def close(self) -> None:
        """End all processes."""
        for peer in self.peers.values():
            peer.close()


def fastest(times: dict[str, list[float]], wanted: Callable[[str], bool]) -> str | None:
    """The variant with the least median of those that are wanted.

    >>> fastest({"a": [2.0, 3.0], "b": [2.2, 2.3]}, lambda name: True)
    'b'
    """
    medians = {name: statistics.median(rounds) for name, rounds in times.items() if rounds and wanted(name)}
    return min(medians, key=medians.__getitem__, default=None)
