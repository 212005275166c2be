"""`load`: names, files and arrays, with a real server on this machine for what has to be downloaded."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_files import Site, archive, cifar, idx, serve, sha
from tinygrad_cr.data import Dataset, load, sources
from tinygrad_cr.data.registry import SOURCES, CifarSource, IdxSource
from tinygrad_cr.errors import DataError, DownloadError, OptionError

TINY = {
    "train-images-idx3-ubyte": idx(np.arange(24, dtype=np.uint8).reshape(6, 2, 2)),
    "train-labels-idx1-ubyte": idx(np.array([0, 1, 2, 0, 1, 2], np.uint8)),
    "t10k-images-idx3-ubyte": idx(np.ones((2, 2, 2), np.uint8)),
    "t10k-labels-idx1-ubyte": idx(np.array([2, 0], np.uint8)),
}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as here:
        yield here


@pytest.fixture
def machine(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A machine without data sets, and a site that has "tiny" and "tiny-cifar"."""
    monkeypatch.delenv("TINYGRAD_CR_DATA", raising=False)
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path / "cache")
    sums = {name: sha(contents) for name, contents in TINY.items()}
    monkeypatch.setitem(SOURCES, "tiny", IdxSource(site.url, sums, ("a", "b", "c"), 1000))
    packed = archive({"x/data_batch_1.bin": cifar([1, 2])[0], "x/test_batch.bin": cifar([3])[0]})
    monkeypatch.setitem(SOURCES, "tiny-cifar", CifarSource(site.url, "c.tar.gz", "x", sha(packed), len(packed), (2, 1)))
    site.files = {f"{name}.gz": gzip.compress(contents) for name, contents in TINY.items()} | {"c.tar.gz": packed}
    return site


def place(folder: Path, *, gzipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in TINY.items():
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(contents, 1) if gzipped else contents)


def test_a_named_data_set_is_downloaded_with_its_test_part(machine: Site) -> None:
    data = load("tiny")
    assert repr(data) == "Dataset('tiny', 6 rows, 4 features uint8, image (2, 2), 3 classes, 2 test rows)"


def test_a_downloaded_data_set_is_not_downloaded_again(machine: Site) -> None:
    load("tiny")
    load("tiny")
    assert len(machine.requests) == 4


def test_an_interrupted_download_goes_on_where_it_was(machine: Site) -> None:
    last = machine.files.pop("t10k-labels-idx1-ubyte.gz")
    with pytest.raises(DownloadError):
        load("tiny")
    machine.files["t10k-labels-idx1-ubyte.gz"] = last
    load("tiny")
    assert len(machine.requests) == 5


def test_cifar_is_downloaded_and_read_from_its_archive(machine: Site) -> None:
    data = load("tiny-cifar")
    assert (len(data), data.image_shape, len(data.test or ())) == (2, (32, 32, 3), 1)


def test_an_unpacked_cifar_folder_that_lacks_a_batch_is_refused(machine: Site, tmp_path: Path) -> None:
    (tmp_path / "cache" / "x").mkdir(parents=True)
    (tmp_path / "debian" / "tiny-cifar" / "x").mkdir(parents=True)
    (tmp_path / "debian" / "tiny-cifar" / "x" / "data_batch_1.bin").write_bytes(cifar([1, 2])[0])
    with pytest.raises(DataError, match=r"holds \(2, 0\).*expected \(2, 1\)"):
        load("tiny-cifar")


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("where", ["own/tiny", "own", "cache/tiny", "debian/tiny"])
def test_local_files_are_found_without_the_network(
    machine: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, gzipped: bool
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("TINYGRAD_CR_DATA", str(tmp_path / "own"))
    place(tmp_path / where, gzipped=gzipped)
    assert (len(load("tiny", download=False)), machine.requests) == (6, [])


def test_a_damaged_local_file_is_named_and_not_downloaded_over(machine: Site, tmp_path: Path) -> None:
    place(tmp_path / "debian" / "tiny")
    path = tmp_path / "debian" / "tiny" / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(DataError, match=rf"{path}: .*expected {sha(TINY[path.name])}"):
        load("tiny")
    assert machine.requests == []


def test_a_file_of_another_data_set_is_recognised(
    machine: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dict.fromkeys(TINY, "0" * 64)
    monkeypatch.setitem(SOURCES, "other", IdxSource(machine.url, other, ("a", "b", "c"), 1000))
    place(tmp_path / "debian" / "other")
    with pytest.raises(DataError, match="is a file of tiny, and other was asked for"):
        load("other")


def test_a_data_set_that_is_not_there_lists_where_it_was_looked_for(machine: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path / 'cache' / 'tiny'}, {tmp_path / 'debian' / 'tiny'}"):
        load("tiny", download=False)


def test_a_data_folder_that_does_not_exist_is_an_error(
    machine: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYGRAD_CR_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match=r"TINYGRAD_CR_DATA is .*typo"):
        load("tiny")


def test_the_digits_are_those_of_the_uci_repository() -> None:
    data = load("digits")
    assert sha(data.x.tobytes()) == "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"


def test_the_digits_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGRAD_CR_DATA", "/nowhere/at/all")
    assert len(load("digits")) == 1797


def test_fashion_mnist_loads_where_it_is_installed() -> None:
    try:
        data = load("fashion-mnist", download=False)
    except DataError as problem:
        pytest.skip(str(problem))
    assert np.bincount(data.y).tolist() == [6000] * 10  # type: ignore[arg-type]


def test_a_data_set_passes_through() -> None:
    data = Dataset([[1.0]], [0])
    assert load(data) is data


def test_files_are_told_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.CSV").write_text("1,2,0\n")
    assert load(tmp_path / "a.CSV").features == 2


def test_a_file_loads_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(2))
    assert load(tmp_path / "a.npz", label=None).y is None


UNLOADABLE: dict[str, tuple[Any, type[Exception], str]] = {
    "a misspelt name": ("digit", OptionError, r"did you mean 'digits'.*\.npz or \.csv"),
    "a missing file": ("data/mine.npz", DataError, r"mine\.npz: there is no such file"),
    "a missing file of another kind": ("mine.parquet", DataError, r"no such file \(wanted \.npz or \.csv"),
    "a folder": (Path(__file__).parent, DataError, "unknown kind of file"),
    "a number": (3, OptionError, "cannot load int"),
    "a list": ([[1.0]], OptionError, "cannot load list"),
}


@pytest.mark.parametrize("case", UNLOADABLE)
def test_what_cannot_be_loaded_says_what_can(case: str) -> None:
    source, error, message = UNLOADABLE[case]
    with pytest.raises(error, match=message):
        load(source)


def test_a_label_column_is_for_csv_files_only() -> None:
    with pytest.raises(OptionError, match="label='kind'"):
        load("digits", label="kind")
