"""Downloads from a real server on this machine: whole and checked, or nothing at all."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_files import Site, serve, sha
from tinygrad_cr.data import fetch
from tinygrad_cr.errors import DownloadError, OptionError

BODY = bytes(range(256)) * 1000


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as here:
        yield here


def get(site: Site, folder: Path, **options: Any) -> Path:
    settings: dict[str, Any] = {"sha256": sha(BODY), "max_bytes": len(BODY)} | options
    return fetch(f"{site.url}a.bin", folder / "new" / "deep" / "a.bin", **settings)


def test_a_file_arrives_whole(site: Site, tmp_path: Path) -> None:
    site.files["a.bin"] = BODY
    assert get(site, tmp_path).read_bytes() == BODY


def test_nothing_but_the_file_is_left(site: Site, tmp_path: Path) -> None:
    site.files["a.bin"] = BODY
    get(site, tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.bin"]


def test_a_file_of_unannounced_length_arrives(site: Site, tmp_path: Path) -> None:
    site.files["a.bin"], site.announce = BODY, None
    assert get(site, tmp_path).read_bytes() == BODY


def test_a_gzip_file_is_checked_by_its_contents(site: Site, tmp_path: Path) -> None:
    site.files["a.bin"] = gzip.compress(BODY)
    assert get(site, tmp_path, sha256=None, content_sha256=sha(BODY)).exists()


def test_no_bar_is_drawn_away_from_a_terminal(site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site.files["a.bin"] = BODY
    get(site, tmp_path)
    assert capfd.readouterr() == ("", "")


FAILURES: dict[str, tuple[dict[str, bytes], int | None, dict[str, Any], str]] = {
    "not found": ({}, 0, {}, "404"),
    "wrong checksum": ({"a.bin": BODY[:-1] + b"x"}, 0, {}, f"SHA-256 is .*, expected {sha(BODY)}"),
    "announced too large": ({"a.bin": BODY}, 0, {"max_bytes": 1000}, "announces 256000 bytes, at most 1000"),
    "sent too large": ({"a.bin": BODY}, None, {"max_bytes": 1000}, "more than the 1000 bytes"),
    "cut off": ({"a.bin": BODY[:-9]}, 9, {}, "255991 .*256000|IncompleteRead"),
    "cut off, unannounced": ({"a.bin": BODY[:-9]}, None, {}, "SHA-256"),
    "wrong contents": (
        {"a.bin": gzip.compress(BODY + b"x")},
        0,
        {"sha256": None, "content_sha256": sha(BODY)},
        "decompressed",
    ),
    "no gzip": ({"a.bin": BODY}, 0, {"sha256": None, "content_sha256": sha(BODY)}, "no whole gzip"),
    "half a gzip": (
        {"a.bin": gzip.compress(BODY)[:-20]},
        0,
        {"sha256": None, "content_sha256": sha(BODY)},
        "no whole gzip",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_download_says_why_and_leaves_nothing(site: Site, tmp_path: Path, case: str) -> None:
    site.files, site.announce, options, message = FAILURES[case]
    with pytest.raises(DownloadError, match=message):
        get(site, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_keeps_the_file_that_was_there(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    site.files["a.bin"] = b"wrong"
    with pytest.raises(DownloadError):
        fetch(f"{site.url}a.bin", tmp_path / "a.bin", sha256=sha(BODY), max_bytes=100)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_the_error_names_url_folder_and_remedy(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=rf"{site.url}a\.bin.*by hand to {tmp_path}.*TINYGRAD_CR_DATA"):
        get(site, tmp_path)


def test_a_server_that_is_not_there_is_an_error_that_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
        with pytest.raises(DownloadError, match="refused"):
            fetch(url, tmp_path / "new" / "a.bin", sha256=sha(BODY), max_bytes=10)
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("tinygrad_cr.data.download.TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.bin"
        with pytest.raises(DownloadError, match="timed out"):
            fetch(url, tmp_path / "a.bin", sha256=sha(BODY), max_bytes=10)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/a", "a.bin"])
def test_only_the_web_is_fetched_from(url: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="only http"):
        fetch(url, tmp_path / "a", sha256=sha(BODY), max_bytes=10)


def test_a_download_without_a_checksum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="content_sha256"):
        fetch("http://127.0.0.1/a", tmp_path / "a", sha256=None, max_bytes=10)
