"""`fetch`: one file from the network, whole and checked, or nothing at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import secrets
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tinygrad_cr.errors import DownloadError, OptionError

if TYPE_CHECKING:
    from http.client import HTTPResponse

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as dead."""

_CHUNK = 1 << 16


def fetch(
    url: str,
    path: str | os.PathLike[str],
    *,
    sha256: str | None,
    max_bytes: int,
    content_sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """Downloads url to path; the file appears there whole and checked, or not at all.

    url: http or https. sha256: of the file as it travels. content_sha256: of a gzip file's decompressed
    bytes, for files that mirrors compress differently; one of the two must be given. max_bytes: the most that
    is accepted. progress: show a bar on stderr, if that is a terminal. Folders are made as needed. Returns
    the path.

    Raises `DownloadError` (an `OSError`) when the server cannot be reached, answers with an error or is cut
    off, and when the file is too large or not the expected one; then nothing is left on disk.

    >>> fetch("ftp://example.org/a", "a", sha256="0" * 64, max_bytes=10)
    Traceback (most recent call last):
    tinygrad_cr.errors.OptionError: cannot download ftp://example.org/a: only http and https URLs are
    """
    if not url.lower().startswith(("http://", "https://")):
        raise OptionError(f"cannot download {url}: only http and https URLs are")
    if sha256 is None and content_sha256 is None:
        raise OptionError(f"cannot download {url}: give sha256 or content_sha256, so that the file can be checked")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    made: list[Path] = []
    try:
        # ValueError: urllib's answer to a malformed URL. HTTPException is no OSError.
        from http.client import HTTPException
        from urllib.request import Request, urlopen

        request = Request(url, headers={"User-Agent": "tinygrad_cr"})
        with urlopen(request, timeout=TIMEOUT) as response:
            made = _make_folder(path.parent)
            with temporary.open("xb") as file:
                found = _stream(response, file, max_bytes, path.name if progress else None)
                file.flush()
                os.fsync(file.fileno())
        _compare("SHA-256", sha256, found)
        if content_sha256 is not None:
            _compare("SHA-256 of the decompressed bytes", content_sha256, _content_digest(temporary))
        temporary.replace(path)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            temporary.unlink()
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(problem, (OSError, ValueError, HTTPException)):
            raise DownloadError(
                f"cannot download {url}: {problem}. Download it by hand to {path}, or put the file "
                "into the folder that TINYGRAD_CR_DATA names"
            ) from problem
        raise
    return path


def _make_folder(folder: Path) -> list[Path]:
    """Makes the folder and its parents; returns those that were not there, innermost first."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _stream(response: HTTPResponse, file: BinaryIO, max_bytes: int, title: str | None) -> str:
    """Copies the body into file and returns its SHA-256; refuses a body that is too large or too short."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    length = response.headers.get("Content-Length")
    promised = int(length) if length is not None and length.isdigit() else None
    if promised is not None and promised > max_bytes:
        raise DownloadError(f"the server announces {promised} bytes, at most {max_bytes} were expected")
    console = Console(stderr=True)
    digest, received = hashlib.sha256(), 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=title is None or not console.is_terminal) as bar:
        task = bar.add_task(title or "", total=promised)
        while chunk := response.read(_CHUNK):
            received += len(chunk)
            if received > max_bytes:
                raise DownloadError(f"the server sends more than the {max_bytes} bytes expected")
            digest.update(chunk)
            file.write(chunk)
            bar.update(task, completed=received)
    if promised is not None and received != promised:
        raise DownloadError(f"the connection ended after {received} of {promised} bytes")
    return digest.hexdigest()


def _content_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DownloadError(f"the file is no whole gzip file ({problem})") from None
    return digest.hexdigest()


def _compare(what: str, expected: str | None, found: str) -> None:
    if expected is not None and found != expected.lower():
        raise DownloadError(f"the {what} is {found}, expected {expected.lower()}")
