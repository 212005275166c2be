"""`tinygrad-cr search`: many small networks, the best of them, and a page that says how far to trust it."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tinygrad_cr import search as searching
from tinygrad_cr.cli import options
from tinygrad_cr.cli.ranges import space_of, stages_of
from tinygrad_cr.data import Split
from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn.init import INITS
from tinygrad_cr.optim import OPTIMIZERS
from tinygrad_cr.report import write_search_report
from tinygrad_cr.report.searches import COMMAND, opposite
from tinygrad_cr.search import SearchResult
from tinygrad_cr.search.process_pool import process_pool
from tinygrad_cr.search.progress import Bar, Lines, trial_line
from tinygrad_cr.train.run import next_run_path, write_atomically

BEST = 5
"""So many trials are named at the end."""

RANGE = "A value, a range, or several values by giving the option again."

Texts = list[str]


def search(
    context: typer.Context,
    data: options.Data = "digits",
    label: options.LabelColumn = None,
    hidden: Annotated[
        Texts, typer.Option(help="Widths of the hidden layers, e.g. 50 or 256,128; 10:100 for one layer. Repeatable.")
    ] = ["50"],  # noqa: B006 - typer copies it
    lr: Annotated[Texts, typer.Option(help=f"Learning rate, log range. {RANGE}")] = ["1e-4:1"],  # noqa: B006
    reg: Annotated[Texts, typer.Option(help=f"Regularisation, log range. {RANGE}")] = ["1e-6:1"],  # noqa: B006
    momentum: Annotated[Texts, typer.Option(help=f"Momentum of SGD. {RANGE}")] = ["0.9"],  # noqa: B006
    lr_decay: Annotated[Texts, typer.Option(help=f"Factor on the learning rate per epoch. {RANGE}")] = ["0.9"],  # noqa: B006
    dropout: Annotated[Texts, typer.Option(help=f"Probability of dropping a unit. {RANGE}")] = ["0"],  # noqa: B006
    batch_size: Annotated[Texts, typer.Option(help=f"Rows in a minibatch. {RANGE}")] = ["100"],  # noqa: B006
    optimizer: Annotated[Texts, typer.Option(help=f"{options.one_of(OPTIMIZERS)}. Repeatable.")] = ["sgd"],  # noqa: B006
    init: Annotated[Texts, typer.Option(help=f"{', '.join(INITS)}, or a standard deviation. Repeatable.")] = ["he"],  # noqa: B006
    trials: Annotated[int, typer.Option(help="How many networks.")] = 100,
    epochs: Annotated[int, typer.Option(help="How long each is trained.")] = 5,
    stages: Annotated[
        str | None,
        typer.Option(
            help="Coarse to fine: trials x epochs of each stage, e.g. 100x5,100x5; in place of the two above."
        ),
    ] = None,
    grid: Annotated[
        int | None, typer.Option(help="A grid, with so many values of each range; in place of --trials.")
    ] = None,
    halving: Annotated[bool, typer.Option("--halving", help="Give up the worse trials early.")] = False,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better validation accuracy that end a trial (default: any).")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Train the winner from so many other seeds, too.")] = 0,
    workers: Annotated[
        int, typer.Option(help="Processes that train; 1 for this one alone. Any number finds the same.")
    ] = 1,
    standardize: options.Standardize = "per-feature",
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder, new or of the same search, which then goes on (default: runs/DATA-search-1, ...)."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Folder of another search, drawn beside this one: random beside --grid.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")
    ] = False,
) -> None:
    """Search hyperparameters: each trial, a warning if the best lie at an edge, and the winner's test accuracy."""
    _refuse_both(context)
    given = {"lr": lr, "reg": reg, "momentum": momentum, "dropout": dropout, "lr_decay": lr_decay}
    given |= {"batch_size": batch_size, "hidden": hidden, "optimizer": optimizer, "init": init}
    space = space_of(given)
    plan = stages_of(stages) if stages is not None else [(trials, epochs)]
    if workers < 1:
        raise OptionError(f"--workers must be at least 1, got {workers}")
    if against is not None:
        # Said now, not after hours.
        opposite(against, grid=grid is None)
    parts = options.load_split(data, label, seed)
    validation, test = options.judges(parts, data)
    folder = out or next_run_path(Path("runs"), f"{Path(data).stem}-search")
    stream = sys.stderr if as_json else sys.stdout
    common: dict[str, Any] = {
        "test": test,
        "seed": seed,
        "halving": halving,
        "patience": patience,
        "repeats": repeats,
        "standardize": standardize,
        "device": device,
        "out": folder,
        # Written as soon as the folder is this search's: what is killed can be looked at, and no other's is replaced.
        "reporter": (Bar if stream.isatty() else Lines)(
            stream, begun=partial(_write_command, folder, parts, data, label, seed)
        ),
    }
    with ExitStack() as stack:
        common["executor"] = stack.enter_context(process_pool(workers)) if workers > 1 else None
        try:
            if grid is not None:
                result = searching.grid_search(parts.train, validation, space, points=grid, epochs=epochs, **common)
            else:
                result = searching.coarse_to_fine(parts.train, validation, space, stages=plan, **common)
        except KeyboardInterrupt:
            _interrupted(folder, out)
            raise typer.Exit(130) from None
    page = write_search_report(folder, against=against) if report else None
    if as_json:
        print(json.dumps(_figures(result, folder) | {"report": None if page is None else str(page)}, allow_nan=False))
        return
    _conclude(result)
    print(f"saved in {folder}" + (f", report: {page}" if page else ""))


def _refuse_both(context: typer.Context) -> None:
    """Options that say the same in two ways must agree, so only one of them is taken."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    said = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    for first, others in {"stages": {"trials", "epochs", "grid"}, "grid": {"trials"}}.items():
        if first in said and others & said:
            flags = " and ".join(f"--{name}" for name in sorted(others & said))
            raise OptionError(f"--{first} says it already: leave {flags} out")


def _interrupted(folder: Path, out: Path | None) -> None:
    how = "the same command goes on" if out else f"the same command with --out {folder} goes on"
    print(f"\ninterrupted; what has finished is kept, and {how}", file=sys.stderr)


def _write_command(folder: Path, parts: Split, data: str, label: str | None, seed: int) -> None:
    content = {
        "command": ["tinygrad-cr", *sys.argv[1:]],
        "data": data,
        "label": None if label is None else options.column(label),
        "split_seed": seed,
        "class_names": list(parts.train.class_names),
    }
    write_atomically(folder / COMMAND, (json.dumps(content, indent=2) + "\n").encode())


def _conclude(result: SearchResult) -> None:
    """What a person should have seen at the end, wherever it was said before."""
    print(f"the best {min(BEST, len(result))} trials:")
    for row in result.top(BEST):
        stage = f"stage {row['stage']}: " if len(result.stages) > 1 else ""
        print(f"  {stage}{trial_line(row, result.space)}")
    for warning in result.warnings:
        print(f"warning: {warning}")


def _figures(result: SearchResult, folder: Path) -> dict[str, Any]:
    """What a script wants to know of a search."""
    winner = None if result.winner is None else result.winner.to_dict()
    return {
        "search": str(folder),
        "trials": len(result),
        "best": result.best,
        "winner": winner,
        "warnings": result.warnings,
        "stages": [vars(stage) | {"space": stage.space.to_dict()} for stage in result.stages],
    }
