"""The verdict on a run in one sentence: how it ended, how good it is, what was noticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tinygrad_cr.report.figures import Figures, count, figures, finite, fraction, listed, number
from tinygrad_cr.train import Event, Record

LEVELS = {"ok": "OK", "note": "Note", "warn": "Warning", "fail": "Failure"}
"""From the best to the worst, and how they are called."""

NAMED = 4
"""So many warnings are named in a sentence."""


class Verdict(NamedTuple):
    """A level of `LEVELS`, and a sentence or two."""

    level: str
    sentence: str


def verdict(record: Record) -> Verdict:
    """The verdict on a run, finished or not."""
    events, seen = record.history.events, figures(record.history)
    wanted: Any = record.config.get("epochs")
    failures = [event for event in events if event.level == "fail"]
    if failures:
        return Verdict("fail", _failed(failures, seen, wanted))
    warnings = [event for event in events if event.level == "warn"]
    interrupted = any(event.stop and event.kind == "interrupted" for event in events)
    ended = record.history.stopped is not None or (finite(wanted) and seen.epochs >= wanted)
    if seen.epochs == 0:
        how = "Interrupted before" if interrupted else "No result yet: the run was cut short, or is still going, before"
        return Verdict("warn" if warnings else "note", f"{how} its first epoch ended. {_how_to_go_on(record)}")
    if interrupted or not ended:
        how = "Interrupted" if interrupted else "Unfinished, cut short or still going,"
        level = "warn" if warnings else "note"
        sentence = f"{how} after {_of(seen.epochs, wanted)}; {_result(seen, so_far=True)}"
        return Verdict(level, f"{sentence}{_named(warnings)}. {_how_to_go_on(record)}")
    stopping = next((event for event in events if event.stop), None)
    length = count(seen.epochs, "epoch")
    if stopping is not None:
        length = f"{_of(seen.epochs, wanted)} ({stopping.kind.replace('_', ' ')})"
    sentence = f"Trained for {length}; {_result(seen)}"
    before = _failed_checks(record)
    level = "warn" if warnings or before else "ok"
    if not warnings:
        watched = record.config.get("monitors") is not False
        sentence += f". {'The monitors saw nothing to worry about' if watched else 'No monitor watched this run'}"
        if level == "ok" and (not watched or seen.best_accuracy is None):
            level = "note"
    return Verdict(level, f"{sentence}{_named(warnings)}.{before}")


def worst_first(events: Sequence[Event]) -> list[Event]:
    """Events in the order in which they should be read: by level, then by time."""
    order = list(LEVELS)[::-1]
    return sorted(events, key=lambda e: (order.index(e.level) if e.level in order else len(order), e.step))


def checks(record: Record) -> list[dict[str, Any]]:
    """The checks of the preflight, each a dict; none if there was no preflight, or one of an unknown form."""
    found = record.preflight.get("checks") if isinstance(record.preflight, dict) else None
    return [check for check in found if isinstance(check, dict)] if isinstance(found, list) else []


def _failed(failures: Sequence[Event], seen: Figures, wanted: Any) -> str:
    last = failures[-1]
    where = f"Failed in epoch {last.epoch}{f' of {wanted}' if finite(wanted) else ''}, {last.kind.replace('_', ' ')}"
    result = _result(seen)
    if seen.epochs == 0:
        result = "no epoch ended before that, so there is no result"
    elif seen.best_accuracy is not None:
        result = (
            f"the best before that is validation accuracy {fraction(seen.best_accuracy)} in epoch {seen.best_epoch}"
        )
    return f"{where}: {last.message.rstrip('.')}. {result[0].upper()}{result[1:]}."


def _result(seen: Figures, so_far: bool = False) -> str:
    if seen.best_accuracy is not None:
        best = "best validation accuracy so far" if so_far else "best validation accuracy"
        return f"{best} {fraction(seen.best_accuracy)} in epoch {seen.best_epoch}"
    known = f"loss {number(seen.loss)} and training accuracy {fraction(seen.accuracy)}"
    return f"final {known}; without a validation part, nothing says how good it is on new data"


def _named(warnings: Sequence[Event]) -> str:
    if not warnings:
        return ""
    names = [f"{event.kind.replace('_', ' ')} (epoch {event.epoch})" for event in warnings]
    if len(names) > NAMED:
        names[NAMED - 1 :] = [f"{len(names) - NAMED + 1} more"]
    return f", with {count(len(warnings), 'warning')}: {listed(names)}"


def _failed_checks(record: Record) -> str:
    names = [str(check.get("name")) for check in checks(record) if check.get("status") == "FAIL"]
    if not names:
        return ""
    return f" Before training, {count(len(names), 'check')} failed: {listed(names)}."


def _of(epochs: int, wanted: Any) -> str:
    return f"{epochs} of {count(int(wanted), 'epoch')}" if finite(wanted) else count(epochs, "epoch")


def _how_to_go_on(record: Record) -> str:
    if record.config.get("command"):
        return f"tinygrad-cr train --resume {record.path} goes on with it."
    return f'Trainer.resume("{record.path}") goes on with it.'
