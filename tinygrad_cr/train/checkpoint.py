"""A training run at one moment: everything that the rest of it depends on, in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.errors import RunError, StateDictError, TinygradError
from tinygrad_cr.nn import Module
from tinygrad_cr.optim import Optimizer
from tinygrad_cr.random import Generator, Generators
from tinygrad_cr.train.history import Event, History, Row

FORMAT = 1
STANDARDIZER = "standardizer."
Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: the one in progress, from 1.
        position: minibatches of it that were trained on.
        step: updates since training began.
        shuffle: state of the generator of shuffles when the epoch began.
        cost, rows: sum of costs and number of rows since the last row of the history.
        pending: costs that the callbacks have not seen.
        history: rows and events so far.
        best: parameters of the best epoch so far, at first those that training began with.
        best_accuracy: its validation accuracy; None before there is one.
        seconds: time spent training.
    """

    shuffle: dict[str, int]
    best: Arrays
    epoch: int = 1
    position: int = 0
    step: int = 0
    cost: float = 0.0
    rows: int = 0
    pending: list[float] = field(default_factory=list)
    history: History = field(default_factory=History)
    best_accuracy: float | None = None
    seconds: float = 0.0


_PLAIN = ("shuffle", "epoch", "position", "step", "cost", "rows", "pending", "best_accuracy", "seconds")


def to_bytes(
    progress: Progress,
    model: Module,
    optimizer: Optimizer,
    standardizer: Standardizer,
    callbacks: Mapping[str, Any],
    data: Mapping[str, str],
    options: Mapping[str, Any],
) -> bytes:
    """A checkpoint: arrays as safetensors, the rest as JSON in its metadata, and a sum over both.

    Args:
        callbacks: the state of each callback by its name.
        data: digests of the parts (see `digest`), so that a run goes on with the data it began with.
        options: plain values that the trainer was made with.
    """
    arrays = standardizer_arrays(standardizer)
    arrays |= {f"model.{name}": value for name, value in model.state_dict().items()}
    arrays |= {f"best.{name}": value for name, value in progress.best.items()}
    arrays |= {f"optimizer.{name}": np.asarray(value) for name, value in optimizer.state_dict().items()}
    state = {name: getattr(progress, name) for name in _PLAIN} | {
        "format": FORMAT,
        "generators": [generator.state() for generator in generators(model)],
        "history": progress.history.rows,
        "events": [asdict(event) for event in progress.history.events],
        "callbacks": callbacks,
        "data": data,
        "options": options,
    }
    contiguous = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    text = json.dumps(state)
    return save_tensors(contiguous, {"state": text, "sum": _sum(contiguous, text)})


@dataclass(frozen=True)
class Checkpoint:
    """What `read` found: arrays by name, and the plain state."""

    path: Path
    arrays: Arrays
    state: Row

    def restore(self, model: Module, optimizer: Optimizer) -> Progress:
        """Bring model, optimiser and the model's generators to where they were; the rest is returned.

        Raises:
            RunError: they are not the ones that were trained. Nothing was changed.
        """
        before = model.state_dict()
        sources = list(generators(model))
        try:
            if len(sources) != len(self.state["generators"]):
                raise StateDictError(
                    f"the model has {len(sources)} generators, the checkpoint {len(self.state['generators'])}"
                )
            model.load_state_dict(self._part("best."))
            model.load_state_dict(self._part("model."))
            optimizer.load_state_dict(self._part("optimizer."))
        except TinygradError as error:
            model.load_state_dict(before)
            raise RunError(f"{self.path} belongs to another model or optimizer: {error}") from None
        for source, state in zip(sources, self.state["generators"], strict=True):
            source.restore(state)
        events = (Event(**event) for event in self.state["events"])
        return Progress(
            best=self._part("best."),
            history=History(self.state["history"], events),
            **{name: self.state[name] for name in _PLAIN},
        )

    def _part(self, prefix: str) -> Arrays:
        return {name.removeprefix(prefix): value for name, value in self.arrays.items() if name.startswith(prefix)}


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunError: it is damaged, or was written by another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        state = json.loads(metadata["state"])
        if metadata.get("sum") != _sum(arrays, metadata["state"]):
            raise ValueError("its bytes are not those that were written")
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise RunError(f"{path} is no whole checkpoint: {error}") from None
    if state.get("format") != FORMAT:
        raise RunError(f"{path} has checkpoint format {state.get('format')}, this version reads {FORMAT}")
    return Checkpoint(path, arrays, state)


def _sum(arrays: Arrays, text: str) -> str:
    sums = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        sums.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        sums.update(arrays[name].data if arrays[name].ndim else arrays[name].tobytes())
    return sums.hexdigest()


def standardizer_arrays(standardizer: Standardizer) -> Arrays:
    """A fitted standardizer as arrays, under names that no parameter has."""
    return {STANDARDIZER + name: value for name, value in standardizer.state_dict().items()}


def load_standardizer(arrays: Mapping[str, Any], mode: str) -> Standardizer:
    """The standardizer among the arrays of a file."""
    return Standardizer.from_state(
        {name.removeprefix(STANDARDIZER): value for name, value in arrays.items() if name.startswith(STANDARDIZER)},
        mode,
    )


def generators(model: Module) -> Iterator[Generator]:
    """The sources of randomness of a model, or of its members, each once, in the order of its modules.

    >>> from tinygrad_cr.nn import MLP
    >>> [g.seed for g in generators(MLP([4, 8, 8, 2], dropout=0.5, generator=7))]
    [7]
    """
    seen: set[int] = set()
    for module in model.modules():
        for value in vars(module).values():
            for source in value.generators if isinstance(value, Generators) else [value]:
                if isinstance(source, Generator) and id(source) not in seen:
                    seen.add(id(source))
                    yield source


def digest(data: Dataset) -> str:
    """A fingerprint of the rows and labels of a data set.

    >>> digest(Dataset([[1.0]], [0])) == digest(Dataset([[2.0]], [0]))
    False
    """
    sums = hashlib.blake2b(f"{data.x.shape} {data.x.dtype}".encode(), digest_size=16)
    sums.update(data.x.data)
    if data.y is not None:
        sums.update(data.y.data)
    return sums.hexdigest()
