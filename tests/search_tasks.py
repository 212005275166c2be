"""Tasks for tests of executors: what they do has to be importable in worker processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tinygrad_cr
from tinygrad_cr import data, nn, train
from tinygrad_cr.search import SharedData


@dataclass(frozen=True)
class Task:
    """A number to work with."""

    key: int


def tasks(count: int) -> list[Task]:
    return [Task(i) for i in range(count)]


def square(task: Task) -> list[dict[str, Any]]:
    return [{"square": task.key**2}]


class Diary:
    """A folder in which every task leaves a line when it begins: who, and in which process."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)

    def begin(self, task: Task) -> int:
        """How often the task has begun, this time included."""
        with (self.folder / str(task.key)).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return len(self.begun(task.key))

    def begun(self, key: int) -> list[int]:
        """The processes in which a task began."""
        path = self.folder / str(key)
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def noted(folder: Path | str, seconds: float, task: Task) -> list[dict[str, Any]]:
    """The square, after a while."""
    Diary(folder).begin(task)
    time.sleep(seconds)
    return square(task)


def killed(folder: Path | str, victim: int, times: int, task: Task) -> list[dict[str, Any]]:
    """The square, but the victim kills the process that it runs in the first so many times."""
    if Diary(folder).begin(task) <= times and task.key == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return square(task)


def stuck(folder: Path | str, victim: int, task: Task) -> list[dict[str, Any]]:
    """The square, but the victim does not come to an end the first time: somebody has to kill its process."""
    if Diary(folder).begin(task) == 1 and task.key == victim:
        time.sleep(600)
    time.sleep(0.02)
    return square(task)


class Awkward(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def failing(task: Task) -> list[dict[str, Any]]:
    if task.key == 2:
        raise tinygrad_cr.errors.DataError("nothing to learn from")
    return square(task)


def failing_awkwardly(task: Task) -> list[dict[str, Any]]:
    raise Awkward(1, task.key)


def leaving(task: Task) -> list[dict[str, Any]]:
    raise SystemExit(3)


def trained(shared: SharedData[tuple[data.Dataset, data.Dataset]], task: Task) -> list[dict[str, Any]]:
    """A small network, with dropout, whose streams are those of the task; the numbers have all their digits."""
    part, validation = shared.value
    model = nn.MLP([64, 16, 10], dropout=0.2, generator=tinygrad_cr.Generator(0, stream=task.key))
    generator = tinygrad_cr.Generator(1, stream=task.key)
    trainer = train.Trainer(model, lr=0.05, epochs=1, generator=generator, reporter=False)
    return [
        {"loss": row["loss"], "val_accuracy": row["val_accuracy"], "val_loss": row["val_loss"]}
        for row in trainer.fit(part, validation)
    ]


def threads(task: Task) -> list[dict[str, Any]]:
    return [{"threads": tinygrad_cr.get_num_threads(), "process": os.getpid()}]


def digits() -> SharedData[tuple[data.Dataset, data.Dataset]]:
    parts = data.split(data.load("digits"), seed=0)
    assert parts.validation is not None
    return SharedData((parts.train, parts.validation))


def training() -> Any:
    return partial(trained, digits())


def by_key(results: Any) -> dict[int, list[dict[str, Any]]]:
    """Results in the order of tasks; none may come twice."""
    found: dict[int, list[dict[str, Any]]] = {}
    for task, rows in results:
        assert task.key not in found, f"task {task.key} came twice"
        found[task.key] = rows
    return dict(sorted(found.items()))
