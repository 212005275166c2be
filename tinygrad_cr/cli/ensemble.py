"""`tinygrad-cr ensemble`: what several networks, or one in several states, gain over a single one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
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
from tinygrad_cr.train.progress import LEVELS, Silent
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
    device: options.Device = "cpu",
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
    # The single model, all members as one population, the snapshots, and without dropout a network for the masks.
    shares = [1.0, float(members), 1.0] + ([1.0] if dropout == 0 else [])
    reporter = Whole(shares, sys.stderr if as_json else sys.stdout)
    try:
        found = comparison(
            parts.train,
            validation,
            test,
            generator=seed,
            reporter=reporter,
            monitors=False,
            device=device,
            **chosen,
            **how,
        )
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
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
        shares: of each run in all the work, in the order in which they are made.
        stream: where it goes.
    """

    interval = 10.0

    def __init__(self, shares: Sequence[float], stream: IO[str]) -> None:
        self.shares, self.total, self.stream = list(shares), sum(shares), stream
        self.before, self.share = 0.0, 0.0
        self.begin = self.said = time.monotonic()
        self.progress: Progress | None = None
        if stream.isatty():
            columns = (TextColumn("ensembles"), BarColumn(bar_width=None), TextColumn("{task.fields[left]}"))
            self.progress = Progress(*columns, console=Console(file=stream), transient=True)
            self.task: Any = self.progress.add_task("train", total=1.0, left="")
            self.progress.start()

    def start(self, epochs: int, steps_per_epoch: int) -> None:
        """The next run begins."""
        self.before += self.share
        self.share = self.shares.pop(0) if self.shares else 0.0

    def epoch(self, row: Row, epochs: int) -> None:
        """An epoch of the run ended."""
        done = min(1.0, (self.before + self.share * row["epoch"] / epochs) / self.total)
        if not done:
            return
        now = time.monotonic()
        left = f"about {time_text((now - self.begin) * (1 - done) / done)} left"
        if self.progress is not None:
            self.progress.update(self.task, completed=done, left=left)
        elif now - self.said >= self.interval and done < 1:
            self.said = now
            print(f"{done:.0%} done, {left}", file=self.stream, flush=True)

    def note(self, text: str) -> None:
        """Print what a callback saw; how the members stand after each epoch is left out."""
        if text.partition(":")[0] not in LEVELS.values():
            return
        if self.progress is not None:
            self.progress.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
