"""`load`: a data set from its name, a file or arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from tinygrad_cr.data.dataset import Dataset
from tinygrad_cr.data.formats import in_file, read_cifar10_binary, read_contents, read_idx, read_npz
from tinygrad_cr.data.registry import SOURCES, CifarSource, IdxSource
from tinygrad_cr.data.table import Label, LabelColumn, read_csv
from tinygrad_cr.errors import DataError, OptionError, unknown_name

DATA_FOLDER_VARIABLE = "TINYGRAD_CR_DATA"
DEBIAN_FOLDER = Path("/usr/share/datasets")
_FILES = ".npz or .csv"


def load(
    source: str | os.PathLike[str] | Dataset | tuple[ArrayLike, ArrayLike | None],
    *,
    label: LabelColumn = Label.AUTO,
    download: bool = True,
) -> Dataset:
    """The data set that source names, holds or is.

    source: "digits" (1,797 real 8x8 images, shipped with the package), "mnist", "fashion-mnist" or "cifar10";
    the path of an ``.npz`` or ``.csv`` file; a pair of arrays (x, y); or a `Dataset`, which is returned as it
    is. Named data sets are looked for in ``$TINYGRAD_CR_DATA/NAME``, ``$TINYGRAD_CR_DATA``, the user's cache
    folder and ``/usr/share/datasets/NAME``, and downloaded into the cache folder if they are in none (unless
    ``download=False``).

    label: which column of a ``.csv`` is the label, as in `read_csv`; None, for any source, loads without
    labels.

    Raises `DataError` for missing, damaged or invalid data, `OptionError` for an unknown name, and
    `DownloadError`.

    >>> load("digits")
    Dataset('digits', 1797 rows, 64 features uint8, image (8, 8), 10 classes)
    >>> load(([[1.0], [2.0]], [0, 1]))
    Dataset(2 rows, 1 features float64, 2 classes)
    """
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        if Path(name).suffix.lower() == ".csv":
            return read_csv(name, label)
        loaded = _load_named_or_npz(name, label is not None, download)
    elif isinstance(source, Dataset):
        loaded = source
    else:
        loaded = Dataset(*_pair(source))
    if isinstance(label, str | int):
        raise OptionError(f"label={label!r} chooses a column of a .csv file, and {loaded!r} is none: leave it out")
    if label is None and loaded.y is not None:
        return Dataset(loaded.x, None, loaded.name, loaded.class_names, loaded.image_shape, loaded.test)
    return loaded


def known_names() -> list[str]:
    """The names `load` knows, sorted.

    >>> known_names()
    ['cifar10', 'digits', 'fashion-mnist', 'mnist']
    """
    return sorted(["digits", *SOURCES])


def cache_folder() -> Path:
    """Where downloads go: ``tinygrad_cr`` in the user's cache folder (``~/.cache`` on Linux).

    >>> cache_folder().name
    'tinygrad_cr'
    """
    import platformdirs

    return Path(platformdirs.user_cache_dir("tinygrad_cr", appauthor=False))


def _pair(source: object) -> tuple[Any, Any]:
    if isinstance(source, tuple) and len(source) == 2:
        return source
    raise OptionError(f"cannot load {type(source).__name__}: give a name, a path, a pair (x, y) or a Dataset")


def _load_named_or_npz(name: str, labelled: bool, download: bool) -> Dataset:
    if name == "digits":
        with resources.as_file(resources.files("tinygrad_cr.data") / "digits.npz") as path:
            return read_npz(path)
    if name in SOURCES:
        source = SOURCES[name]
        if isinstance(source, IdxSource):
            return _load_idx(name, source, download)
        return _load_cifar(name, source, download)
    path = Path(name)
    if path.suffix.lower() == ".npz":
        return read_npz(path, labelled=labelled)
    if path.exists():
        raise DataError(f"{name}: unknown kind of file, wanted {_FILES}")
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"{name}: there is no such file (wanted {_FILES}, or one of: {', '.join(known_names())})")
    problem = unknown_name("data set", name, known_names())
    raise OptionError(f"{problem}; the path of a {_FILES} file is fine too")


def _folders(name: str) -> list[Path]:
    """Where a named data set may lie, most specific first."""
    folders = [cache_folder() / name, DEBIAN_FOLDER / name]
    named = os.environ.get(DATA_FOLDER_VARIABLE)
    if named:
        own = Path(named).expanduser()
        if not own.is_dir():
            raise DataError(f"{DATA_FOLDER_VARIABLE} is {named!r}, which is no folder: correct or unset it")
        folders = [own / name, own, *folders]
    return folders


def _missing(name: str, files: Sequence[str], folders: Sequence[Path]) -> DataError:
    return DataError(
        f"data set {name!r} is not on this machine: looked for {', '.join(files)} in "
        f"{', '.join(map(str, folders))}; allow the download, or put the files there "
        f"(or into the folder {DATA_FOLDER_VARIABLE} names)"
    )


def _load_idx(name: str, source: IdxSource, download: bool) -> Dataset:
    folders = _folders(name)
    for folder in folders:
        found = [_plain_or_gzipped(folder, file) for file in source.sha256]
        paths = [path for path in found if path is not None]
        if len(paths) == len(found):
            break
    else:
        if not download:
            raise _missing(name, [f"{file}[.gz]" for file in source.sha256], folders)
        paths = [_download_idx(name, source, file) for file in source.sha256]
    arrays = []
    for path, file in zip(paths, source.sha256, strict=True):
        contents = read_contents(path)
        with in_file(path):
            _check(name, source.sha256[file], hashlib.sha256(contents).hexdigest())
            arrays.append(read_idx(contents))
    test = Dataset(arrays[2], arrays[3], f"{name} test", source.class_names)
    return Dataset(arrays[0], arrays[1], name, source.class_names, test=test)


def _plain_or_gzipped(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _download_idx(name: str, source: IdxSource, file: str) -> Path:
    from tinygrad_cr.data.download import fetch

    folder = cache_folder() / name
    # An earlier, interrupted download may have brought some of the files.
    return _plain_or_gzipped(folder, file) or fetch(
        f"{source.url}{file}.gz",
        folder / f"{file}.gz",
        sha256=None,
        content_sha256=source.sha256[file],
        max_bytes=source.max_bytes,
    )


def _load_cifar(name: str, source: CifarSource, download: bool) -> Dataset:
    folders = _folders(name)
    candidates = [folder / each for folder in folders for each in (source.folder, source.archive)]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        if not download:
            raise _missing(name, [source.folder, source.archive], folders)
        from tinygrad_cr.data.download import fetch

        path = cache_folder() / name / source.archive
        fetch(source.url + source.archive, path, sha256=source.sha256, max_bytes=source.max_bytes)
    if path.is_file():
        with in_file(path), path.open("rb") as file:
            _check(name, source.sha256, hashlib.file_digest(file, "sha256").hexdigest())
    loaded = read_cifar10_binary(path)
    found = (len(loaded), 0 if loaded.test is None else len(loaded.test))
    if found != source.rows:
        raise DataError(f"{path}: holds {found} training and test rows, expected {source.rows}; unpack it again")
    return loaded


def _check(name: str, expected: str, found: str) -> None:
    if found == expected:
        return
    # MNIST and Fashion-MNIST call their files alike, so one is easily taken for the other.
    for other, source in SOURCES.items():
        if isinstance(source, IdxSource) and found in source.sha256.values():
            raise DataError(
                f"is a file of {other}, and {name} was asked for: "
                f"put it into a folder {other}, beside the folder {name}"
            )
    raise DataError(
        f"is not the {name} file: its contents have SHA-256 {found}, expected {expected}; "
        "remove the file to have it downloaded again"
    )
