"""Markdown from results: the table, the bars, what is not faster, and the page in docs/."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import summary
from bench.bars import MIB, Bar, Measured, judged
from bench.contestants import BY_NAME
from bench.plot import draw
from bench.workers import ROOT
from bench.workloads import Task

DOCS = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CLIFF = 2.0
"""A step that grows by more than this beyond its work, from one point of a sweep to the next, counts as a cliff."""
DROP = 0.8
"""And so does one that takes this part of the time of a step with less work."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns after the first are right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def microseconds(spread: summary.Spread) -> str:
    """``12.3 (12.1-12.9)`` in microseconds."""
    digits = 0 if spread.low >= 1e-3 else 1
    middle, low, high = (f"{value * 1e6:,.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return f"{middle} ({low}-{high})"


def times(results: dict[str, Any]) -> str:
    """A row for each task, a column for each contestant."""
    names = list(results["contestants"])
    rows = []
    for task, record in results["tasks"].items():
        own = summary.ours(record)
        others = summary.peers(results, record)
        ratio = limit = "-"
        if own and others:
            ratio = f"{summary.speedup(record, own, others[0]).median:.2f}x {others[0]}"
        if own and (share := summary.limit_ratio(record, own)):
            limit = f"{record['limit']['seconds'] * 1e6:,.1f} ({share:.2f}x)"
        cells = [
            microseconds(summary.step_time(record, name))
            if name in record["rounds"]
            else ("failed" if name in record["failed"] else "-")
            for name in names
        ]
        rows.append([_label(Task.from_json(record["task"]), task), *cells, ratio, limit])
    header = ["", *[BY_NAME[n].title for n in names], "faster than the fastest peer", "limit (ours / limit)"]
    return table(header, rows)


def _label(task: Task, name: str) -> str:
    network = "-".join(map(str, task.sizes))
    return f"{name}: {network}, {'batch ' if task.kind == 'train' else 'rows '}{task.batch}"


def bars(results: dict[str, Any]) -> str:
    """The table of bars."""
    rows, unmeasured = [], []
    for bar, measured in judged(results):
        promise = f"{'at least' if bar.unit == 'x faster' else 'at most'} {bar.bound:g}{_unit(bar.unit)}"
        if measured is None:
            unmeasured.append(f"{bar.name} ({promise})")
        else:
            rows.append([bar.name, promise, *_verdict(bar, measured)])
    text = table(["bar", "promised", "measured", "against", "met"], rows) if rows else ""
    return text + (f"\n\nNot measured in this run: {'; '.join(unmeasured)}." if unmeasured else "")


def _unit(unit: str) -> str:
    return unit if unit.startswith("x") else f" {unit}"


def _verdict(bar: Bar, measured: Measured) -> tuple[str, str, str]:
    value = f"{measured.value:.2f}{_unit(bar.unit)}"
    short = max(measured.value / bar.bound, bar.bound / measured.value)
    return value, measured.against, "yes" if bar.met(measured) else f"no, by a factor of {short:.2f}"


def races(results: dict[str, Any]) -> str:
    """Time to the accuracy."""
    accuracy = results["accuracy"]
    if "skipped" in accuracy:
        return f"Not run: {accuracy['skipped']}."
    rows = []
    for name, runs in accuracy["runs"].items():
        reached = summary.race_seconds(accuracy, name)
        if reached:
            epochs = [len(run["curve"]) for run in runs if run["lr"] == accuracy["best_lr"][name] and run["reached"]]
            middle = summary.spread(reached)
            cells = [
                f"{middle.median:.2f} ({middle.low:.2f}-{middle.high:.2f})",
                f"{summary.spread(epochs).median:g}",
                f"{accuracy['best_lr'][name]:g}",
            ]
        else:
            best = max((point[1] for run in runs for point in run["curve"]), default=0.0)
            cells = [f"not reached ({best:.3f})", "-", "-"]
        rows.append([BY_NAME[name].title, *cells, BY_NAME[name].note])
    rates = ", ".join(f"{lr:g}" for lr in accuracy["learning_rates"])
    head = f"Seconds until a validation accuracy of {accuracy['target']}, best learning rate of {rates} for each:\n\n"
    return head + table(["", "seconds", "epochs", "learning rate", "note"], rows)


STARTS = ("import", "cold", "warm")


def starts(results: dict[str, Any]) -> str:
    """Import, cold start, warm start."""
    rows = []
    for name, row in results["start"].items():
        figures = [f"{summary.spread(row[key]).median:.2f}" if row.get(key) else "-" for key in STARTS]
        rows.append([BY_NAME[name].title if name in BY_NAME else "an empty Python program", *figures])
    note = "\n\ntinygrad_cr compiled: two steps, as the first replay, whose code is compiled apart, is the second."
    return table(["seconds", "import", "first step, cold", "first step, warm"], rows) + note


def memories(results: dict[str, Any]) -> str:
    """Peak memory of training D."""
    rows = []
    for name, row in results["memory"].items():
        figures = [f"{row[key] / MIB:,.0f}" if key in row else "failed" for key in ("imported_bytes", "peak_bytes")]
        rows.append([BY_NAME[name].title, *figures])
    return table(["MiB", "after import", "peak, training D"], rows)


def not_faster(results: dict[str, Any]) -> list[str]:
    """Everything measured in which somebody else is ahead of us; speed first, the worst first."""
    found: list[tuple[float, str]] = []
    for task, record in results["tasks"].items():
        own = summary.ours(record)
        for other in record["rounds"] if own else ():
            factor = summary.speedup(record, own or "", other).median
            if not BY_NAME[other].ours and factor < 1:
                found.append((factor, f"{task}: {BY_NAME[other].title} is {1 / factor:.2f}x faster"))
    lines = [line for _, line in sorted(found)]
    for what, costs in _costs(results).items():
        own = next((name for name in summary.OURS if name in costs), None)
        for name, cost in costs.items():
            if own and not BY_NAME[name].ours and BY_NAME[name].trains and cost < costs[own]:
                note = f" ({BY_NAME[name].note})" if BY_NAME[name].note else ""
                lines.append(f"{what}: {BY_NAME[name].title}{note} needs {cost / costs[own]:.2f} of ours")
    return lines


def _costs(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What else there is to compare, less being better: for each, the contestants' figures."""
    start, memory, accuracy = (results.get(key, {}) for key in ("start", "memory", "accuracy"))
    names = {"import": "import", "cold": "first step, cold", "warm": "first step, warm"}
    costs = {
        names[key]: {n: summary.spread(row[key]).median for n, row in start.items() if n in BY_NAME and row.get(key)}
        for key in STARTS
    }
    costs["peak memory"] = {n: row["peak_bytes"] for n, row in memory.items() if "peak_bytes" in row}
    costs["time to accuracy"] = {
        n: summary.spread(summary.race_seconds(accuracy, n)).median for n in accuracy.get("best_lr", {})
    }
    return costs


def cliffs(results: dict[str, Any]) -> list[str]:
    """Neighbours in a sweep between which our step grows much faster than its work, or shrinks while the work grows."""
    lines = []
    for group in ("widths", "batches"):
        points = [r for r in results["tasks"].values() if r["task"]["group"] == group and summary.ours(r)]
        for a, b in pairwise(points):
            growth = [summary.step_time(r, summary.ours(r) or "").median for r in (a, b)]
            work = [Task.from_json(r["task"]).work for r in (a, b)]
            excess = growth[1] / growth[0] / (work[1] / work[0])
            if growth[1] < DROP * growth[0]:
                names = a["task"]["name"], b["task"]["name"]
                lines.append(f"{names[0]} takes {growth[0] / growth[1]:.1f}x as long as {names[1]}, which is more work")
            if excess > CLIFF:
                lines.append(
                    f"from {a['task']['name']} to {b['task']['name']} the step grows {excess:.1f}x beyond its work"
                )
    return lines


def machine(results: dict[str, Any]) -> str:
    """The machine and the versions."""
    m = results["machine"]
    sizes = ", ".join(f"{name} {size >> 10:,} KiB" for name, size in m["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    load = results["load_average"]
    options = results["options"]
    lines = [
        f"- {m['cpu']}, {m['cores']} cores; {sizes} (of one core); {m['memory_bytes'] / 2**30:.0f} GiB; {m['system']}",
        f"- Python {m['python']}; engine: {m.get('engine', 'plain Python')}; {versions}; "
        f"commit {m['commit']}; {results['date']}",
        f"- {options['rounds']} rounds, {options['turn_seconds']} s a turn, {results['seconds'] / 60:.0f} minutes; "
        f"load average {min(load, default=0):.1f} to {max(load, default=0):.1f}",
    ]
    idle = results.get("idle_cpu_seconds", {})
    if idle:
        worst = max(idle.values())
        lines.append(f"- CPU time of a worker while others had their turns: at most {worst:.2f} s in the whole run")
    if options["quick"]:
        lines.append("- **A quick run: it shows that everything works; its figures mean nothing.**")
    if not results["fashion_mnist"]:
        lines.append("- Fashion-MNIST was not on this machine: random bytes of its size stand in for it.")
    lines += [f"- {BY_NAME[name].title}: skipped, {reason}" for name, reason in results["skipped"].items()]
    limit = results.get("limit", {"measured": [], "failed": {}})
    if limit["measured"]:
        lines.append(f"- The limit is the best of {'; '.join(limit['measured'])}")
    lines += [f"- The limit is without {name}, which failed: {reason}" for name, reason in limit["failed"].items()]
    failures = {
        f"- {BY_NAME[name].title} failed on {task}: {reason}"
        for task, record in results["tasks"].items()
        for name, reason in record["failed"].items()
    }
    return "\n".join(lines + sorted(failures))


def settings(results: dict[str, Any]) -> str:
    """Threads, notes, and the variant that each contestant was run with."""
    rows = []
    for name, entry in results["contestants"].items():
        chosen: dict[str, list[str]] = {}
        for task, record in results["tasks"].items():
            if name in record["variants"]:
                chosen.setdefault(record["variants"][name]["variant"], []).append(task)
        usual = max(chosen, key=lambda variant: len(chosen[variant]), default="")
        ways = "; ".join(f"{variant}: {', '.join(tasks)}" for variant, tasks in chosen.items() if variant != usual)
        ways = f"{usual}{f', but {ways}' if ways else ''}"
        rows.append([entry["title"], entry["threads"], entry["note"], ways])
    return table(["", "threads", "note", "fastest variant"], rows)


def ways(results: dict[str, Any]) -> str:
    """What each way of calling ours took when it was tried, before the rounds; empty where nothing was tried."""
    rows = []
    for task, record in results["tasks"].items():
        for name in (name for name in record["variants"] if results["contestants"][name]["ours"]):
            tried = record["variants"][name]["tuned"]
            if len(tried) > 1:
                times = "; ".join(f"{way}: {seconds * 1e6:,.1f}" for way, seconds in tried.items())
                rows.append([task, results["contestants"][name]["title"], times])
    return table(["", "ours", "microseconds a step or call"], rows) if rows else ""


def markdown(results: dict[str, Any], plot: str | None = None) -> str:
    """Everything, under headings of the second level."""
    parts = ["## Machine\n\n" + machine(results)]
    if results["tasks"]:
        text = "Microseconds a step (or call), median over rounds (least-most).\n\n" + times(results)
        parts.append("## Times\n\n" + (f"![The same as a picture]({plot})\n\n" if plot else "") + text)
    parts.append("## Bars\n\n" + bars(results))
    behind = not_faster(results)
    nothing = "Nothing in this run."
    parts.append("## What is not faster\n\n" + ("\n".join(f"- {line}" for line in behind) or nothing))
    steep = cliffs(results)
    if any(r["task"]["group"] in ("widths", "batches") for r in results["tasks"].values()):
        parts.append("## Cliffs in the sweeps\n\n" + ("\n".join(f"- {line}" for line in steep) or "None."))
    for key, heading, section in (
        ("accuracy", "Time to accuracy", races),
        ("memory", "Memory", memories),
        ("start", "Start", starts),
    ):
        if key in results:
            parts.append(f"## {heading}\n\n{section(results)}")
    tried = ways(results)
    if tried:
        text = "Tried for a moment before the rounds; the fastest took part in them."
        parts.append(f"## Ways of calling ours\n\n{text}\n\n{tried}")
    parts.append("## Settings\n\n" + settings(results))
    return "\n\n".join(parts) + "\n"


def update_docs(results: dict[str, Any], page: Path = DOCS) -> list[Path]:
    """Replace the measured part of the page; what people wrote around it stays. Returns the files written.

    Raises:
        ValueError: the page lacks the two marks.
    """
    picture = draw(results, page.with_suffix(".png"))
    text = page.read_text()
    marked = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    if not marked.search(text):
        raise ValueError(f"{page.name} has no lines {BEGIN} and {END}, between which the results go")
    body = markdown(results, picture.name if picture else None)
    page.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{body}\n{END}", text))
    return [page, picture] if picture else [page]
