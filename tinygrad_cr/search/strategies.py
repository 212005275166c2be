"""The searches that people call: random, on a grid, from coarse to fine; and how to go on with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from tinygrad_cr.data import Dataset, Standardizer, load
from tinygrad_cr.device import find_backend
from tinygrad_cr.errors import RunError, unknown_name
from tinygrad_cr.options import integer
from tinygrad_cr.search.explore import Explorer
from tinygrad_cr.search.halving import Halving, as_halving
from tinygrad_cr.search.ledger import Ledger, read_state
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.progress import SearchReporter, as_reporter
from tinygrad_cr.search.result import SearchResult
from tinygrad_cr.search.sampling import grid_points, grid_values
from tinygrad_cr.search.sharing import SharedData
from tinygrad_cr.search.spaces import Space
from tinygrad_cr.search.training import Material, check_parts, run_group
from tinygrad_cr.search.winner import load_winner, make_winner, save_winner
from tinygrad_cr.train.checkpoint import digest

Part = Dataset | tuple[Any, Any]


def random_search(
    train: Part,
    validation: Part,
    space: Mapping[str, Any],
    *,
    test: Part | None = None,
    trials: int = 100,
    epochs: int = 5,
    seed: int = 0,
    halving: Halving | int | bool | None = None,
    patience: int | None = None,
    repeats: int = 0,
    standardize: str = "per-feature",
    dtype: str = "float32",
    device: str = "cpu",
    group_size: int | None = None,
    out: Path | str | None = None,
    executor: Executor | None = None,
    reporter: SearchReporter | bool = True,
) -> SearchResult:
    """Train networks at random points of a space (Bergstra and Bengio 2012).

    Which trials are made, and what becomes of each, depends on the seed alone: not on executor, workers, groups or
    interruptions.

    Args:
        train, validation: a `Dataset`, or a pair of arrays (x, y).
        space: a range, a `Choice` or a value for each of some hyperparameters, see `Space`.
        test: data that tells how good the winner is; it chooses nothing.
        trials, epochs: how many, and how long each is trained.
        halving: give up the worse ones early, see `Halving`; an integer is its eta, True the usual one.
        patience: so many epochs in a row without a better validation accuracy end a trial; None for never.
        repeats: train the winner's settings from so many other seeds, too.
        standardize, dtype: as of `Trainer` and `MLP`.
        device: where trials are trained, see `Trainer`; a search may go on on another device. The winner is on the CPU.
        group_size: most trials that are trained together, and that a crash can lose: left out, 32, and 16 on an
            executor. Wide networks make smaller ones.
        out: folder for the ledger; one that holds the same search already goes on where that ended.
        executor: any `concurrent.futures.Executor` to train groups on; None for this process.
        reporter: who is told; True for lines on standard output, with a bar on a terminal, False for silence.

    Raises:
        OptionError: an unknown name, or a value out of its range.
        DataError, ShapeError: parts that do not fit each other, or have no labels.
        DivergenceError: all trials diverged.
        DeviceError: a device that this machine does not have.
        RunError: `out` holds another search or other files, or is in use.

    >>> from tinygrad_cr.data import load, split
    >>> from tinygrad_cr.search.spaces import LogUniform
    >>> parts = split(load("digits"), seed=0)
    >>> space = {"lr": LogUniform(1e-3, 1e-1), "reg": LogUniform(1e-6, 1e-2), "hidden": 20}
    >>> result = random_search(*parts[:2], space, test=parts.test, trials=3, epochs=2, reporter=False)
    >>> len(result), result.winner.test_accuracy > 0.8
    (3, True)
    """
    plan = Plan(Space(space), ((trials, epochs),), seed, halving=as_halving(halving))
    return _search(
        plan,
        (train, validation, test),
        _options(patience, dtype, standardize, repeats),
        device=device,
        group_size=group_size,
        out=out,
        executor=executor,
        reporter=reporter,
    )


def grid_search(
    train: Part,
    validation: Part,
    space: Mapping[str, Any],
    *,
    points: int | Mapping[str, int | Sequence[Any]] = 5,
    test: Part | None = None,
    epochs: int = 5,
    seed: int = 0,
    halving: Halving | int | bool | None = None,
    patience: int | None = None,
    repeats: int = 0,
    standardize: str = "per-feature",
    dtype: str = "float32",
    device: str = "cpu",
    group_size: int | None = None,
    out: Path | str | None = None,
    executor: Executor | None = None,
    reporter: SearchReporter | bool = True,
) -> SearchResult:
    """Train networks at all points of a grid; the other arguments and errors are those of `random_search`.

    Of a parameter that does not matter, random search tries as many values of the others as it has trials, a grid only
    as many as it has points for each.

    Args:
        points: how many for each range, evenly spaced (in the logarithm for `LogUniform`) with both ends; or, by name,
            how many or which ones. A `Choice` has all its values.

    >>> from tinygrad_cr.data import load, split
    >>> from tinygrad_cr.search.spaces import LogUniform
    >>> parts = split(load("digits"), seed=0)
    >>> space = {"lr": LogUniform(1e-3, 1e-1), "hidden": 20}
    >>> result = grid_search(parts.train, parts.validation, space, points=2, epochs=1, reporter=False)
    >>> [row["lr"] for row in result]
    [0.001, 0.1]
    """
    checked = Space(space)
    grid = grid_values(checked, points)
    plan = Plan(checked, ((len(grid_points(grid)), epochs),), seed, grid, as_halving(halving))
    return _search(
        plan,
        (train, validation, test),
        _options(patience, dtype, standardize, repeats),
        device=device,
        group_size=group_size,
        out=out,
        executor=executor,
        reporter=reporter,
    )


def coarse_to_fine(
    train: Part,
    validation: Part,
    space: Mapping[str, Any],
    *,
    stages: Sequence[tuple[int, int]] = ((100, 5), (100, 5)),
    test: Part | None = None,
    seed: int = 0,
    halving: Halving | int | bool | None = None,
    patience: int | None = None,
    repeats: int = 0,
    standardize: str = "per-feature",
    dtype: str = "float32",
    device: str = "cpu",
    group_size: int | None = None,
    out: Path | str | None = None,
    executor: Executor | None = None,
    reporter: SearchReporter | bool = True,
) -> SearchResult:
    """Random search in stages, each in ranges around the best trials of the one before, which are shown first.

    The other arguments and errors are those of `random_search`.

    Args:
        stages: (trials, epochs) of each.

    >>> from tinygrad_cr.data import load, split
    >>> from tinygrad_cr.search.spaces import LogUniform
    >>> parts = split(load("digits"), seed=0)
    >>> space = {"lr": LogUniform(1e-5, 1e-1), "hidden": 20}
    >>> result = coarse_to_fine(parts.train, parts.validation, space, stages=[(8, 1), (4, 1)], reporter=False)
    >>> result.stages[1].space["lr"].low > 1e-5
    True
    """
    plan = Plan(Space(space), stages, seed, halving=as_halving(halving))
    return _search(
        plan,
        (train, validation, test),
        _options(patience, dtype, standardize, repeats),
        device=device,
        group_size=group_size,
        out=out,
        executor=executor,
        reporter=reporter,
    )


def resume(
    out: Path | str,
    train: Part,
    validation: Part,
    *,
    test: Part | None = None,
    device: str = "cpu",
    group_size: int | None = None,
    executor: Executor | None = None,
    reporter: SearchReporter | bool = True,
) -> SearchResult:
    """Go on with the search in a folder, whose settings it holds; the data has to be the same.

    Raises:
        RunError: no search there, one with other data, or one in use.

    >>> from tinygrad_cr.data import load, split
    >>> parts = split(load("digits"), seed=0)
    >>> options = {"trials": 2, "epochs": 1, "reporter": False}
    >>> first = random_search(*parts[:2], {"hidden": 10}, out="go-on-later", **options)
    >>> resume("go-on-later", *parts[:2], reporter=False).rows == first.rows
    True
    """
    settings = read_state(Path(out))["settings"]
    try:
        plan = Plan.from_settings(settings)
        options = {key: settings[key] for key in ("patience", "dtype", "standardize", "repeats")}
    except (LookupError, TypeError) as error:
        raise RunError(f"{out} does not hold the settings of a search: {error!r}") from None
    return _search(
        plan,
        (train, validation, test),
        options,
        device=device,
        group_size=group_size,
        out=out,
        executor=executor,
        reporter=reporter,
    )


def _options(patience: int | None, dtype: str, standardize: str, repeats: int) -> dict[str, Any]:
    """How every trial is trained, and the winner repeated."""
    if dtype not in ("float32", "float64"):
        raise unknown_name("dtype", dtype, ("float32", "float64"))
    return {
        "patience": None if patience is None else integer("patience", patience, least=1),
        "dtype": dtype,
        "standardize": Standardizer(standardize).mode,
        "repeats": integer("repeats", repeats),
    }


def _search(
    plan: Plan,
    parts: tuple[Part, Part, Part | None],
    options: dict[str, Any],
    *,
    device: str,
    group_size: int | None,
    out: Path | str | None,
    executor: Executor | None,
    reporter: SearchReporter | bool,
) -> SearchResult:
    """Make the trials of a plan, and the winner."""
    if group_size is not None:
        integer("group_size", group_size, least=1)
    find_backend(device)
    train, validation, test = load(parts[0]), load(parts[1]), None if parts[2] is None else load(parts[2])
    check_parts(train, validation, test)
    material = Material(
        train,
        validation,
        Standardizer(options["standardize"]).fit(train.x),
        options["patience"],
        options["dtype"],
        device,
    )
    named = {"train": train, "validation": validation, "test": test}
    data = {} if out is None else {name: None if part is None else digest(part) for name, part in named.items()}
    teller = as_reporter(reporter)
    with Ledger(out, plan.settings() | options | {"data": data}) as ledger:
        explorer = Explorer(
            plan,
            partial(run_group, material=SharedData(material)),
            ledger,
            ends=material.ends,
            group_size=group_size,
            executor=executor,
            reporter=teller,
        )
        try:
            result = explorer.explore()
            winner = load_winner(Path(out), ledger.state["winner"]) if out is not None else None
            if winner is None:
                winner = make_winner(result.rows, material, test, seed=plan.seed, repeats=options["repeats"])
                if winner is not None:
                    save_winner(ledger, winner)
            if winner is not None:
                teller.note(f"winner: {winner.summary()}")
        finally:
            teller.stop()
    result.winner = winner
    return result
