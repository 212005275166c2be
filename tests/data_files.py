"""What the tests of data files share: writers of small files, and a web site on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


def sha(contents: bytes) -> str:
    """The SHA-256 of these bytes, in hexadecimal."""
    return hashlib.sha256(contents).hexdigest()


def idx(array: Any) -> bytes:
    """The IDX file of a uint8 array."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + bytes(array.tobytes())


def cifar(labels: list[int], seed: int = 0) -> tuple[bytes, Any]:
    """A CIFAR-10 batch, and its images as ``[n, 32, 32, 3]``."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    return np.column_stack([np.array(labels, np.uint8), planes]).tobytes(), images


def archive(members: dict[str, bytes]) -> bytes:
    """A tar.gz of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    return out.getvalue()


@dataclass
class Site:
    """A web site: its files, how far it misbehaves, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    announce: int | None = 0  # added to Content-Length; None leaves the header out
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    """A site served on this machine while the context lasts."""
    here = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            here.requests.append(name)
            if name not in here.files:
                self.send_error(404)
                return
            self.send_response(200)
            if here.announce is not None:
                self.send_header("Content-Length", str(len(here.files[name]) + here.announce))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client may have seen enough
                self.wfile.write(here.files[name])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    here.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield here
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
