"""The page: what stands on it in which order, and the file that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from tinygrad_cr.errors import OptionError, RunError
from tinygrad_cr.plots.ridges import KEYS
from tinygrad_cr.report import comparison, sections
from tinygrad_cr.report.document import FRAME, LIMIT, TEXT, document, refuse_foreign, write_page
from tinygrad_cr.report.document import sections as sections_of
from tinygrad_cr.report.html import Markup, join, tag
from tinygrad_cr.report.network import from_network
from tinygrad_cr.report.pictures import from_records
from tinygrad_cr.report.population import best_member
from tinygrad_cr.report.verdict import LEVELS, verdict
from tinygrad_cr.train import Record, read_run
from tinygrad_cr.train.run import REPORT


def write_report(runs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the report on a run, or on several side by side; where it was written.

    Of a population, it shows the member with the best validation accuracy.

    Args:
        runs: run folders. One that is given twice counts once.
        out: the file. Left out, that is report.html in the folder of the run; of several runs, in the current folder.
            A report that is there already is replaced, any other file is not.

    Raises:
        OptionError: no run.
        RunError: a folder that is no run, a broken or foreign one, or a file that cannot be written. Nothing was
            written then.

    >>> write_report(["no-such-run"])
    Traceback (most recent call last):
    tinygrad_cr.errors.RunError: no-such-run is no run folder: it has no config.json; give the folder that train wrote
    """
    records = _read(runs)
    path = Path(out) if out is not None else (records[0].path if len(records) == 1 else Path()) / REPORT
    refuse_foreign(path)
    return write_page(path, _page(records))


def render(runs: Sequence[Path | str]) -> str:
    """The report on runs as HTML; see `write_report`.

    Raises:
        OptionError, RunError: as `write_report`.
    """
    return _page(_read(runs))


def _read(runs: Sequence[Path | str]) -> list[Record]:
    if isinstance(runs, str | Path) or not runs:
        raise OptionError(f"report wants a list of run folders, at least one; got {runs!r}")
    folders = {Path(run).resolve(): Path(run) for run in reversed(runs)}
    records = [read_run(folder) for folder in reversed(folders.values())]
    for record in records:
        for name, rows, wanted in (("history", record.history, {"epoch"}), ("histograms", record.histograms, KEYS)):
            for i, row in enumerate(rows):
                if not isinstance(row, dict) or not row.keys() >= wanted:
                    missing = ", ".join(sorted(wanted - row.keys() if isinstance(row, dict) else wanted))
                    raise RunError(f"{record.path} holds no whole run: line {i + 1} of {name}.jsonl lacks {missing}")
    return [best_member(record) for record in records]


def _page(records: Sequence[Record]) -> str:
    names = comparison.names([record.path.resolve().as_posix() for record in records])
    by_name = dict(zip(names, records, strict=True))
    one = len(records) == 1
    title = names[0] if one else f"{len(records)} runs compared"
    content = _single(records[0]) if one else _several(by_name)
    summary = sections.summary(records[0]) if one else ", ".join(names)
    return document(title, "training", summary, content)


def _single(record: Record) -> Markup:
    pictures = sections.gallery(chain(from_records(record), from_network(record)), LIMIT - FRAME - TEXT, 3)
    return join(_sections(record, pictures, 2, ""))


def _several(records: dict[str, Record]) -> Markup:
    """A comparison, then each run; the runs share the room for pictures."""
    anchors = {name: f"run-{i + 1}" for i, name in enumerate(records)}
    links = [
        tag(
            "li",
            tag("a", name, href=f"#{anchors[name]}"),
            " ",
            tag("span", LEVELS[verdict(record).level], class_=f"level {verdict(record).level}"),
        )
        for name, record in records.items()
    ]
    together = sections.gallery(comparison.overlays(records), LIMIT // 4)
    room = (LIMIT - FRAME - len(together)) // len(records) - TEXT
    parts = [
        tag("nav", tag("ul", *links), aria_label="Runs"),
        tag(
            "section",
            tag("h2", "Comparison", id="comparison"),
            tag("p", comparison.sentence(records), class_="verdict"),
            comparison.table(records, anchors),
            together,
            aria_labelledby="comparison",
        ),
    ]
    for name, record in records.items():
        anchor = anchors[name]
        pictures = sections.gallery(chain(from_records(record), from_network(record)), room, 4)
        inside = _sections(record, pictures, 3, f"{anchor}-")
        heading = tag("h2", name, id=anchor)
        summary = tag("p", sections.summary(record), class_="summary")
        parts.append(tag("section", heading, summary, *inside, class_="run", aria_labelledby=anchor))
    return join(parts)


def _sections(record: Record, pictures: Markup, level: int, prefix: str) -> list[Markup]:
    contents = {
        "Verdict": sections.verdicts(record, level + 1),
        "Pictures": pictures,
        "Configuration": sections.configuration(record),
        "How to make it again": sections.reproduction(record),
    }
    return sections_of(contents, level, prefix)
