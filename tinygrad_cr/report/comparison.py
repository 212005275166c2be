"""Several runs side by side: a table of results and differing settings, and their curves in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tinygrad_cr.plots.canvas import COLOURS, LINE, MARKERS, list_below, name_axes, plain, say
from tinygrad_cr.plots.curves import LABELS, MARKS
from tinygrad_cr.plots.timeline import Timeline
from tinygrad_cr.report import alternatives
from tinygrad_cr.report.drawing import CURVES, Picture
from tinygrad_cr.report.figures import count, duration, figures, fraction, listed, number
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
    parts = ["No run has a validation accuracy, so nothing says which is best on new data."]
    if validated:
        top = max(validated.values())
        best, *others = [name for name, accuracy in validated.items() if accuracy == top]
        also = f", as {'does' if len(others) == 1 else 'do'} {listed(others)}" if others else ""
        parts = [f"{best} has the best validation accuracy, {fraction(top)} in epoch {seen[best].best_epoch}{also}."]
    trained_on = {record.config.get("data_digest") for record in records.values()}
    if len(trained_on) > 1:
        parts.append("The runs were not trained on the same rows, so their accuracies compare only roughly.")
    for level, what in (("fail", "failed"), ("warn", "ended with warnings")):
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
        "in epoch": [f"{each.best_epoch} of {each.epochs}" if each.best_epoch else "–" for each in seen.values()],
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
    caption = tag("caption", tag("span", "Results and settings of the runs", class_="hidden"))
    whole = tag("table", caption, tag("thead", columns), tag("tbody", *body), class_="runs")
    explanation = "Rows marked with ≠ are settings that differ; settings that are not shown are the same."
    return join([tag("p", explanation, class_="summary"), scroll("Comparison of the runs", whole)])


def overlays(records: Mapping[str, Record]) -> list[Picture]:
    """Loss and accuracy of all runs."""
    histories = {name: record.history for name, record in records.items()}
    drawn = {name: thinned(history) for name, history in histories.items()}
    found = []
    for key in ("loss", "accuracy"):
        losses = [Timeline(history).series(key)[1] for history in drawn.values()] if key == "loss" else []
        top = highest(losses)
        cut = f" Losses above {number(top)}, {CUT} times the highest first one, are cut off." if top is not None else ""
        found.append(
            Picture(
                CURVES,
                f"{key} of all runs",
                partial(overlay, drawn, key, top),
                alternatives.overlay(histories, key),
                f"{key.capitalize()} of all runs: validation with marks, training thin and dotted.{cut}",
                height=3.8 + LINE * (1 + len(records) // 2),
            )
        )
    return found


def highest(losses: Sequence[Sequence[float]]) -> float | None:
    """Where the vertical axis is to end so that a run that exploded does not flatten the others; None for no limit.

    >>> highest([[2.0, 0.5], [2.5, 900.0]]), highest([[2.0, 0.5], []])
    (7.5, None)
    """
    known = [each for each in losses if each]
    top = CUT * max((each[0] for each in known), default=0.0)
    return top if known and max(map(max, known)) > top else None


def overlay(histories: Mapping[str, History], key: str, top: float | None, ax: Axes) -> Axes:
    """The curves of several runs in one picture: validation where there is one, and training thin and dotted."""
    handles, ends = [], []
    for i, history in enumerate(histories.values()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        timeline = Timeline(history)
        training, validation = timeline.series(key), timeline.series(f"val_{key}")
        x, y = validation if validation[0] else training
        every = max(1, len(x) // MARKS)
        handles += ax.plot(x, y, color=colour, marker=marker, markersize=4, markevery=every, linewidth=1.4, zorder=3)
        if validation[0]:
            ax.plot(*training, ":", color=colour, linewidth=1.0, zorder=2)
        ends += x + training[0]
    name_axes(ax, "epoch", LABELS[key])
    list_below(ax, handles, [plain(name, 40) for name in histories])
    ax.grid(axis="y", color="0.9", zorder=0)
    if not ends:
        say(ax, f"no {key} was recorded")
        return ax
    if top is not None:
        ax.set_ylim(0, top)
    margin = 0.04 * (max(ends) - min(ends)) or 0.5
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
