"""`tinygrad-cr ensemble`: what several networks, or one in several states, gain over a single one."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tinygrad_cr.cli import options
from tinygrad_cr.ensemble import comparison
from tinygrad_cr.errors import RunTakenError
from tinygrad_cr.report import save_comparison, write_ensemble_report
from tinygrad_cr.search.progress import time_text
from tinygrad_cr.train.history import Row
from tinygrad_cr.train.progress import Silent
from tinygrad_cr.train.run import next_run_path

ENSEMBLE, SNAPSHOTS, AVERAGE = "ensemble.safetensors", "snapshots.safetensors", "average.safetensors"
FILES = {"independent ensemble": ENSEMBLE, "snapshot ensemble": SNAPSHOTS, "weight average": AVERAGE}
"""What is saved of each method."""


def ensemble(
    data: options.Data = "digits",
    label: options.LabelColumn = None,
    hidden: options.Hidden = "200",
    members: Annotated[int, typer.Option(help="Independent networks.")] = 5,
    snapshots: Annotated[int, typer.Option(help="Cycles of the snapshot ensemble; --epochs is a multiple of it.")] = 5,
    samples: Annotated[int, typer.Option(help="Masked passes of MC dropout.")] = 50,
    snapshot_lr: Annotated[
        float | None, typer.Option(help="Learning rate at the start of each cycle (default: that of the others).")
    ] = None,
    mask_rate: Annotated[
        float, typer.Option(help="Dropout of the network for MC dropout, where --dropout is 0.")
    ] = 0.2,
    dropout: options.Dropout = 0.0,
    dropout_mode: options.DropoutMode = "inverted",
    epochs: options.Epochs = 20,
    batch_size: options.BatchSize = 32,
    lr: options.LearningRate = 0.01,
    momentum: options.Momentum = 0.9,
    lr_decay: options.LearningRateDecay = 0.95,
    reg: options.Regularization = 0.0,
    optimizer: options.OptimizerName = "sgd",
    init: options.Init = "he",
    standardize: options.Standardize = "per-feature",
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder, new or empty (default: runs/DATA-ensemble-1, -2, ...).")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")
    ] = False,
) -> None:
    """Train independent, snapshot, MC-dropout and averaged networks; print what each gains and costs; save them."""
    folder = out or next_run_path(Path("runs"), f"{Path(data).stem}-ensemble")
    if folder.exists() and any(folder.iterdir()):
        raise RunTakenError(f"{folder} already holds files; nothing was written, choose a new folder")
    parts = options.load_split(data, label, seed)
    validation, test = options.judges(parts, data)
    how = options.how_to_train(optimizer, lr, momentum, reg, batch_size, standardize)
    how |= {
        "lr_decay": lr_decay,
        "dropout": dropout,
        "dropout_mode": dropout_mode,
        "init": options.number_or_name(init),
    }
    chosen: dict[str, Any] = {"members": members, "cycles": snapshots, "samples": samples, "epochs": epochs}
    chosen |= {"snapshot_lr": snapshot_lr, "mask_rate": mask_rate, "hidden": options.widths(hidden)}
    # The single model, each member, the snapshots, and without dropout one more network for the masks.
    runs = 2 + members + (dropout == 0)
    reporter = Whole(runs * epochs, sys.stderr if as_json else sys.stdout)
    try:
        found = comparison(
            parts.train,
            validation,
            test,
            generator=seed,
            reporter=reporter,
            monitors=False,
            **chosen,
            **how,
        )
    finally:
        reporter.end()
    config = {"data": data, "label": label, "seed": seed, **chosen, **how, "command": ["tinygrad-cr", *sys.argv[1:]]}
    save_comparison(folder, found, test, config)
    saved = {}
    for method, name in FILES.items():
        found.ensembles[method].save(folder / name)
        saved[method] = str(folder / name)
    page = write_ensemble_report(folder) if report else None
    if as_json:
        figures = {"rows": list(found), "folder": str(folder), "saved": saved}
        print(json.dumps(figures | {"report": None if page is None else str(page)}, allow_nan=False))
        return
    print(found)
    print(f"saved in {folder}: {', '.join(FILES.values())}" + (f"; report: {page}" if page else ""))


class Whole(Silent):
    """One bar, or a line every 10 seconds, over all runs of a comparison.

    Args:
        epochs: of all runs together.
        stream: where it goes.
    """

    interval = 10.0

    def __init__(self, epochs: int, stream: IO[str]) -> None:
        self.epochs, self.done, self.stream = epochs, 0, stream
        self.begin = self.said = time.monotonic()
        self.progress: Progress | None = None
        if stream.isatty():
            columns = (TextColumn("ensembles"), BarColumn(bar_width=None), TextColumn("{task.fields[left]}"))
            self.progress = Progress(*columns, console=Console(file=stream), transient=True)
            self.task: Any = self.progress.add_task("train", total=epochs, left="")
            self.progress.start()

    def epoch(self, row: Row, epochs: int) -> None:
        """One more epoch, of whichever run."""
        self.done = min(self.done + 1, self.epochs)
        now = time.monotonic()
        left = f"about {time_text((now - self.begin) * (self.epochs - self.done) / self.done)} left"
        if self.progress is not None:
            self.progress.update(self.task, completed=self.done, left=left)
        elif now - self.said >= self.interval:
            self.said = now
            print(f"{self.done / self.epochs:.0%} done, {left}", file=self.stream, flush=True)

    def note(self, text: str) -> None:
        """Print it."""
        if self.progress is not None:
            self.progress.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
