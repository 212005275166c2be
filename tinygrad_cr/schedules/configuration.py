"""Schedules from the names and arguments that a run folder keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from tinygrad_cr.errors import OptionError, unknown_name
from tinygrad_cr.schedules.annealing import cosine, cosine_restarts
from tinygrad_cr.schedules.composed import chain, warm_up
from tinygrad_cr.schedules.cycles import cyclic, one_cycle
from tinygrad_cr.schedules.decays import constant, exponential, milestones, step_decay
from tinygrad_cr.schedules.formula import Formula

KINDS: tuple[type[Formula], ...] = (
    *(constant, exponential, step_decay, milestones),
    *(cosine, cosine_restarts, cyclic, one_cycle),
    *(warm_up, chain),
)
SCHEDULES: dict[str, type[Formula]] = {kind.__name__: kind for kind in KINDS}
"""The schedules of this package by their names."""


def from_config(config: Mapping[str, Any]) -> Formula:
    """The schedule that `Formula.config` wrote down.

    Raises:
        OptionError: no such name, an argument that is unknown or missing, or one outside its range.

    >>> from_config({"name": "cosine", "lr": 0.1, "steps": 100})
    cosine(lr=0.1, steps=100)
    """
    if not isinstance(config, Mapping) or "name" not in config:
        raise OptionError(f"a schedule is a dict with its name and its arguments, got {config!r}")
    name = config["name"]
    if not isinstance(name, str) or name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    kind = SCHEDULES[name]
    given = {key: _made(value) for key, value in config.items() if key != "name"}
    known = {field.name: field.default for field in fields(kind)}
    for key in given:
        if key not in known:
            raise unknown_name(f"argument of {name}", key, known)
    missing = [key for key, default in known.items() if default is MISSING and key not in given]
    if missing:
        raise OptionError(f"{name} wants {', '.join(missing)} too, got {dict(config)!r}")
    return kind(**given)


def _made(value: Any) -> Any:
    if isinstance(value, Mapping):
        return from_config(value)
    if isinstance(value, list):
        return [_made(each) for each in value]
    return value
