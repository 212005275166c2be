"""The folder a run leaves behind: configuration, history, and the network with its standardisation.

Files appear whole or not at all: each is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from tinygrad_cr.data import Standardizer
from tinygrad_cr.errors import RunError, RunTakenError, TinygradError
from tinygrad_cr.nn import MLP
from tinygrad_cr.train.history import History

CONFIG, HISTORY, MODEL = "config.json", "history.jsonl", "model.safetensors"
FORMAT = 1
_PREFIX = "standardizer."


class Run(NamedTuple):
    """A trained network and what it takes to use it."""

    model: MLP
    standardizer: Standardizer
    class_names: list[str]
    config: dict[str, Any]
    history: History


class RunFolder:
    """A new or empty folder for one run. It is made when the first file is written.

    Raises:
        RunError: the folder holds a run or other files already, or cannot be made.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            taken = self.path.exists() and any(self.path.iterdir())
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror}") from None
        if taken:
            kind = "another run" if (self.path / CONFIG).exists() else "other files"
            raise RunTakenError(f"{self.path} already holds {kind}; nothing was written, choose a new folder")

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the configuration, marked with the version of this layout."""
        text = json.dumps({"format": FORMAT} | config, indent=2) + "\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Creating the file is the claim: of two runs that found the folder empty, one gets it.
            (self.path / CONFIG).touch(exist_ok=False)
        except FileExistsError:
            raise RunTakenError(f"{self.path} was taken by another run meanwhile; choose a new folder") from None
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror}") from None
        self._write(CONFIG, text.encode())

    def write_history(self, history: History) -> None:
        """Write all epochs so far."""
        self._write(HISTORY, history.to_jsonl().encode())

    def write_model(self, state: dict[str, np.ndarray[Any, Any]], standardizer: Standardizer) -> None:
        """Write the parameters and the standardisation that belongs to them."""
        tensors = state | {_PREFIX + key: value for key, value in standardizer.state_dict().items()}
        # safetensors writes the memory of an array as it lies, whatever its strides.
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        self._write(MODEL, save_tensors(contiguous))

    def _write(self, name: str, content: bytes) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / name, content)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror}") from None


def next_run_path(parent: Path, name: str) -> Path:
    """The first of ``parent/name-1``, ``parent/name-2``, ... that does not exist.

    >>> next_run_path(Path("no-such-folder"), "digits").name
    'digits-1'
    """
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def load_run(path: Path | str) -> Run:
    """Read what a training run left behind.

    Raises:
        RunError: no run there, one that did not finish its first epoch, one of another format, or a broken file.
    """
    folder = Path(path)
    if not (folder / CONFIG).exists():
        raise RunError(f"{folder} is no run folder: it has no {CONFIG}; give the folder that train wrote")
    try:
        config = json.loads((folder / CONFIG).read_text())
        if config["format"] != FORMAT:
            raise RunError(f"{folder} has run format {config['format']}, this version reads {FORMAT}")
        if config["model"] is None:
            raise RunError(
                f"{folder} holds a network that is no MLP, which only its own program can build; "
                f"load its {MODEL} there with load_state_dict"
            )
        names = config.get("class_names")
        outputs = config["model"]["sizes"][-1]
        if not isinstance(names, list) or len(names) != outputs:
            raise RunError(f"{folder}: class_names in {CONFIG} must list {outputs} names, got {names!r}")
        if not (folder / MODEL).exists():
            raise RunError(f"{folder} has no {MODEL}: the run ended before its first epoch did")
        tensors = load_tensors((folder / MODEL).read_bytes())
        history_file = folder / HISTORY
        history = History.from_jsonl(history_file.read_text() if history_file.exists() else "")
        model = MLP(**config["model"], generator=config["seed"])
        broken = [name for name, values in tensors.items() if not np.isfinite(values).all()]
        if broken:
            raise RunError(f"{folder}: {', '.join(broken)} in {MODEL} hold inf or NaN")
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_PREFIX)})
        standardizer = Standardizer.from_state(
            {k.removeprefix(_PREFIX): v for k, v in tensors.items() if k.startswith(_PREFIX)},
            config["standardize"],
        )
    except RunError:
        raise
    except (OSError, ValueError, LookupError, TypeError, SafetensorError, TinygradError) as error:
        raise RunError(f"{folder} does not hold a whole run: {error}") from error
    model.eval()
    return Run(model, standardizer, names, config, history)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new and nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
