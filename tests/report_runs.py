"""Runs to make reports of: quick to train, and of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_cr import data, nn
from tinygrad_cr.data import Dataset
from tinygrad_cr.random import Generator
from tinygrad_cr.train import Callback, Event, Trainer

DIGITS = data.split(data.load("digits"), seed=0)
COMMAND = ["tinygrad-cr", "train", "--data", "digits", "--out", "my runs/first"]
OF_DIGITS = {"data": "digits", "label": None, "split_seed": 0, "command": COMMAND}

OVERFITTING = Event("warn", "overfitting", 2, 68, 0.0612, "the gap is 0.0612 in epoch 2: use more dropout")
SLOW = Event("note", "slow", 1, 34, 0.997, "the cost has barely changed in epoch 1")
EXPLOSION = Event("fail", "explosion", 2, 68, 3.5, "the cost is 3.5 x the original in epoch 2: try lr 0.001", stop=True)

CHECKS = {
    "format": 1,
    "ok": False,
    "suggested_lr": 0.01,
    "checks": [
        {"name": "labels", "status": "PASS", "measured": "0 to 9", "expected": "0 to 9", "advice": "", "values": {}},
        {
            "name": "initial loss",
            "status": "FAIL",
            "measured": "230.3",
            "expected": "2.303",
            "advice": "average the loss over the batch",
            "values": {"loss": 230.3},
        },
        {
            "name": "learning rate",
            "status": "PASS",
            "measured": "0.01",
            "expected": "between 0.0001 and 0.5",
            "advice": "",
            "values": {
                "rates": [1e-4, 1e-3, 1e-2, 1e-1, 1.0],
                "costs": [2.3, 2.1, 0.9, 0.5, None],
                "initial": 2.31,
                "low": 2e-4,
                "high": 0.5,
                "suggestion": 0.01,
            },
        },
    ],
}


class Says(Callback):
    """Tells these events at the end of their epochs."""

    def __init__(self, *events: Event) -> None:
        self.events = events

    def epoch(self, row: dict[str, Any]) -> list[Event]:
        return [event for event in self.events if event.epoch == row["epoch"]]


def run(folder: Path, *, model: nn.Module | None = None, parts: Any = None, **options: Any) -> Path:
    """A quick run on the digits."""
    train, validation = (DIGITS.train, DIGITS.validation) if parts is None else parts
    model = nn.MLP([64, 12, 10], dropout=0.2, generator=0) if model is None else model
    given = {"lr": 0.02, "epochs": 3, "generator": Generator(7, stream=1), "reporter": False, "config": OF_DIGITS}
    Trainer(model, out=folder, **given | {"monitors": False} | options).fit(train, validation)
    return folder


def table_parts() -> tuple[Dataset, Dataset]:
    """Three clouds of points: rows that are no images."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.standard_normal((60, 5)) + 2 * np.eye(3, 5)[y]
    return Dataset(x[:40], y[:40]), Dataset(x[40:], y[40:])


def copied(folder: Path, to: Path) -> Path:
    to.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and path.name != "report.html":
            (to / path.name).write_bytes(path.read_bytes())
    return to


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
"""What a name becomes if nobody escapes it."""


def evil_run(root: Path) -> Path:
    """A run in which every name and text is `EVIL`."""
    part = DIGITS.train
    named = Dataset(part.x, part.y, class_names=[f"{EVIL}{i}" for i in range(10)], image_shape=(8, 8))
    event = Event("warn", EVIL, 1, 36, 1.0, EVIL)
    config = {"data": EVIL, "split_seed": 0, "command": ["tinygrad-cr", EVIL], EVIL: {EVIL: [EVIL]}}
    checks = {"checks": [dict.fromkeys(("name", "status", "measured", "expected", "advice"), EVIL)]}
    # A folder's name holds no slash.
    name = EVIL.replace("/", "")
    folder = run(root / name, parts=(named, named), config=config, epochs=1, callbacks=[Says(event)])
    (folder / "preflight.json").write_text(json.dumps(checks))
    return folder
