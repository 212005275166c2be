"""config.json in words: what was set, in groups, and what differs between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tinygrad_cr.errors import TinygradError
from tinygrad_cr.schedules import from_config

GROUPS: dict[str, dict[str, str]] = {
    "Network": {
        "model.sizes": "sizes",
        "parameters": "parameters",
        "model.dropout": "dropout",
        "model.dropout_mode": "dropout mode",
        "model.init": "initialisation",
        "model.dtype": "dtype",
    },
    "Training": {
        "optimizer": "optimizer",
        "lr": "learning rate",
        "lr_decay": "learning-rate decay",
        "schedule": "schedule",
        "momentum": "momentum",
        "reg": "regularisation",
        "clip_norm": "gradient clipping",
        "epochs": "epochs",
        "batch_size": "batch size",
        "seed": "seed",
    },
    "Data": {
        "data": "data",
        "label": "label column",
        "split_seed": "seed of the split",
        "standardize": "standardisation",
        "image_shape": "image shape",
        "class_names": "classes",
    },
    "Watching": {
        "monitors": "monitors",
        "patience": "patience",
        "train_sample": "rows for the training accuracy",
        "validate_epochs": "epochs between validations",
        "validate_steps": "steps between validations",
        "checkpoint_epochs": "epochs between checkpoints",
    },
}
"""Where each entry of a configuration stands, and how it is called. Entries of the user's own come last."""

ELSEWHERE = ("format", "command", "created", "versions.", "data_digest", "model")
"""Entries that stand elsewhere on the page, or that nobody reads."""

LONGEST = 400
"""Letters of a value; a list of a thousand classes is cut."""

NAMES = {label: key for group in GROUPS.values() for key, label in group.items()}


def settings(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Group -> name of an entry -> its value, as text.

    >>> settings({"model": {"sizes": [64, 10]}, "mine": None})
    {'Network': {'sizes': '64 → 10', 'parameters': '650'}, 'Other': {'mine': 'none'}}
    """
    schedule = config.get("schedule")
    flat = _flat(config if not isinstance(schedule, Mapping) else {**config, "schedule": _schedule(schedule)})
    if (sizes := _sizes(config)) is not None:
        flat["parameters"] = f"{sum(a * b + b for a, b in pairwise(sizes)):,}"
    elif "model" in config:
        flat["model.sizes"] = "no MLP"
    options = {key: value for key, value in flat.items() if key.startswith("optimizer_options.")}
    known = {
        group: {label: value_text(key, flat.pop(key)) for key, label in keys.items() if key in flat}
        for group, keys in GROUPS.items()
    }
    # What the optimiser was made with is said already where it has a name of its own.
    known["Training"] |= {
        name: value_text(key, value)
        for key, value in options.items()
        if (name := key.removeprefix("optimizer_options.")) not in ("lr", "momentum")
    }
    others = {key: value for key, value in flat.items() if key not in options and not key.startswith(ELSEWHERE)}
    known["Other"] = {key: value_text(key, value) for key, value in others.items()}
    return {group: entries for group, entries in known.items() if entries}


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The entries in which configurations differ, each with its value in every one of them.

    >>> differing([{"lr": 0.1, "reg": 0.0}, {"lr": 0.2, "reg": 0.0}])
    {'learning rate': ['0.1', '0.2']}
    """
    tables = [{k: v for group in settings(config).values() for k, v in group.items()} for config in configs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = {name: [table.get(name, "–") for table in tables] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def value_text(key: str, value: Any) -> str:
    """A value as people write it.

    >>> value_text("model.sizes", [64, 10]), value_text("image_shape", [8, 8]), value_text("monitors", True)
    ('64 → 10', '8 × 8', 'on')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    if isinstance(value, list):
        sign = {"model.sizes": " → ", "image_shape": " × "}.get(key, ", ")
        text = sign.join(f"{each}" for each in value)
        return f"{len(value)}: {_cut(text)}" if key == "class_names" else _cut(text)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else _cut(str(value))


def _sizes(config: Mapping[str, Any]) -> list[int] | None:
    model = config.get("model")
    sizes = model.get("sizes") if isinstance(model, Mapping) else None
    return sizes if isinstance(sizes, list) and all(isinstance(size, int) for size in sizes) else None


def _schedule(config: Mapping[str, Any]) -> str:
    """As Python makes it; what this version does not know, as it was written down.

    >>> _schedule({"name": "cosine", "lr": 0.1, "steps": 9}), _schedule({"name": "newer"})
    ('cosine(lr=0.1, steps=9)', "{'name': 'newer'}")
    """
    try:
        return str(from_config(config))
    except (TinygradError, LookupError, TypeError, ValueError):
        return str(dict(config))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries under dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
