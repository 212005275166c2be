"""The tables of a run, from its results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.gpu_suite.bars import is_ours, rates, share, verdicts
from bench.gpu_suite.field import fastest
from bench.gpu_suite.workloads import BY_NAME, SOLO, TOGETHER

WIDTH = 118
MIB = 1 << 20


def show(results: dict[str, Any], console: Console) -> None:
    """Print everything that there is."""
    for line in header(results):
        console.print(line, markup=False, highlight=False)
    for table in (networks(results), populations(results), kernels(results), memory(results), bars(results)):
        if table.row_count:
            console.print(table)
    for line in problems(results):
        console.print(line, markup=False, highlight=False)


def header(results: dict[str, Any]) -> Iterator[str]:
    """The machine, and the tests."""
    machine = results["machine"]
    if results["dry_run"]:
        yield "A DRY RUN on the CPU in tiny sizes: it shows that the script works. Its figures mean nothing."
    gpu, cuda = machine.get("gpu", {}), machine.get("cuda", {})
    if gpu:
        yield (
            f"{gpu.get('name')}, {gpu.get('memory')}, driver {gpu.get('driver')} for CUDA {cuda.get('driver')}, "
            f"CuPy for CUDA {cuda.get('runtime')}, clock {gpu.get('clock')} of {gpu.get('most_clock')}, "
            f"memory {gpu.get('memory_clock')}"
        )
        if busy := results.get("gpu_under_load"):
            yield f"under load: clock {busy.get('clock')}, {busy.get('temperature')} C, limit {busy.get('power_limit')}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if _told(name))
    yield f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}; {versions}"
    yield f"commit {machine['commit']}, {results['date']}, {results['seconds']:.0f} s"
    tests = results.get("tests")
    if tests:
        whole = "" if tests["complete"] else ", NOT COMPLETE: time ran out"
        told = f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped{whole}"
        yield f"parity and gradient tests: {told}"
        yield from (f"  FAILED {failure}" for failure in tests["failures"])
        if not tests["passed"]:
            yield f"  no test passed; the end of pytest's output:\n{tests['output'][-1500:]}"


def _told(name: str) -> bool:
    return name in ("tinygrad_cr", "numpy", "numba", "torch", "jax", "jaxlib") or name.startswith("cupy")


def networks(results: dict[str, Any]) -> Table:
    """Microseconds a step: a row for each way, a column for each network."""
    cases = results.get("networks", {})
    table = Table(title="us a step: median (least-most) over rounds", title_justify="left")
    table.add_column("")
    for case in cases:
        table.add_column(results["titles"][case], justify="right")
    for variant in SOLO if cases else ():
        cells = []
        for case, times in cases.items():
            rounds = times.get(variant.name)
            ahead = fastest(times, lambda name: not is_ours(name)) == variant.name
            cells.append(_spread(rounds, ahead) if rounds else _gone(results, case, variant))
        table.add_row(variant.title, *cells)
    return table


def _gone(results: dict[str, Any], case: str, variant: Any) -> str:
    return "failed" if variant.name in results["failed"].get(case, {}) else "-"


def _spread(rounds: list[float], fastest_peer: bool = False) -> str:
    """In microseconds; the fastest peer has an asterisk."""
    middle, low, high = (value * 1e6 for value in (statistics.median(rounds), min(rounds), max(rounds)))
    digits = 0 if middle >= 1000 else 1
    return f"{middle:,.{digits}f}{'*' if fastest_peer else ''} ({low:,.{digits}f}-{high:,.{digits}f})"


def populations(results: dict[str, Any]) -> Table:
    """Members times steps a second."""
    table = Table(title="members x steps a second, B", title_justify="left")
    table.add_column("members")
    cases = results.get("populations", {})
    alone = [name for case in cases.values() for name in case if name not in {v.name for v in TOGETHER}]
    shown = [*TOGETHER, *(BY_NAME[name] for name in dict.fromkeys(alone))]
    for variant in shown:
        sequential = variant not in TOGETHER
        table.add_column(variant.title + (", one after another" if sequential else ""), justify="right")
    members = results.get("members", {})
    for case in sorted(cases, key=lambda name: members[name]):
        found = rates(results, case, members[case])
        cells = [f"{found[v.name]:,.0f}" if v.name in found else _gone(results, case, v) for v in shown]
        table.add_row(str(members[case]), *cells)
    return table


def kernels(results: dict[str, Any]) -> Table:
    """GB/s of each kernel, and the share of what a copy reaches."""
    found = results.get("kernels", {})
    copy = found.get("copy", {}).get("rate", 0.0)
    table = Table(title=f"kernels, 64 MiB arrays; a copy moves {copy / 1e9:,.0f} GB/s", title_justify="left")
    for name in ("kernel", "us", "GB/s", "of the copy", "launches"):
        table.add_column(name, justify="left" if name == "kernel" else "right")
    for name, record in found.get("records", {}).items():
        if record.get("problem"):
            table.add_row(name, f"[bold]{record['problem']}[/bold]", "", "", "")
            continue
        alone = record.get("alone")
        seconds = statistics.median(alone or record["whole"])
        part = share(results, name)
        rate = f"{record['moved'] / seconds / 1e9:,.0f}"
        launches = str(record["launches"]) if alone else "array library"
        table.add_row(name, f"{seconds * 1e6:,.1f}", rate, f"{part:.0%}" if part else "-", launches)
    return table


def memory(results: dict[str, Any]) -> Table:
    """MiB in use at most while a network trains."""
    table = Table(title="peak memory of training, MiB", title_justify="left")
    for name in ("", "network", "given out at most", "taken from the device, after start"):
        table.add_column(name, justify="left" if name in ("", "network") else "right")
    for case, found in results.get("memory", {}).items():
        for variant, record in found.items():
            cells = [f"{record[key] / MIB:,.0f}" if key in record else "failed" for key in ("in_use", "device")]
            table.add_row(BY_NAME[variant].title, case, *cells)
    return table


def bars(results: dict[str, Any]) -> Table:
    """What was promised, and whether it is met."""
    table = Table(title="bars", title_justify="left")
    for name in ("bar", "promised", "measured", "against", ""):
        table.add_column(name, justify="right" if name in ("promised", "measured") else "left")
    for bar in verdicts(results):
        measured = "-" if bar.measured is None else f"{bar.measured:.2f}"
        outcome = "means nothing" if results["dry_run"] and bar.measured is not None else bar.outcome
        table.add_row(bar.name, f"at least {bar.bound:g} {bar.unit}", measured, bar.against, outcome)
    return table


def problems(results: dict[str, Any]) -> Iterator[str]:
    """Everything that did not work, by name."""
    for process, why in results.get("absent", {}).items():
        yield f"{process} does not take part: {why}"
    for case, failed in results.get("failed", {}).items():
        for variant, why in failed.items():
            if BY_NAME[variant].process not in results.get("absent", {}):
                yield f"{case}, {BY_NAME[variant].title}: {why}"
    for case, found in results.get("memory", {}).items():
        yield from (f"memory, {case}, {v}: {r['failed']}" for v, r in found.items() if "failed" in r)
    for phase, trace in results.get("tracebacks", {}).items():
        yield f"the phase {phase!r} broke off:\n{trace}"
