"""The parts of the page that belong to one run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from tinygrad_cr.errors import TinygradError
from tinygrad_cr.report.drawing import Omission, Picture, data_uri, unavailable
from tinygrad_cr.report.figures import count, duration, figures, fraction, listed, number
from tinygrad_cr.report.html import Markup, join, table, tag
from tinygrad_cr.report.population import sentence
from tinygrad_cr.report.settings import settings
from tinygrad_cr.report.verdict import LEVELS, checks, verdict, worst_first
from tinygrad_cr.train import Event, Record

EVENTS = 100
"""So many events are listed."""

STATUSES = {"PASS": "ok", "WARN": "warn", "FAIL": "fail"}


def verdicts(record: Record, level: int) -> Markup:
    """The verdict, the figures it rests on, everything that was noticed, and the checks before training."""
    found, whose = verdict(record), sentence(record)
    return join(
        [
            tag("p", badge(found.level), " ", found.sentence, class_=f"verdict {found.level}"),
            None if whose is None else tag("p", whose),
            _figures(record),
            *_events(worst_first(record.history.events), level),
            *_preflight(record, level),
        ]
    )


def _figures(record: Record) -> Markup | None:
    seen = figures(record.history)
    if not seen.epochs:
        return None
    wanted = record.config.get("epochs")
    entries = {
        "best validation accuracy": fraction(seen.best_accuracy),
        "in epoch": f"{seen.best_epoch}",
        "final loss": number(seen.loss),
        "gap at the end": fraction(seen.gap),
    }
    if seen.best_accuracy is None:
        entries = {"final loss": number(seen.loss), "training accuracy": fraction(seen.accuracy)}
    entries |= {
        "epochs": f"{seen.epochs} of {wanted}" if isinstance(wanted, int) else f"{seen.epochs}",
        "time": duration(seen.seconds),
    }
    return figure_list(entries)


def figure_list(entries: dict[str, str]) -> Markup:
    """Numbers that everybody looks for first, under their names.

    >>> figure_list({"epochs": "3"})
    '<dl class="figures"><div><dt>epochs</dt><dd>3</dd></div></dl>'
    """
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in entries.items()), class_="figures")


def _events(events: Sequence[Event], level: int) -> Iterable[Markup]:
    if not events:
        return
    yield tag(f"h{level}", "What was noticed")
    rows = [
        (
            badge(event.level),
            event.kind.replace("_", " "),
            f"{event.epoch}",
            number(event.value),
            _sentence(event.message) + (" Training stopped here." if event.stop else ""),
        )
        for event in events[:EVENTS]
    ]
    head = ("Level", "What", "Epoch", "Number", "What it means, and what to do")
    yield table("In training, the worst first", head, rows, class_="events")
    if len(events) > EVENTS:
        yield tag("p", f"{len(events) - EVENTS:,} more stand in events.jsonl.")


def _preflight(record: Record, level: int) -> Iterable[Markup]:
    if record.preflight is None:
        return
    found = checks(record)
    yield tag(f"h{level}", "Checks before training")
    if not found:
        yield tag("p", "preflight.json holds no checks that this version can read.")
        return
    rows = [
        (
            badge(STATUSES.get(str(check.get("status")), "note"), str(check.get("status", "–"))),
            *(str(check.get(key, "")) for key in ("name", "measured", "expected", "advice")),
        )
        for check in found
    ]
    head = ("Status", "Check", "Measured", "Expected", "What to do")
    yield table("In the order in which they were made", head, rows, class_="checks")


def gallery(items: Iterable[Picture | Omission], room: int, level: int | None = None) -> Markup:
    """The pictures that fit into so many bytes, and a list of what was left out and why.

    level: of a heading for each group of pictures; None for no headings.
    """
    problem = unavailable()
    shown: dict[str, list[Markup]] = {}
    missing: list[Omission] = []
    words: list[Markup] = []
    for item in items:
        if isinstance(item, Omission):
            missing.append(item)
        elif problem is not None:
            words.append(tag("li", tag("strong", f"{item.name}: "), item.alternative))
        elif isinstance(figure := _figure(item, room), Omission):
            missing.append(figure)
        else:
            room -= len(figure)
            shown.setdefault(item.group, []).append(figure)
    groups = (
        join([tag(f"h{level}", group) if level else None, tag("div", *figures, class_="gallery")])
        for group, figures in shown.items()
    )
    instead = [tag("p", f"There are no pictures: {problem}. They would show:"), tag("ul", *words)] if words else []
    return join([*groups, *instead, *_omissions(missing)])


def _figure(picture: Picture, room: int) -> Markup | Omission:
    """The picture with its caption, unless it cannot be drawn or has no room."""
    try:
        uri = data_uri(picture)
    except TinygradError as error:
        return Omission(picture.name, str(error))
    image = tag("img", src=uri, alt=picture.alternative, class_="image" if picture.image else "chart")
    figure = tag("figure", image, tag("figcaption", picture.caption))
    return figure if len(figure) <= room else Omission(picture.name, "the page would become too large")


def _omissions(missing: Sequence[Omission]) -> Iterable[Markup]:
    if not missing:
        return
    reasons: dict[str, list[str]] = {}
    for omission in missing:
        reasons.setdefault(omission.reason, []).append(omission.name)
    lines = [tag("li", tag("strong", f"{listed(names)}: "), _sentence(reason)) for reason, names in reasons.items()]
    yield tag("p", "Left out:", class_="omitted")
    yield tag("ul", *lines, class_="omitted")


def configuration(record: Record) -> Markup:
    """The settings, in groups."""
    groups = settings(record.config)
    if not groups:
        return tag("p", "config.json holds no settings.")
    return tag("div", *(settings_table(name, entries) for name, entries in groups.items()), class_="settings")


def reproduction(record: Record) -> Markup:
    """The command, the seed and the versions."""
    config = record.config
    command = config.get("command")
    parts: list[Markup] = []
    if isinstance(command, list) and command:
        parts.append(command_line(command))
        taken = any(str(word).startswith("--out") for word in command)
        parts.append(
            tag(
                "p",
                "Started in the same folder, with the versions below, it makes the same run again.",
                " Choose another --out: that folder is taken now." if taken else None,
            )
        )
    else:
        parts.append(tag("p", "A Python program made this run, and no command: run it again with the settings above."))
    versions = config.get("versions")
    rows = {"seed": config.get("seed"), "started": config.get("created"), "run folder": str(record.path)}
    if isinstance(versions, dict):
        rows |= {str(name): version or "not installed" for name, version in versions.items()}
    entries = {name: "not recorded" if value is None else str(value) for name, value in rows.items()}
    return join([*parts, tag("div", settings_table("Seed and versions", entries), class_="settings")])


def command_line(words: Sequence[Any]) -> Markup:
    """A command that can be copied to a shell.

    >>> print(command_line(["train", "a b"]))
    <pre><code><span class="word">train</span> <span class="word">'a b'</span> </code></pre>
    """
    # Lines break between words, not after the hyphens of an option.
    spans = [tag("span", shlex.quote(str(word)), class_="word") for word in words]
    return tag("pre", tag("code", *chain.from_iterable((span, " ") for span in spans)))


def settings_table(caption: str, entries: dict[str, Any]) -> Markup:
    """Names and values.

    >>> settings_table("seed", {"seed": "0"}).count("<tr>")
    1
    """
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in entries.items()]
    return tag("table", tag("caption", caption), tag("tbody", *rows))


def _sentence(text: str) -> str:
    """Text that ends as a sentence does.

    >>> _sentence("try 0.1"), _sentence("Why?")
    ('try 0.1.', 'Why?')
    """
    return text if text.endswith((".", "!", "?")) else f"{text}."


def badge(level: str, text: str | None = None) -> Markup:
    """A level as a coloured word.

    >>> badge("ok")
    '<span class="level ok">OK</span>'
    """
    known = level if level in LEVELS else "note"
    return tag("span", text or LEVELS.get(level, level), class_=f"level {known}")


def summary(record: Record) -> str:
    """What was trained on what, in a line."""
    config = record.config
    model, sizes = config.get("model"), None
    if isinstance(model, dict):
        sizes = model.get("sizes")
    network = f"a {'–'.join(map(str, sizes))} network" if isinstance(sizes, list) else "a network that is no MLP"
    data = f"on {config['data']}" if config.get("data") else "on arrays"
    epochs = config.get("epochs")
    length = f", {count(epochs, 'epoch')}" if isinstance(epochs, int) else ""
    return f"{network} {data}{length}, {config.get('optimizer') or 'unknown optimizer'}"
