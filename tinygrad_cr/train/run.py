"""The folder a run leaves behind: configuration, history, the network with its standardisation, and checkpoints.

Files appear whole or not at all: each is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from tinygrad_cr.data import Label, Split, Standardizer, load, split
from tinygrad_cr.errors import DataError, RunError, RunTakenError, TinygradError
from tinygrad_cr.nn import MLP
from tinygrad_cr.train.checkpoint import STANDARDIZER, Checkpoint, digest, load_standardizer, read, standardizer_arrays
from tinygrad_cr.train.history import History, Row

try:
    import fcntl

    LOCKS = True
except ImportError:  # not on POSIX: two processes in one run are then not noticed
    LOCKS = False

CONFIG, HISTORY, EVENTS, HISTOGRAMS = "config.json", "history.jsonl", "events.jsonl", "histograms.jsonl"
MODEL, CHECKPOINTS, PREFLIGHT, REPORT = "model.safetensors", "checkpoints", "preflight.json", "report.html"
FORMAT = 1


class Run(NamedTuple):
    """A trained network and what it takes to use it."""

    model: MLP
    standardizer: Standardizer
    class_names: list[str]
    config: dict[str, Any]
    history: History


class Record(NamedTuple):
    """What is known about a run, without its network.

    preflight: what `doctor.Report.to_dict` gave before training; None if nobody asked. histograms: the records of
    `Histograms`.
    """

    path: Path
    config: dict[str, Any]
    history: History
    histograms: list[Row]
    preflight: dict[str, Any] | None


class RunFolder:
    """A folder for one run: new or empty, or with `resume` that of a run that goes on.

    A new one is made when the configuration is written. While the object is open no other process can go on with
    the run; `close` lets go of it.

    Raises:
        RunError: the folder holds a run or other files already, or cannot be made; to resume, it holds no run, or
            one that another process trains at the moment.
    """

    def __init__(self, path: Path | str, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.resume = resume
        self._held: int | None = None
        if resume:
            self._hold()
            return
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
        if not self.resume:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                # Creating the file is the claim: of two runs that found the folder empty, one gets it.
                (self.path / CONFIG).touch(exist_ok=False)
            except FileExistsError:
                raise RunTakenError(f"{self.path} was taken by another run meanwhile; choose a new folder") from None
            except OSError as error:
                raise RunError(f"cannot make the run folder {self.path}: {error.strerror}") from None
        self.write(CONFIG, text.encode())
        if not self.resume:
            self._hold()

    def write_history(self, history: History) -> None:
        """Write all epochs and events so far."""
        self.write(HISTORY, history.to_jsonl().encode())
        self.write(EVENTS, history.events_to_jsonl().encode())

    def write_model(self, state: dict[str, np.ndarray[Any, Any]], standardizer: Standardizer) -> None:
        """Write the parameters and the standardisation that belongs to them."""
        tensors = state | standardizer_arrays(standardizer)
        # safetensors writes the memory of an array as it lies, whatever its strides.
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        self.write(MODEL, save_tensors(contiguous))

    def write_histograms(self, records: Iterable[Row]) -> None:
        """Write the records of `Histograms`."""
        self.write(HISTOGRAMS, "".join(json.dumps(record) + "\n" for record in records).encode())

    def write_checkpoint(self, step: int, content: bytes) -> None:
        """Write a checkpoint, and then remove those of other steps."""
        name = f"{CHECKPOINTS}/step-{step:010d}.safetensors"
        self.write(name, content)
        for other in checkpoints(self.path):
            if other.name != Path(name).name:
                other.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the folder.

        Raises:
            RunError: it cannot be written.
        """
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from None

    def close(self) -> None:
        """Let another process go on with the run."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _hold(self) -> None:
        if not LOCKS:
            return
        try:
            # The folder itself: a file in it is replaced when it is written, and a lock stays with the old one.
            self._held = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise RunTakenError(f"{self.path} is being trained by another process; wait for it, or stop it") from None
        except OSError as error:
            raise RunError(f"cannot go on in {self.path}: {error.strerror}") from None


def next_run_path(parent: Path, name: str) -> Path:
    """The first of ``parent/name-1``, ``parent/name-2``, ... that does not exist.

    >>> next_run_path(Path("no-such-folder"), "digits").name
    'digits-1'
    """
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def checkpoints(path: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted((path / CHECKPOINTS).glob("step-*.safetensors"))


def last_checkpoint(path: Path | str) -> Checkpoint:
    """The newest checkpoint of a run.

    Raises:
        RunError: there is none, or it is damaged or of another version.
    """
    found = checkpoints(Path(path))
    if not found:
        raise RunError(f"{path} has no checkpoint: it ended before its first step, or kept none; start it again")
    return read(found[-1])


def read_run(path: Path | str) -> Record:
    """Read what is known about a run; its network may be missing.

    Raises:
        RunError: no run there, one of another format, or a broken file.
    """
    folder = Path(path)
    if not (folder / CONFIG).exists():
        raise RunError(f"{folder} is no run folder: it has no {CONFIG}; give the folder that train wrote")
    try:
        config = json.loads((folder / CONFIG).read_text())
        if config["format"] != FORMAT:
            raise RunError(f"{folder} has run format {config['format']}, this version reads {FORMAT}")
        history = History.from_jsonl(_text(folder / HISTORY), _text(folder / EVENTS))
        histograms = [json.loads(line) for line in _text(folder / HISTOGRAMS).splitlines()]
        preflight = json.loads(_text(folder / PREFLIGHT) or "null")
    except RunError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{folder} does not hold a whole run: {error}") from error
    return Record(folder, config, history, histograms, preflight)


def load_run(path: Path | str) -> Run:
    """Read the network that a training run left behind, and what belongs to it.

    Raises:
        RunError: no run there, one that did not finish its first epoch, one of another format, or a broken file.
    """
    folder, config, history, _, _ = read_run(path)
    try:
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
        model = MLP(**config["model"], generator=config["seed"])
        broken = [name for name, values in tensors.items() if not np.isfinite(values).all()]
        if broken:
            raise RunError(f"{folder}: {', '.join(broken)} in {MODEL} hold inf or NaN")
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(STANDARDIZER)})
        standardizer = load_standardizer(tensors, config["standardize"])
    except RunError:
        raise
    except (OSError, ValueError, LookupError, TypeError, SafetensorError, TinygradError) as error:
        raise RunError(f"{folder} does not hold a whole run: {error}") from error
    model.eval()
    return Run(model, standardizer, names, config, history)


def load_parts(config: dict[str, Any], *, download: bool = True) -> Split:
    """The parts of the data that a run was trained on, loaded and split again as its configuration says.

    Args:
        config: of the run.
        download: whether a data set that is not on this machine may be fetched.

    Raises:
        DataError: the run was made from arrays, its data is not there any more, or is not what it was.
    """
    if config.get("data") is None or config.get("split_seed") is None:
        raise DataError("this run was trained on arrays that its folder does not hold; pass the same ones to fit")
    label = config.get("label")
    try:
        data = load(config["data"], label=Label.AUTO if label is None else label, download=download)
        parts = split(data, seed=config["split_seed"])
    except (TinygradError, OSError) as error:
        raise DataError(f"the data of this run, {config['data']}, cannot be loaded: {error}") from None
    if digest(parts.train) != config.get("data_digest"):
        raise DataError(f"{config['data']} is not what it was when this run was trained on it")
    return parts


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


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
