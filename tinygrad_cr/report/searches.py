"""The page on a hyperparameter search: the winner and how far to trust it, warnings, stages, trials, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinygrad_cr.errors import DataError, RunError
from tinygrad_cr.report.document import FRAME, LIMIT, TEXT, document, refuse_foreign, sections, write_page
from tinygrad_cr.report.figures import count, duration, finite, fraction, number
from tinygrad_cr.report.html import Markup, join, numbers, tag
from tinygrad_cr.report.search_pictures import Sides, pictures, range_in_words, value_in_words
from tinygrad_cr.report.sections import badge, command_line, figure_list, gallery, settings_table
from tinygrad_cr.report.settings import value_text
from tinygrad_cr.search.importance import COLUMNS, parameters
from tinygrad_cr.search.ledger import read_state
from tinygrad_cr.search.result import SearchResult, Stage, read
from tinygrad_cr.search.trial import Row, ranked, scored
from tinygrad_cr.train.run import REPORT

BEST = 20
"""So many of the best trials are listed."""

COMMAND = "command.json"
"""What the command line says about a search beside its ledger: the command, the data, the names of its classes."""


class Search(NamedTuple):
    """What a folder says about a search.

    Attributes:
        path: the folder.
        result: the trials, stages, warnings and the winner.
        settings: what decided them.
        command: what the command line wrote; empty for a search from a Python program.
    """

    path: Path
    result: SearchResult
    settings: dict[str, Any]
    command: dict[str, Any]

    @property
    def wanted(self) -> int:
        """How many trials all stages make."""
        return sum(int(trials) for trials, _ in self.settings["stages"])

    @property
    def finished(self) -> bool:
        """Whether all trials were made."""
        return len(self.result) >= self.wanted and len(self.result.stages) == len(self.settings["stages"])


def write_search_report(
    folder: Path | str, out: Path | str | None = None, *, against: Path | str | None = None
) -> Path:
    """Write the report on a search, finished or not; where it was written.

    Args:
        folder: that the search wrote (`out` of `random_search` and the others).
        out: the file; left out, report.html in that folder. A report that is there already is replaced, any other file
            is not.
        against: the folder of another search of the same parameters, which is drawn beside this one: a grid beside
            random search.

    Raises:
        RunError: a folder that holds no search, or a broken one, or a file that cannot be written.
        DataError: of the two searches, not exactly one is a grid.

    >>> write_search_report("none")
    Traceback (most recent call last):
    tinygrad_cr.errors.RunError: none is no search: it has no search.json; give the folder that a search wrote with out=
    """
    search = read_search(folder)
    other = None if against is None else opposite(against, grid=search.settings["grid"] is None)
    path = Path(out) if out is not None else search.path / REPORT
    refuse_foreign(path)
    return write_page(path, _page(search, other))


def read_search(folder: Path | str) -> Search:
    """Everything that a folder says about a search.

    Raises:
        RunError: it holds none, or a broken one.
    """
    path = Path(folder)
    settings = read_state(path)["settings"]
    result = read(path)
    try:
        command = json.loads((path / COMMAND).read_text()) if (path / COMMAND).exists() else {}
        if not isinstance(command, dict):
            raise ValueError(f"{command!r:.80} is no object")
    except (OSError, ValueError) as error:
        raise RunError(f"{path / COMMAND} is broken: {error}") from None
    for i, row in enumerate(result):
        if not row.keys() >= {"trial", "stage", "status", "val_accuracy", "val_loss"}:
            raise RunError(f"{path} does not hold a whole search: trial {i + 1} of its ledger lacks its figures")
    return Search(path, result, settings, command)


def opposite(folder: Path | str, *, grid: bool) -> Search:
    """The search that another one is compared with.

    Args:
        grid: whether it has to be a grid, as the other one is none.

    Raises:
        RunError: it is no search.
        DataError: it is of the same kind as the other one.
    """
    search = read_search(folder)
    if (search.settings["grid"] is not None) != grid:
        kinds = "grid search, and a random one is" if not grid else "random search, and a grid is"
        raise DataError(f"{folder} is a {kinds} wanted: a grid and a random search are compared")
    return search


def _page(search: Search, other: Search | None) -> str:
    room = LIMIT - FRAME - TEXT
    contents = {
        "Verdict": join(_verdict(search)),
        "Pictures": gallery(pictures(search.result, _sides(search, other)), room, 3),
        "Stages": _stages(search.result),
        "Best trials": _best(search.result),
        "Settings": _settings(search),
        "How to make it again": _again(search),
    }
    if not search.result.rows:
        del contents["Best trials"], contents["Pictures"]
    title = search.path.resolve().name
    return document(title, "search", _summary(search), join(sections(contents)))


def _summary(search: Search) -> str:
    kind = "grid search" if search.settings["grid"] is not None else "random search"
    if len(search.settings["stages"]) > 1:
        kind = "coarse-to-fine search"
    data = f" on {search.command['data']}" if search.command.get("data") else ""
    stages = ", ".join(f"{trials} × {epochs}" for trials, epochs in search.settings["stages"])
    return f"a {kind}{data}, trials × epochs: {stages}"


# The verdict


def verdict(search: Search) -> tuple[str, str]:
    """A level and a sentence or two: what was found, what it is worth, what is wrong."""
    result = search.result
    good = scored(result.rows)
    made = f"{len(result)} of {count(search.wanted, 'trial')}"
    if not result.rows:
        return "note", "No result yet: no trial has finished."
    if not good:
        return "fail", f"All {len(result)} trials diverged: no network came of them. Search lower learning rates."
    best = result.best
    where = f"{_point(best, result)} (stage {best['stage']}, trial {best['trial']})"
    worrying = f" {count(len(result.warnings), 'warning')}: see above." if result.warnings else ""
    if not search.finished:
        so_far = f"best validation accuracy so far {fraction(best['val_accuracy'])}, {where}"
        return (
            "warn" if worrying else "note",
            f"Unfinished, {made}: {so_far}. The same search goes on from here.{worrying}",
        )
    if result.winner is None:
        known = f"{made}, best validation accuracy {fraction(best['val_accuracy'])}, {where}"
        return "warn" if worrying else "note", f"{known}. The winner was not made again yet.{worrying}"
    text = f"The best of {count(len(good), 'trial')} has {where}. "
    if result.winner.test_accuracy is None:
        return "warn" if worrying else "note", (
            f"{text}Its validation accuracy of {fraction(best['val_accuracy'])} chose it, and is too high by an amount "
            f"that nobody knows without a test part.{worrying}"
        )
    text += f"Test accuracy {fraction(result.winner.test_accuracy)}; the validation accuracy that chose it is "
    return "warn" if worrying else "ok", f"{text}{fraction(best['val_accuracy'])}.{worrying}"


def _verdict(search: Search) -> Iterator[Markup | None]:
    level, sentence = verdict(search)
    result = search.result
    if result.warnings:
        # On top of everything: who reads no further shall have read this.
        items = [tag("li", _capital(str(warning)), ".") for warning in result.warnings]
        yield tag(
            "div",
            tag("p", badge("warn"), " ", tag("strong", "This result is worrying.")),
            tag("ul", *items),
            class_="verdict warn",
        )
    yield tag("p", badge(level), " ", sentence, class_=f"verdict {level}")
    if result.rows:
        yield figure_list(_figures(search))
    if result.winner is not None:
        yield tag("h3", "How far to trust the winner")
        yield tag("p", f"{_capital(result.winner.summary())}.")
        yield tag(
            "p",
            "Optimism is the validation accuracy minus the test accuracy. The best of many scores is the luckiest of "
            "them as well: the test part chose nothing, so believe its accuracy.",
        )


def _figures(search: Search) -> dict[str, str]:
    rows, winner = search.result.rows, search.result.winner
    good = scored(rows)
    entries: dict[str, str] = {}
    if winner is not None and winner.test_accuracy is not None:
        entries |= {"test accuracy": fraction(winner.test_accuracy)}
    if good:
        entries |= {"best validation accuracy": fraction(ranked(rows)[0]["val_accuracy"])}
    if winner is not None and winner.optimism is not None:
        entries |= {"optimism": fraction(winner.optimism)}
    lost = sum(row["status"] == "diverged" for row in rows)
    seconds = sum(row["seconds"] for row in rows if finite(row.get("seconds")))
    entries |= {"trials": f"{len(rows)} of {search.wanted}", "diverged": f"{lost}"}
    return entries | {"time of all trials": duration(seconds)}


# Tables


def _stages(result: SearchResult) -> Markup:
    names = list(dict.fromkeys(name for stage in result.stages for name in stage.space))
    head = ("Stage", "Trials", "Epochs", "Diverged", "Best", *names)
    body = [
        _stage_row(stage, [row for row in result if row["stage"] == stage.number], names) for stage in result.stages
    ]
    return numbers("The ranges that each stage searched, and the best validation accuracy in them", head, body)


def _stage_row(stage: Stage, rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    best = ranked(rows)[:1]
    lost = sum(row["status"] == "diverged" for row in rows)
    done = f"{len(rows)} of {stage.trials}" if len(rows) < stage.trials else f"{len(rows)}"
    score = fraction(best[0]["val_accuracy"]) if best else "–"
    ranges = [range_in_words(stage.space.get(name)) for name in names]
    return [f"{stage.number}", done, f"{stage.epochs}", f"{lost}", score, *ranges]


def _best(result: SearchResult) -> Markup:
    names = [name for name in dict.fromkeys(key for row in result for key in row) if name not in COLUMNS]
    varied = [name for name in names if name in parameters(result)]
    fixed = [name for name in names if name not in varied]
    head = ("Rank", "Stage", "Trial", "Validation accuracy", "Training accuracy", "Validation loss", "Epochs", *varied)
    best = ranked(result.rows)
    body = [
        [
            f"{rank}",
            f"{row['stage']}",
            f"{row['trial']}",
            tag("strong", fraction(row["val_accuracy"])) if rank == 1 else fraction(row["val_accuracy"]),
            fraction(row.get("accuracy")),
            number(row["val_loss"]),
            f"{row.get('epoch', '–')}" + (" (stopped)" if row["status"] == "stopped" else ""),
            *(value_in_words(row.get(name)) for name in varied),
        ]
        for rank, row in enumerate(best[:BEST], 1)
    ]
    if not body:
        return tag("p", "No trial has a score.")
    parts = [numbers(f"The best {len(body)} of {len(best)} trials with a score", head, body)]
    if fixed:
        row = best[0]
        parts.append(
            tag("p", "The same in all: " + ", ".join(f"{name} {value_in_words(row.get(name))}" for name in fixed) + ".")
        )
    return join(parts)


def _sides(search: Search, other: Search | None) -> Sides | None:
    if other is None:
        return None
    grid, random = (search, other) if search.settings["grid"] is not None else (other, search)
    return grid.result, random.result


def _settings(search: Search) -> Markup:
    flat = {key: value for key, value in search.settings.items() if key not in ("space", "grid", "stages", "data")}
    ranges = {name: range_in_words(dimension) for name, dimension in _space(search).items()}
    halving = flat.pop("halving", None)
    entries = {name.replace("_", " "): value_text(name, value) for name, value in flat.items()}
    if halving:
        entries["successive halving"] = (
            f"one in {halving['eta']} goes on, first after {count(halving['first'], 'epoch')}"
        )
    entries["trials × epochs"] = ", ".join(f"{trials} × {epochs}" for trials, epochs in search.settings["stages"])
    if search.settings["grid"] is not None:
        ranges = {name: ", ".join(map(value_in_words, values)) for name, values in search.settings["grid"]}
    return tag("div", settings_table("Space", ranges), settings_table("Search", entries), class_="settings")


def _space(search: Search) -> Mapping[str, Any]:
    return search.result.stages[0].space if search.result.stages else {}


def _again(search: Search) -> Markup:
    command = search.command.get("command")
    seed = search.settings.get("seed")
    if not isinstance(command, list) or not command:
        return tag("p", f"A Python program made this search: run it again with the settings above. Its seed is {seed}.")
    return join(
        [
            command_line(command),
            tag(
                "p",
                "With the same data and versions it makes the same trials, whatever the number of workers. In this "
                "folder it goes on where the search ended; choose another --out to make it anew.",
            ),
        ]
    )


def _point(row: Row, result: SearchResult) -> str:
    return (
        ", ".join(f"{name} {value_in_words(row[name])}" for name in result.space.free if name in row)
        or "fixed settings"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
