"""The page on ensembles: what each way to get more out of a network gains and costs, on data that chose nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_cr import plots
from tinygrad_cr.data import Dataset
from tinygrad_cr.ensemble import Comparison
from tinygrad_cr.errors import DataError, RunError
from tinygrad_cr.plots.sizes import LABELS
from tinygrad_cr.report.document import FRAME, LIMIT, TEXT, document, refuse_foreign, sections, write_page
from tinygrad_cr.report.drawing import Omission, Picture
from tinygrad_cr.report.figures import count, duration, fraction, number
from tinygrad_cr.report.html import Markup, join, numbers, tag
from tinygrad_cr.report.sections import badge, command_line, figure_list, gallery, settings_table
from tinygrad_cr.report.settings import value_text
from tinygrad_cr.train.run import REPORT, write_atomically

COMPARISON = "comparison.json"
FORMAT = 1

SINGLE, INDEPENDENT, SNAPSHOTS = "single model", "independent ensemble", "snapshot ensemble"
"""Methods whose calibration is drawn, and whose members are counted."""

SIZES, CALIBRATION = "Members", "Calibration"
"""The headings that pictures stand under."""

Row = dict[str, Any]


def save_comparison(
    folder: Path | str, found: Comparison, test: Dataset, config: Mapping[str, Any] | None = None
) -> Path:
    """Write down a comparison, so that a report can be made of it; where.

    Besides the table this is what ensembles of 1, 2, 3 ... of the members come to, and the bins of their calibration.

    Args:
        folder: is made if it is not there.
        found: what `ensemble.comparison` gave.
        test: the data that it was measured on.
        config: settings to stand on the page, as JSON can hold them; "command" is the command line.

    Raises:
        DataError: the test part has no labels.
        RunError: it cannot be written.
    """
    if test.y is None:
        raise DataError("a comparison wants a labelled test part")
    sizes, bins = {}, {}
    for method in (SINGLE, INDEPENDENT, SNAPSHOTS):
        if method not in found.ensembles:
            continue
        answers = found.ensembles[method].member_proba(test.x)
        bins[method] = list(found.ensembles[method].calibration(test))
        if len(answers) > 1:
            sizes[method] = plots.subset_rows(answers, test.y)
    content = {
        "format": FORMAT,
        "rows": list(found),
        "sizes": sizes,
        "calibration": bins,
        "test_rows": len(test),
        "config": dict(config or {}),
    }
    path = Path(folder) / COMPARISON
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, default=_plain) + "\n").encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None
    return path


def write_ensemble_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report on a comparison; where it was written.

    Args:
        folder: that `save_comparison` wrote to.
        out: the file; left out, report.html in that folder. A report that is there already is replaced, any other file
            is not.

    Raises:
        RunError: a folder that holds no comparison, or a broken one, or a file that cannot be written.

    >>> write_ensemble_report("none")
    Traceback (most recent call last):
    tinygrad_cr.errors.RunError: none holds no comparison of ensembles: it has no comparison.json
    """
    content = read_comparison(folder)
    path = Path(out) if out is not None else Path(folder) / REPORT
    refuse_foreign(path)
    return write_page(path, _page(Path(folder), content))


def read_comparison(folder: Path | str) -> dict[str, Any]:
    """What `save_comparison` wrote.

    Raises:
        RunError: nothing, something of another version, or a broken file.
    """
    path = Path(folder) / COMPARISON
    if not path.exists():
        raise RunError(f"{folder} holds no comparison of ensembles: it has no {COMPARISON}")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise RunError(f"{path} has format {content['format']}, this version reads {FORMAT}")
        wanted = {"method", "members", "accuracy", "log_loss", "ece", "relative_time", "seconds"}
        if not content["rows"] or not all(row.keys() >= wanted for row in content["rows"]):
            raise ValueError(f"each of its rows wants {', '.join(sorted(wanted))}")
        content["sizes"], content["calibration"], content["config"], content["test_rows"]
    except RunError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is broken: {error!r}") from None
    return content


def _page(folder: Path, content: dict[str, Any]) -> str:
    rows: list[Row] = content["rows"]
    config = content["config"]
    on = f" on {config['data']}" if config.get("data") else ""
    parts = {
        "Verdict": _verdict(rows),
        "Comparison": _table(rows, content["test_rows"]),
        "Pictures": gallery(_pictures(content), LIMIT - FRAME - TEXT, 3),
        "Settings": _settings(config),
    }
    if isinstance(config.get("command"), list):
        parts["How to make it again"] = command_line(config["command"])
    title, summary = folder.resolve().name, f"{count(len(rows), 'method')}{on}, {content['test_rows']:,} test rows"
    return document(title, "ensemble", summary, join(sections(parts)))


def sentence(rows: Sequence[Row]) -> str:
    """Which method is best, and what it gains over a single model.

    >>> row = {"method": "single model", "accuracy": 0.8, "log_loss": 0.6, "relative_time": 1.0}
    >>> sentence([row, row | {"method": "snapshot ensemble", "accuracy": 0.82, "log_loss": 0.5}])[:65]
    'The snapshot ensemble has the lowest log-loss, 0.5 nats against 0'
    """
    single = next((row for row in rows if row["method"] == SINGLE), rows[0])
    best = min(rows, key=lambda row: float(row["log_loss"]))
    if best is single:
        return f"Nothing has a lower log-loss than the single model: {number(single['log_loss'])} nats."
    return (
        f"The {best['method']} has the lowest log-loss, {number(best['log_loss'])} nats against "
        f"{number(single['log_loss'])}, with accuracy {fraction(best['accuracy'])} against "
        f"{fraction(single['accuracy'])}, for {number(best['relative_time'], 2)} times the training time."
    )


def _verdict(rows: Sequence[Row]) -> Markup:
    single = next((row for row in rows if row["method"] == SINGLE), rows[0])
    best = min(rows, key=lambda row: float(row["log_loss"]))
    level = "note" if best is single else "ok"
    entries = {
        "accuracy of one": fraction(single["accuracy"]),
        "best accuracy": fraction(max(row["accuracy"] for row in rows)),
        "log-loss of one": number(single["log_loss"]),
        "lowest log-loss": number(best["log_loss"]),
        "training time of all": duration(_training_time(rows)),
    }
    return join([tag("p", badge(level), " ", sentence(rows), class_=f"verdict {level}"), figure_list(entries)])


def _training_time(rows: Sequence[Row]) -> float:
    """Of the runs that were made: the best single model is one of the independent ones, and others share a run too."""
    return float(sum({float(row["seconds"]) for row in rows}))


def _table(rows: Sequence[Row], tested: int) -> Markup:
    top = {"accuracy": max(row["accuracy"] for row in rows)}
    top |= {key: min(row[key] for row in rows) for key in ("log_loss", "ece")}

    def cell(row: Row, key: str) -> Markup | str:
        text = fraction(row[key])
        return tag("strong", text) if row[key] == top[key] else text

    body = [
        (
            row["method"],
            f"{row['members']}",
            *(cell(row, key) for key in ("accuracy", "log_loss", "ece")),
            f"{row['relative_time']:.2f}",
            duration(row["seconds"]),
        )
        for row in rows
    ]
    head = ("Method", "Members", "Accuracy", "Log-loss (nats)", "ECE", "Time (single = 1)", "Training time")
    caption = f"On {tested:,} test rows; the best of each column stands out"
    error = max((row["accuracy"] * (1 - row["accuracy"]) / tested) ** 0.5 for row in rows)
    explanation = (
        f"An accuracy on {tested:,} rows is measured to about ± {number(error, 2)}; methods share the rows, so their "
        "differences are surer than that. ECE is the expected calibration error over 15 bins. Members of MC dropout "
        "are masked passes of one network."
    )
    return join([numbers(caption, head, body), tag("p", explanation, class_="summary")])


def _settings(config: Mapping[str, Any]) -> Markup:
    left_out = ("command", "class_names")
    entries = {key.replace("_", " "): value_text(key, value) for key, value in config.items() if key not in left_out}
    if not entries:
        return tag("p", "No settings were recorded.")
    return tag("div", settings_table("Networks and training", entries), class_="settings")


def _pictures(content: Mapping[str, Any]) -> Iterator[Picture | Omission]:
    for method, rows in content["sizes"].items():
        for key in ("accuracy", "log_loss"):
            name = "log-loss" if key == "log_loss" else key
            yield Picture(
                SIZES,
                f"{name} of the {method} by size",
                partial(_draw_sizes, rows, key),
                sizes_text(rows, key, method),
                f"{name.capitalize()} of ensembles of so many members of the {method}, on the test part. Where the "
                "line is flat, more members only cost time.",
                height=4.2,
            )
    if not content["sizes"]:
        yield Omission("accuracy against ensemble size", "no ensemble has more than one member")
    bins = {name: each for name, each in content["calibration"].items() if any(row["count"] for row in each)}
    if bins:
        yield Picture(
            CALIBRATION,
            "reliability diagram",
            partial(_draw_reliability, bins),
            reliability_text(bins),
            "How often each is right, over how sure it was. Below the diagonal it is too sure of itself, above not "
            "sure enough; bins of fewer than 5 rows are hollow.",
            height=4.4,
        )


def sizes_text(rows: Sequence[Row], key: str, method: str) -> str:
    """What the line over sizes shows, in words.

    >>> rows = [{"members": 1, "accuracy": 0.8}, {"members": 1, "accuracy": 0.7}, {"members": 2, "accuracy": 0.8}]
    >>> sizes_text(rows, "accuracy", "snapshot ensemble")
    'Mean accuracy (fraction right) of the snapshot ensemble: with 1 member 0.7500, with 2 members 0.8000.'
    """
    sizes = sorted({row["members"] for row in rows})
    means = [float(np.mean([row[key] for row in rows if row["members"] == size])) for size in sizes]
    parts = [f"with {count(size, 'member')} {fraction(mean)}" for size, mean in zip(sizes, means, strict=True)]
    return f"Mean {LABELS[key]} of the {method}: {', '.join(parts)}."


def reliability_text(bins: Mapping[str, Sequence[Row]]) -> str:
    """What the reliability diagram shows, in words."""
    parts = []
    for name, rows in bins.items():
        filled = [row for row in rows if row["count"]]
        total = sum(row["count"] for row in filled)
        sure = sum(row["count"] * row["confidence"] for row in filled) / total
        right = sum(row["count"] * row["accuracy"] for row in filled) / total
        parts.append(f"{name}: on average {fraction(sure)} sure and {fraction(right)} right")
    return f"{'; '.join(parts)}."


def _draw_sizes(rows: Sequence[Row], key: str, ax: Any) -> Any:
    return plots.ensemble_sizes(rows, key, ax=ax)


def _draw_reliability(bins: Mapping[str, Sequence[Row]], ax: Any) -> Any:
    return plots.reliability(bins, ax=ax)


def _plain(value: Any) -> Any:
    """Numbers of NumPy as JSON has them."""
    return value.item() if hasattr(value, "item") else str(value)
