"""The command line: ``python -m bench``, and the commands behind it, see `COMMANDS`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import ensembles, kernels, report, search, watching
from bench.contestants import PEERS
from bench.plot import draw
from bench.run import Options, run
from bench.workloads import GROUPS

OUT = Path("runs") / "bench"


def say(line: str) -> None:
    """Progress, on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def names(kind: str, known: Sequence[str], extra: Sequence[str] = ()) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names that refuses unknown ones and lists the known."""

    def parse(text: str) -> tuple[str, ...]:
        given = tuple(name.strip() for name in text.split(",") if name.strip())
        if len(given) == 1 and given[0] in extra:
            return given
        unknown = [name for name in given if name not in known]
        alone = f", or one of {', '.join(extra)} alone" if extra else ""
        if unknown or not given:
            told = f"unknown {kind} {', '.join(map(repr, unknown))}" if unknown else f"no {kind} given"
            raise argparse.ArgumentTypeError(f"{told}; known: {', '.join(known)}{alone}")
        return given

    return parse


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The options of the suite; `kernels` and `report` are commands in front of it."""
    p = argparse.ArgumentParser(
        "python -m bench",
        description="Measure tinygrad_cr beside its peers, in turns. Also: 'kernels' checks and times every kernel; "
        "'watching', 'search' and 'ensembles' measure monitors, a search and ensembles; 'report RESULTS.json' writes "
        "docs/benchmarks.md. Each of these has a --help of its own.",
    )
    p.add_argument("--only", type=names("workload", GROUPS), default=GROUPS, help=f"some of {','.join(GROUPS)}")
    p.add_argument(
        "--peers", type=names("peer", PEERS, ("none", "all")), default=("all",), help=f"some of {','.join(PEERS)}; none"
    )
    p.add_argument("--rounds", type=positive, help="turns of everybody on each workload; 7, quick 1")
    p.add_argument("--quick", action="store_true", help="a few steps of everything: a test of the suite, not of speed")
    p.add_argument("--out", type=Path, default=OUT, help=f"folder for results.json, table.md and plot.png; {OUT}")
    return p


def write(file: Path, results: dict[str, Any]) -> None:
    """The results as a file that is always whole."""
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results))
    unfinished.replace(file)


def suite(arguments: Sequence[str]) -> None:
    """Run, write, print."""
    chosen = parser().parse_args(arguments)
    peers = {("all",): PEERS, ("none",): ()}.get(chosen.peers, chosen.peers)
    chosen.out.mkdir(parents=True, exist_ok=True)
    file = chosen.out / "results.json"
    results = run(Options.make(chosen.only, peers, chosen.quick, chosen.rounds), say, lambda r: write(file, r))
    picture = draw(results, chosen.out / "plot.png")
    text = report.markdown(results, picture.name if picture else None)
    (chosen.out / "table.md").write_text(text)
    print(text)


def kernel_suite(arguments: Sequence[str]) -> None:
    """Check and time the kernels; exit with 1 if one is wrong."""
    p = argparse.ArgumentParser(
        "python -m bench kernels", description="Check every kernel against reference, then time it."
    )
    p.add_argument("--quick", action="store_true", help="tiny arrays")
    p.add_argument("--out", type=Path, default=OUT, help=f"folder for kernels.json and kernels.md; {OUT}")
    chosen = p.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    records = kernels.measure(chosen.quick)
    text = kernels.markdown(records)
    (chosen.out / "kernels.json").write_text(json.dumps(records))
    (chosen.out / "kernels.md").write_text(text + "\n")
    print(text)
    if any(record["problem"] for record in records):
        raise SystemExit(1)


def write_report(arguments: Sequence[str]) -> None:
    """The page in docs/ from the results of a run."""
    p = argparse.ArgumentParser(
        "python -m bench report", description="Write docs/benchmarks.md from the results of a run."
    )
    p.add_argument("results", type=Path, help="results.json of a run")
    chosen = p.parse_args(arguments)
    if not chosen.results.is_file():
        p.error(f"there is no file {chosen.results}")
    for path in report.update_docs(json.loads(chosen.results.read_text())):
        say(f"wrote {os.path.relpath(path)}")


def printing(name: str, module: Any, rounds: int, few: int) -> Callable[[Sequence[str]], None]:
    """A command that measures for so many rounds (few of them if it is to be quick) and prints a table."""

    def measure(arguments: Sequence[str]) -> None:
        p = argparse.ArgumentParser(f"python -m bench {name}", description=module.__doc__)
        p.add_argument("--quick", action="store_true", help="little data and few epochs: a test, not of speed")
        p.add_argument("--rounds", type=positive, help=f"turns of everybody; {rounds}, quick {few}")
        chosen = p.parse_args(arguments)
        print(module.markdown(module.measure(chosen.rounds or (few if chosen.quick else rounds), chosen.quick)))

    return measure


COMMANDS = {
    "kernels": kernel_suite,
    "report": write_report,
    "watching": printing("watching", watching, 15, 3),
    "search": printing("search", search, 3, 1),
    "ensembles": printing("ensembles", ensembles, ensembles.SEEDS, 2),
}


def main() -> None:
    """Dispatch on the first word."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
    else:
        suite(arguments)


if __name__ == "__main__":
    main()
