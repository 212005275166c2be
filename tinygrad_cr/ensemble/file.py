"""An ensemble as one safetensors file: arrays, and the rest as JSON in its metadata, with a sum over both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from tinygrad_cr.data import Standardizer
from tinygrad_cr.ensemble.members import Member
from tinygrad_cr.errors import OptionError, RunError, TinygradError
from tinygrad_cr.nn import MLP, Module
from tinygrad_cr.train.run import write_atomically

FORMAT = 1
Arrays = dict[str, np.ndarray[Any, Any]]


def write(path: Path, members: Sequence[Member], class_names: Sequence[str]) -> None:
    """Write them. Standardizers that members share are written once.

    Raises:
        RunError: the file cannot be written.
    """
    arrays: Arrays = {}
    shared: list[Standardizer] = []
    records = []
    for i, member in enumerate(members):
        arrays |= {f"member.{i}.{name}": value for name, value in member.model.state_dict().items()}
        number = None
        if member.standardizer is not None:
            number = next((n for n, other in enumerate(shared) if _equal(other, member.standardizer)), len(shared))
            shared[number:] = shared[number:] or [member.standardizer]
        config = member.model.config() if isinstance(member.model, MLP) else None
        records.append({"model": config, "standardizer": number, "class_names": list(member.class_names)})
    for number, standardizer in enumerate(shared):
        arrays |= {f"standardizer.{number}.{name}": value for name, value in standardizer.state_dict().items()}
    text = json.dumps(
        {
            "format": FORMAT,
            "members": records,
            "standardizers": [standardizer.mode for standardizer in shared],
            "class_names": list(class_names),
        }
    )
    # safetensors writes the memory of an array as it lies, whatever its strides.
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    content = save_tensors(contiguous, {"ensemble": text, "sum": _sum(contiguous, text)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


def read(path: Path, make: Callable[[], Module] | None) -> tuple[list[Member], list[str]]:
    """The members in a file, and the names of their classes.

    Raises:
        RunError: no file, another kind of file, a damaged one, one of another version, or members that `make` does
            not fit.
        OptionError: a member is no MLP, and `make` was not given.
    """
    arrays, content = _contents(path)
    try:
        standardizers = [
            Standardizer.from_state(_part(arrays, f"standardizer.{number}."), mode)
            for number, mode in enumerate(content["standardizers"])
        ]
        members = []
        for i, record in enumerate(content["members"]):
            model = _made(path, i, record["model"], make)
            model.load_state_dict(_part(arrays, f"member.{i}."))
            number = record["standardizer"]
            standardizer = None if number is None else standardizers[number]
            members.append(Member(model.eval(), standardizer, tuple(record["class_names"])))
        return members, list(content["class_names"])
    except OptionError:
        raise
    except (LookupError, TypeError, ValueError, TinygradError) as error:
        raise RunError(f"{path} does not hold a whole ensemble: {error}") from error


def _made(path: Path, i: int, config: Mapping[str, Any] | None, make: Callable[[], Module] | None) -> Module:
    if make is not None:
        return make()
    if config is None:
        raise OptionError(
            f"member {i} in {path} is no MLP, which only its own program can build: "
            "pass make=, a function that makes such a network"
        )
    return MLP(**config, generator=0)


def _contents(path: Path) -> tuple[Arrays, dict[str, Any]]:
    if not path.is_file():
        raise RunError(f"there is no file {path}; Ensemble.save writes one")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path} is no whole safetensors file: {error}") from None
    text = metadata.get("ensemble")
    if text is None:
        raise RunError(f"{path} holds no ensemble, but other tensors; load_run reads the folder of a single run")
    if metadata.get("sum") != _sum(arrays, text):
        raise RunError(f"{path} is damaged: its bytes are not those that were written")
    content: dict[str, Any] = json.loads(text)
    if content.get("format") != FORMAT:
        raise RunError(f"{path} has ensemble format {content.get('format')}, this version reads {FORMAT}")
    return arrays, content


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _equal(a: Standardizer, b: Standardizer) -> bool:
    return a is b or (
        a.mode == b.mode
        and all(np.array_equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    )


def _sum(arrays: Arrays, text: str) -> str:
    sums = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        sums.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        sums.update(arrays[name].tobytes())
    return sums.hexdigest()
