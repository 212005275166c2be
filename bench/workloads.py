"""What is measured: the networks, the sweeps, and how they are grouped under the names of ``--only``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

DROPOUT = 0.5
MOMENTUM = 0.9
LEARNING_RATE = 0.01
LEARNING_RATES = (0.005, 0.01, 0.02)
"""The choice that every contestant has in the race to an accuracy; its best one counts."""
TARGET_ACCURACY = 0.88
VALIDATION_ROWS = 10_000
MEMBERS = 32

FASHION = "fashion-mnist"
RANDOM = "random"


@dataclass(frozen=True)
class Task:
    """One thing to time.

    Attributes:
        name: unique, e.g. "C", "width 64", "inference A 1".
        group: the name under which ``--only`` finds it.
        kind: "train" (seconds a step), "infer" (seconds a call) or "accuracy" (seconds until it is reached).
        sizes: widths from input to output.
        batch: rows a step or a call.
        rows: rows of the data set in memory.
        data: "random" (float32) or "fashion-mnist" (uint8, standardised on the fly).
        members: networks to train; who cannot train them together trains them one after another, so that a step of one
            is timed.
    """

    name: str
    group: str
    kind: str
    sizes: tuple[int, ...]
    batch: int
    rows: int
    data: str = RANDOM
    members: int = 1

    @property
    def steps(self) -> int:
        """Steps an epoch; the last may be smaller."""
        return -(-self.rows // self.batch)

    @property
    def work(self) -> int:
        """Multiply-adds of one step or call, for comparing neighbours of a sweep."""
        return self.batch * sum(a * b for a, b in pairwise(self.sizes))

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Task:
        """The task that `to_json` described."""
        return cls(**{**record, "sizes": tuple(record["sizes"])})


NETWORKS = {
    "A": Task("A", "A", "train", (64, 32, 10), 32, 1_408),
    "B": Task("B", "B", "train", (3072, 50, 10), 100, 5_000),
    "C": Task("C", "C", "train", (784, 256, 10), 128, 6_400),
    "D": Task("D", "D", "train", (784, 1024, 1024, 10), 256, 5_120),
}
WIDTHS = (16, 32, 64, 96, 128, 256, 512)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def _rows(batch: int, quick: bool) -> int:
    """A data set of whole batches: many enough that the shuffle is not what is measured."""
    return max(256 if quick else 2048, (2 if quick else 16) * batch)


def make_tasks(quick: bool) -> list[Task]:
    """Every task that is timed in turns; `quick` has fewer of them, some the same work, and smaller data sets."""
    tasks = [
        Task(t.name, t.group, t.kind, t.sizes, t.batch, 4 * t.batch if quick else t.rows) for t in NETWORKS.values()
    ]
    tasks += [
        Task(f"width {w}", "widths", "train", (784, w, 10), 128, _rows(128, quick))
        for w in (WIDTHS[::5] if quick else WIDTHS)
    ]
    tasks += [
        Task(f"batch {b}", "batches", "train", (784, 256, 10), b, _rows(b, quick))
        for b in (BATCHES[::7] if quick else BATCHES)
    ]
    c = NETWORKS["C"]
    tasks.append(Task("epoch", "epoch", "train", c.sizes, c.batch, 1_900 if quick else 60_000, FASHION))
    calls = [("A", 1), ("C", 10_000)] if quick else list(product(("A", "C"), (1, 10_000)))
    tasks += [Task(f"inference {n} {rows}", "inference", "infer", NETWORKS[n].sizes, rows, rows) for n, rows in calls]
    tasks += [
        Task(
            f"{MEMBERS} x {n}",
            "populations",
            "train",
            t.sizes,
            t.batch,
            4 * t.batch if quick else t.rows,
            members=MEMBERS,
        )
        for n, t in ((n, NETWORKS[n]) for n in ("A", "B"))
    ]
    tasks.append(Task("accuracy", "accuracy", "accuracy", c.sizes, c.batch, 5_000 if quick else 50_000, FASHION))
    return tasks


GROUPS = (
    *("A", "B", "C", "D", "widths", "batches", "epoch", "inference", "populations", "accuracy", "memory", "start"),
)
"""What ``--only`` knows; "memory" and "start" run processes of their own."""
