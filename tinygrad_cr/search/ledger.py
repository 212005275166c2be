"""The ledger: a folder in which a search writes down every finished trial, and from which it goes on.

`trials.jsonl` has a line for each trial. Lines are only ever appended: all of a group in one write that ends in a line
break, then synced. So a crash costs at most the group that was being written; what it left of a line is cut off
before the next one is written. `search.json` says which search this is, and is replaced as a whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinygrad_cr.errors import RunError, RunTakenError
from tinygrad_cr.search.trial import Row
from tinygrad_cr.train.run import write_atomically

try:
    import fcntl

    LOCKS = True
except ImportError:  # not on POSIX: two processes in one search are then not noticed
    LOCKS = False

SEARCH, TRIALS, WINNER = "search.json", "trials.jsonl", "winner.safetensors"
FORMAT = 2
"""Rows of 1 were trained in an order of their own each: such a search cannot be gone on with."""
Key = tuple[int, int, int]
"""Stage, trial and rung; the rung is 0 without successive halving."""


class Ledger:
    """The rows of a search, in memory and, given a folder, on disk.

    While it is open no other process can write to the folder.

    Args:
        path: a new or empty folder, or that of the same search; None for memory alone.
        settings: what decides the outcome of the search, as JSON can hold it.

    Raises:
        RunError: the folder holds another search (the message says what differs), other files, or a damaged ledger.
        RunTakenError: another process is at it.

    >>> ledger = Ledger(None, {})
    >>> ledger.append([{"stage": 1, "trial": 2, "lr": 0.1}])
    >>> ledger.find(1, 2)
    {'stage': 1, 'trial': 2, 'lr': 0.1}
    """

    def __init__(self, path: Path | str | None, settings: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.state: dict[str, Any] = {"format": FORMAT, "settings": _plain(settings)}
        self.state |= {"stages": [], "warnings": [], "winner": None}
        self.rows: dict[Key, Row] = {}
        self.torn = False
        self._lock: int | None = None
        self._file: int | None = None
        if self.path is not None:
            try:
                self._open(self.path)
            except BaseException:
                self.close()
                raise

    def find(self, stage: int, trial: int, rung: int | None = None) -> Row | None:
        """The row of a trial; None if it has not finished."""
        return self.rows.get((stage, trial, rung or 0))

    def append(self, rows: Sequence[Row]) -> None:
        """Write down the rows of a group; when this returns they are safe. Rows that are there already stay.

        Raises:
            RunError: they cannot be written.
        """
        new = {_key(row): row for row in rows if _key(row) not in self.rows}
        if self._file is not None and new:
            content = "".join(json.dumps(row, allow_nan=False) + "\n" for row in new.values()).encode()
            try:
                written = os.write(self._file, content)
                os.fsync(self._file)
            except OSError as error:
                raise RunError(f"cannot write {self.path}/{TRIALS}: {error.strerror}") from None
            if written < len(content):
                raise RunError(f"cannot write {self.path}/{TRIALS}: the disk is full; make room, and go on")
        self.rows |= new

    def write(self, **state: Any) -> None:
        """Change entries of `search.json`: stages, winner, warnings.

        Raises:
            RunError: it cannot be written.
        """
        self.state |= {key: _plain(value) for key, value in state.items()}
        self.write_file(SEARCH, (json.dumps(self.state, indent=2, allow_nan=False) + "\n").encode())

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the folder, if there is one, so that it appears whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        if self.path is not None:
            try:
                write_atomically(self.path / name, content)
            except OSError as error:
                raise RunError(f"cannot write {self.path / name}: {error.strerror}") from None

    def close(self) -> None:
        """Let another process go on with the search."""
        for handle in (self._file, self._lock):
            if handle is not None:
                os.close(handle)
        self._file = self._lock = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._hold(path)
            for name in (SEARCH, WINNER):
                for left in path.glob(f".{name}.*"):  # by a process that was killed while it wrote
                    left.unlink()
            if (path / SEARCH).exists():
                self._go_on(path)
            elif any(path.iterdir()):
                raise RunError(f"{path} holds other files; nothing was written, choose a new folder for this search")
            else:
                self.write()
            self._file = os.open(path / TRIALS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except RunError:
            raise
        except OSError as error:
            raise RunError(f"cannot keep a search in {path}: {error.strerror}") from None

    def _hold(self, path: Path) -> None:
        if not LOCKS:
            return
        # The folder itself: search.json is replaced when it is written, and a lock stays with the old one.
        self._lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunTakenError(f"another process is searching in {path}; wait for it, or stop it") from None

    def _go_on(self, path: Path) -> None:
        known = read_state(path)
        differences = list(compare(known["settings"], self.state["settings"]))
        if differences:
            raise RunError(
                f"{path} holds another search: {'; '.join(differences)}. Nothing was written; "
                "go on with the same settings, or choose a new folder"
            )
        content = (path / TRIALS).read_bytes() if (path / TRIALS).exists() else b""
        whole = content.rfind(b"\n") + 1
        rows = parse(content[:whole], path)
        if whole < len(content):
            self.torn = True
            os.truncate(path / TRIALS, whole)
        self.state = known
        self.rows = {_key(row): row for row in reversed(rows)}


def read_state(path: Path) -> dict[str, Any]:
    """What `search.json` says.

    Raises:
        RunError: no search there, one of another format, or a broken file.
    """
    if not (path / SEARCH).exists():
        raise RunError(f"{path} is no search: it has no {SEARCH}; give the folder that a search wrote with out=")
    try:
        state: dict[str, Any] = json.loads((path / SEARCH).read_text())
        if state["format"] != FORMAT:
            raise RunError(f"{path} has search format {state['format']}, this version reads {FORMAT}")
        _ = [state[key] for key in ("settings", "stages", "warnings", "winner")]
    except RunError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path / SEARCH} is broken: {error!r}") from None
    return state


def read_rows(path: Path) -> list[Row]:
    """The rows of `trials.jsonl`; a last line that a crash, or a search in progress, left unfinished is passed over.

    Raises:
        RunError: a broken file.
    """
    if not (path / TRIALS).exists():
        return []
    content = (path / TRIALS).read_bytes()
    rows = parse(content[: content.rfind(b"\n") + 1], path)
    return list({_key(row): row for row in reversed(rows)}.values())[::-1]


def parse(content: bytes, path: Path) -> list[Row]:
    """Whole lines of a ledger as rows.

    Raises:
        RunError: one of them is no row; its number is told.
    """
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            _key(row)
        except (ValueError, LookupError, TypeError) as error:
            raise RunError(
                f"line {number} of {path / TRIALS} is damaged ({error!r}); "
                "take it out, and the trial is made again when the search goes on"
            ) from None
        rows.append(row)
    return rows


def compare(there: Any, here: Any, name: str = "") -> Iterable[str]:
    """How the settings of a ledger differ from those that were asked for, one sentence each.

    >>> list(compare({"seed": 0, "epochs": 5}, {"seed": 1, "epochs": 5}))
    ['seed is 0 there and 1 here']
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from compare(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} is {_shown(there)} there and {_shown(here)} here"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else text[:97] + "..."


def _key(row: Mapping[str, Any]) -> Key:
    return row["stage"], row["trial"], row.get("rung", 0)


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))
