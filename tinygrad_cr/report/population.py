"""A population's run as that of one of its members, which is what a report can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinygrad_cr.report.figures import figures
from tinygrad_cr.train import History, Record

OWN = ("lr", "lr_decay", "reg", "momentum", "weight_decay")
"""Entries of a configuration, of its model or of its optimizer_options that may hold a value for each member."""
OWN_OF_MODEL = ("dropout", "init")


def best_member(record: Record) -> Record:
    """The run of the member with the best validation accuracy, which `config["member"]` names; others stay as they are.

    Without a validation part it is member 0.

    >>> from pathlib import Path
    >>> rows = [{"member": m, "epoch": 1, "val_accuracy": a} for m, a in enumerate([0.7, 0.9])]
    >>> one = best_member(Record(Path(), {"model": {"members": 2}, "lr": [0.1, 0.2]}, History(rows), [], None))
    >>> one.config["member"], one.config["lr"], one.history.rows
    (1, 0.2, [{'epoch': 1, 'val_accuracy': 0.9}])
    """
    members = _members(record)
    if members is None:
        return record
    histories = [_history(record.history, m) for m in range(members)]
    known = {m: a for m, history in enumerate(histories) if (a := figures(history).best_accuracy) is not None}
    best = max(known, key=lambda m: known[m], default=0)
    return record._replace(config=_config(record.config, best, members), history=histories[best])


def sentence(record: Record) -> str | None:
    """Which member of how many is shown; None for a run of one network.

    >>> from pathlib import Path
    >>> print(sentence(Record(Path(), {"member": 1, "members": 3, "model": {"members": 3}}, History(), [], None)))
    This run trained 3 networks side by side, members 0 to 2. The page shows member 1 of 3, the one with the best \
validation accuracy; train.load_run(folder).model[m] is any of them.
    """
    members = _members(record)
    if members is None:
        return None
    validated = figures(record.history).best_accuracy is not None or not len(record.history)
    why = "the one with the best validation accuracy" if validated else "the first, as there is no validation accuracy"
    return (
        f"This run trained {members} networks side by side, members 0 to {members - 1}. The page shows member "
        f"{record.config['member']} of {members}, {why}; train.load_run(folder).model[m] is any of them."
    )


def _members(record: Record) -> int | None:
    """How many a population has; networks that are no MLP leave that to the rows, or, once one is chosen, to it."""
    model = record.config.get("model")
    found = model.get("members") if isinstance(model, Mapping) else None
    if isinstance(found, int):
        return found
    numbers: list[int] = [row["member"] for row in record.history if isinstance(row.get("member"), int)]
    if numbers:
        return max(numbers) + 1
    known = record.config.get("members")
    return known if isinstance(known, int) and isinstance(record.config.get("member"), int) else None


def _history(history: History, m: int) -> History:
    """The rows of a member, and the events of it and of all, as a run of it alone would have them."""
    rows = [{k: v for k, v in row.items() if k != "member"} for row in history if row.get("member") == m]
    return History(rows, [replace(event, member=None) for event in history.events if event.member in (None, m)])


def _config(config: dict[str, Any], m: int, members: int) -> dict[str, Any]:
    own = _own(config, OWN, m, members)
    if isinstance(config.get("model"), Mapping):
        own["model"] = _own(config["model"], OWN_OF_MODEL, m, members)
    if isinstance(config.get("optimizer_options"), Mapping):
        own["optimizer_options"] = _own(config["optimizer_options"], OWN, m, members)
    return own | {"member": m, "members": members}


def _own(values: Mapping[str, Any], names: tuple[str, ...], m: int, members: int) -> dict[str, Any]:
    def mine(name: str, value: Any) -> Any:
        return value[m] if name in names and isinstance(value, list) and len(value) == members else value

    return {name: mine(name, value) for name, value in values.items()}
