"""Several runs side by side: a table of results and of what differs in the configuration, and their curves in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tinygrad_cr.plots.canvas import COLOURS, LINE, MARKERS, columns, list_below, plain, say
from tinygrad_cr.plots.curves import LABELS, MARKS
from tinygrad_cr.plots.timeline import Timeline
from tinygrad_cr.report import alternatives
from tinygrad_cr.report.drawing import Picture
from tinygrad_cr.report.figures import count, duration, figures, fraction, number
from tinygrad_cr.report.html import Markup, join, scroll, tag
from tinygrad_cr.report.pictures import thinned
from tinygrad_cr.report.settings import differing, settings
from tinygrad_cr.report.verdict import LEVELS, verdict
from tinygrad_cr.train import History, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALWAYS = ("learning rate", "regularisation", "dropout", "sizes", "seed")
"""What people look for first, whether it differs or not."""

CUT = 3
"""Losses above so many times the highest first one are cut off: a run that exploded shall not flatten the others."""


def sentence(records: Mapping[str, Record]) -> str:
    """Which run is best, and what became of the others."""
    seen = {name: figures(record.history) for name, record in records.items()}
    validated = {name: each.best_accuracy for name, each in seen.items() if each.best_accuracy is not None}
    levels = [verdict(record).level for record in records.values()]
    parts = []
    if validated:
        best = max(validated, key=lambda name: validated[name] or 0.0)
        same = [name for name in validated if validated[name] == validated[best]]
        also = f", as does {same[1]}" if len(same) == 2 else f", as do {len(same) - 1} others" if len(same) > 2 else ""
        parts.append(
            f"{best} has the best validation accuracy, {fraction(validated[best])} in epoch {seen[best].best_epoch}{also}."
        )
    else:
        parts.append("No run has a validation accuracy, so nothing says which is best on new data.")
    for level, what in (("fail", "failed"), ("warn", "with warnings")):
        if level in levels:
            parts.append(f"{count(levels.count(level), 'run')} {what}.")
    return " ".join(parts)


def table(records: Mapping[str, Record], anchors: Mapping[str, str]) -> Markup:
    """A column for each run; rows in which the configurations differ are marked, and so is the best accuracy."""
    seen = {name: figures(record.history) for name, record in records.items()}
    verdicts = [verdict(record) for record in records.values()]
    top = max((each.best_accuracy for each in seen.values() if each.best_accuracy is not None), default=None)
    results: dict[str, list[Markup | str]] = {
        "verdict": [tag("span", LEVELS[each.level], class_=f"level {each.level}") for each in verdicts],
        "best validation accuracy": [
            tag("strong", f"{fraction(each.best_accuracy)} (best)")
            if top is not None and each.best_accuracy == top
            else fraction(each.best_accuracy)
            for each in seen.values()
        ],
        "in epoch": [f"{each.best_epoch or '–'} of {each.epochs}" for each in seen.values()],
        "final loss": [number(each.loss) for each in seen.values()],
        "gap at the end": [fraction(each.gap) for each in seen.values()],
        "time": [duration(each.seconds) for each in seen.values()],
    }
    configs = [record.config for record in records.values()]
    flat = [{k: v for group in settings(config).values() for k, v in group.items()} for config in configs]
    different = differing(configs)
    chosen = {name: [entries.get(name, "–") for entries in flat] for name in ALWAYS} | different
    columns = tag("tr", tag("th", "run", scope="col"), *(_heading(name, anchors[name]) for name in records))
    body = [_row(name, cells) for name, cells in results.items()]
    body += [_row(name, cells, name in different) for name, cells in chosen.items()]
    same = tag("caption", f"{len(records)} runs. Marked with ≠: the configurations differ in it. All other settings are the same.")
    return scroll("Comparison of the runs", tag("table", same, tag("thead", columns), tag("tbody", *body), class_="runs"))


def overlays(records: Mapping[str, Record]) -> list[Picture]:
    """Loss and accuracy of all runs."""
    histories = {name: record.history for name, record in records.items()}
    drawn = {name: thinned(history) for name, history in histories.items()}
    below = LINE * (1 + len(records) // 2)
    return [
        Picture(
            f"{key} of all runs",
            partial(overlay, drawn, key),
            alternatives.overlay(histories, key),
            f"{key.capitalize()} of all runs: validation as lines with marks, training thin and dotted.{more}",
            height=3.8 + below,
        )
        for key, more in (("loss", f" Losses above {CUT} times the highest first one are cut off."), ("accuracy", ""))
    ]


def overlay(histories: Mapping[str, History], key: str, ax: Axes) -> Axes:
    """The curves of several runs in one picture: validation where there is one, and training thin and dotted."""
    handles, firsts, values, ends = [], [], [], []
    for i, history in enumerate(histories.values()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        timeline = Timeline(history)
        training, validation = timeline.series(key), timeline.series(f"val_{key}")
        x, y = validation if validation[0] else training
        every = max(1, len(x) // MARKS)
        handles += ax.plot(x, y, color=colour, marker=marker, markersize=4, markevery=every, linewidth=1.4, zorder=3)
        if validation[0]:
            ax.plot(*training, ":", color=colour, linewidth=1.0, zorder=2)
        values += y + (training[1] if validation[0] else [])
        firsts += y[:1]
        ends += x
    list_below(ax, handles, [plain(name, 28 if columns(ax) == 2 else 50) for name in histories])
    ax.set_ylabel(LABELS[key])
    ax.set_xlabel("epoch")
    ax.grid(axis="y", color="0.9", zorder=0)
    if not values:
        say(ax, f"no {key} was recorded")
    elif key == "loss" and max(values) > CUT * max(firsts):
        ax.set_ylim(0, CUT * max(firsts))
    if ends and min(ends) < max(ends):
        margin = 0.04 * (max(ends) - min(ends))
        ax.set_xlim(min(ends) - margin, max(ends) + margin)
    return ax


def _heading(name: str, anchor: str) -> Markup:
    return tag("th", tag("a", name, href=f"#{anchor}"), scope="col")


def _row(name: str, cells: Iterable[Markup | str], differs: bool = False) -> Markup:
    """A row of the table; one that differs says so in a sign and in words, not in colour alone."""
    sign = join([tag("span", "≠ ", aria_hidden="true"), tag("span", "differs: ", class_="hidden")]) if differs else None
    return tag(
        "tr",
        tag("th", sign, name, scope="row"),
        *(tag("td", cell) for cell in cells),
        class_="differs" if differs else None,
    )


def names(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell them apart.

    >>> names(["runs/a", "runs/b"]), names(["x/one/run", "x/two/run"])
    (['a', 'b'], ['one/run', 'two/run'])
    """
    parts = [[part for part in path.split("/") if part] or [path] for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        ends = ["/".join(each[-length:]) for each in parts]
        if len(set(ends)) == len(ends):
            return ends
    return list(paths)
