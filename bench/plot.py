"""The picture: everybody's step beside ours, and the two sweeps with the limit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import summary
from bench.contestants import BY_NAME

STYLES = {
    "compiled": ("#D55E00", "o"),
    "eager": ("#E69F00", "s"),
    "pytorch": ("#0072B2", "^"),
    "torch-compile": ("#56B4E9", "v"),
    "jax": ("#009E73", "D"),
    "jax-scan": ("#000000", "x"),
    "sklearn": ("#CC79A7", "P"),
    "numpy": ("#7F7F7F", "*"),
}
"""Colours of Okabe and Ito, which colour-blind readers tell apart, each with a marker of its own."""

SWEEPS = (("widths", 1, "hidden units (784-n-10, batch 128)"), ("batches", None, "batch (784-256-10)"))


def draw(results: dict[str, Any], path: Path) -> Path | None:
    """Write the picture and return its path; None where there is nothing to draw or no matplotlib."""
    tasks = results["tasks"]
    if find_spec("matplotlib") is None or not tasks:
        return None
    from matplotlib.figure import Figure

    named = [name for name, r in tasks.items() if r["task"]["group"] not in ("widths", "batches") and summary.ours(r)]
    sweeps = [s for s in SWEEPS if any(r["task"]["group"] == s[0] for r in tasks.values())]
    if not named and not sweeps:
        return None
    rows: Any = [["compare"] * max(1, len(sweeps))] * bool(named) + [[group for group, *_ in sweeps]] * bool(sweeps)
    figure = Figure(figsize=(11, 4.3 * len(rows) + 0.5), layout="constrained", dpi=120)
    axes = figure.subplot_mosaic(rows)
    if named:
        _compare(axes["compare"], results, named)
    for sweep in sweeps:
        _sweep(axes[sweep[0]], results, *sweep)
    handles = {label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path)
    return path


def _compare(ax: Any, results: dict[str, Any], named: list[str]) -> None:
    """A line for each task, a mark for each contestant: its time over ours."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for name, (colour, marker) in STYLES.items():
        points = []
        for row, task in enumerate(named):
            record = results["tasks"][task]
            own = summary.ours(record)
            if own and name in record["rounds"]:
                points.append((summary.speedup(record, own, name).median, row))
        if points:
            ax.scatter(
                *zip(*points, strict=True), color=colour, marker=marker, s=46, label=BY_NAME[name].title, zorder=3
            )
    ax.axvline(1, color="#D55E00", linewidth=1)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(named)), named)
    ax.invert_yaxis()
    ax.set_xlabel("time, ours = 1 (right of the line: slower than we are)")
    ax.grid(axis="y", color="0.9")
    ax.grid(axis="x", color="0.93", which="both")
    ax.set_title("A step or a call, relative to ours")


def _sweep(ax: Any, results: dict[str, Any], group: str, layer: int | None, label: str) -> None:
    """Microseconds a step over the swept size, with the limit dashed."""
    records = [r for r in results["tasks"].values() if r["task"]["group"] == group]
    at = [r["task"]["batch"] if layer is None else r["task"]["sizes"][layer] for r in records]
    for name, (colour, marker) in STYLES.items():
        points = [(x, summary.step_time(r, name)) for x, r in zip(at, records, strict=True) if name in r["rounds"]]
        if points:
            x = [p[0] for p in points]
            middle, low, high = ([getattr(p[1], key) * 1e6 for p in points] for key in ("median", "low", "high"))
            ax.plot(x, middle, color=colour, marker=marker, markersize=5, label=BY_NAME[name].title)
            ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    bounds = [(x, r["limit"]["seconds"] * 1e6) for x, r in zip(at, records, strict=True) if "limit" in r]
    if bounds:
        ax.plot(*zip(*bounds, strict=True), color="0.35", linestyle="--", label="limit")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(at, [str(x) for x in at], minor=False)
    ax.tick_params(axis="x", labelrotation=45 if len(at) > 8 else 0)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.set_xlabel(label)
    ax.set_ylabel("microseconds a step")
    ax.grid(color="0.93", which="both")
    ax.set_title(f"Sweep of {group}")
