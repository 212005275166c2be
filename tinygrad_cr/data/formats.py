"""Readers of binary files: IDX (MNIST), CIFAR-10's binary version, and NumPy's ``.npz``.

Files come from strangers: sizes are checked against what a header promises, and nothing is ever unpickled.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cr.data.dataset import Dataset
from tinygrad_cr.errors import DataError, ShapeError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CIFAR_RECORD = 1 + 3 * 32 * 32
_X_KEYS = ("x", "X", "images", "data", "x_train", "X_train")
_Y_KEYS = ("y", "Y", "labels", "label", "target", "targets", "y_train", "Y_train")
_X_TEST_KEYS = ("x_test", "X_test", "images_test", "data_test")
_Y_TEST_KEYS = ("y_test", "Y_test", "labels_test", "label_test", "target_test", "targets_test")

_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
_BROKEN_ZIP = (
    EOFError, KeyError, MemoryError, NotImplementedError, OSError, RuntimeError, ValueError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def in_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file's name before the message of a data or shape error raised inside.

    >>> with in_file("a.csv"):
    ...     raise DataError("no rows")
    Traceback (most recent call last):
    tinygrad_cr.errors.DataError: a.csv: no rows
    """
    try:
        yield
    except (DataError, ShapeError) as problem:
        raise type(problem)(f"{os.fspath(path)}: {problem}") from None
    except FileNotFoundError:
        raise DataError(f"{os.fspath(path)}: there is no such file") from None
    except OSError as problem:
        raise DataError(f"{os.fspath(path)}: cannot be read: {problem.strerror or problem}") from None


def read_contents(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, decompressed if it is gzipped (told by its first bytes, not by its name).

    Raises `DataError` when the file is missing or its gzip stream is cut off or damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.gz")
    ...     size = path.write_bytes(gzip.compress(b"some bytes"))
    ...     read_contents(path)
    b'some bytes'
    """
    with in_file(path):
        return _decompressed(Path(path).read_bytes())


def read_idx(source: str | os.PathLike[str] | bytes) -> NDArray[Any]:
    """The array in an IDX file, gzipped or not, in its own shape and dtype (MNIST: uint8 ``[n, 28, 28]``).

    source: a path, or the file's bytes. Format: http://yann.lecun.com/exdb/mnist/ ("the IDX file format").
    Raises `DataError` when it is no IDX file, or shorter or longer than its header says.

    >>> read_idx(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
    [[7, 8, 9]]
    """
    if not isinstance(source, bytes):
        contents = read_contents(source)
        with in_file(source):
            return _parse_idx(contents)
    return _parse_idx(_decompressed(source))


def read_cifar10_binary(path: str | os.PathLike[str]) -> Dataset:
    """CIFAR-10 from its binary version: the ``tar.gz``, or the folder with ``data_batch_*.bin``.

    Returns x: ``[n, 3072]`` uint8, rows being ``[32, 32, 3]`` images (height, width, colour), and y: ``[n]``;
    ``test`` is set where ``test_batch.bin`` is there. Members of the archive are read in memory, never
    unpacked. Raises `DataError` for a missing, cut off or damaged file and for labels above 9.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = Path(folder, "data_batch_1.bin").write_bytes(bytes([3]) + bytes(3072))
    ...     read_cifar10_binary(folder)
    Dataset('cifar10', 1 rows, 3072 features uint8, image (32, 32, 3), 10 classes)
    """
    with in_file(path):
        batches = _cifar_folder(Path(path)) if Path(path).is_dir() else _cifar_archive(Path(path))
        names = sorted(name for name in batches if name.startswith("data_batch_"))
        if not names:
            raise DataError("holds no data_batch_*.bin: the binary version of CIFAR-10 is wanted, not the Python one")
        parts = [_parse_cifar(name, batches[name]) for name in names]
        test = None
        if "test_batch.bin" in batches:
            test = Dataset(*_parse_cifar("test_batch.bin", batches["test_batch.bin"]), "cifar10 test", CIFAR10_CLASSES)
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Dataset(x, y, "cifar10", CIFAR10_CLASSES, test=test)


def read_npz(path: str | os.PathLike[str], *, labelled: bool = True) -> Dataset:
    """A data set from the arrays of an ``.npz`` file.

    Rows are the array named x, X, images, data or x_train (the first one found), labels the one named y, Y,
    labels, label, target, targets or y_train; x_test and y_test (or images_test ...) become the test part,
    and strings called class_names the names of the classes. With ``labelled=False`` labels are ignored and
    need not exist. Raises `DataError` for a broken file, arrays of Python objects (they would need pickle)
    and missing keys.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "a.npz"), images=np.zeros((2, 8, 8), np.uint8), labels=np.array([0, 1]))
    ...     read_npz(Path(folder, "a.npz"))
    Dataset('a', 2 rows, 64 features uint8, image (8, 8), 2 classes)
    """
    with in_file(path):
        arrays = _npz_arrays(Path(path).read_bytes())
        x, y = _pick(arrays, _X_KEYS, "rows"), None
        names = tuple(str(each) for each in np.ravel(arrays.get("class_names", ())))
        if labelled:
            y = _pick(arrays, _Y_KEYS, "labels")
        test = None
        if labelled and any(key in arrays for key in _X_TEST_KEYS):
            test_y = _pick(arrays, _Y_TEST_KEYS, "labels of the test part")
            test = Dataset(_pick(arrays, _X_TEST_KEYS, "test rows"), test_y, f"{Path(path).stem} test", names)
        return Dataset(x, y, Path(path).stem, names, test=test)


def _decompressed(contents: bytes) -> bytes:
    if contents[:2] != b"\x1f\x8b":
        return contents
    try:
        return gzip.decompress(contents)
    except _BROKEN_GZIP as problem:
        raise DataError(f"the gzip stream of {len(contents)} bytes is cut off or damaged ({problem})") from None


def _parse_idx(contents: bytes) -> NDArray[Any]:
    if len(contents) < 4 or contents[:2] != b"\0\0" or contents[2] not in _IDX_DTYPES:
        raise DataError(f"is no IDX file: it begins with {contents[:4]!r}, wanted two zero bytes and a type code")
    dtype, axes = np.dtype(_IDX_DTYPES[contents[2]]), contents[3]
    header = 4 + 4 * axes
    shape = tuple(int(side) for side in np.frombuffer(contents[4:header], ">u4", count=len(contents[4:header]) // 4))
    expected = header + math.prod(shape) * dtype.itemsize
    if len(shape) != axes or len(contents) != expected:
        raise DataError(
            f"expected {expected} bytes for shape {shape}, found {len(contents)}: "
            "the file is cut off or damaged; get it again"
        )
    return np.frombuffer(contents, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def _cifar_folder(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*_batch*.bin")}


def _cifar_archive(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and member.name.endswith(".bin"):
                    found[PurePosixPath(member.name).name] = stream.read()
    except (tarfile.TarError, *_BROKEN_GZIP) as problem:
        raise DataError(f"the archive is cut off or damaged ({problem}); get it again") from None
    return found


def _parse_cifar(name: str, contents: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    if not contents or len(contents) % _CIFAR_RECORD:
        raise DataError(f"{name} has {len(contents)} bytes, expected a multiple of {_CIFAR_RECORD}")
    records = np.frombuffer(contents, np.uint8).reshape(-1, _CIFAR_RECORD)
    if records[:, 0].max() > 9:
        row = int(np.argmax(records[:, 0] > 9))
        raise DataError(f"{name}: the label of record {row} is {records[row, 0]}, expected 0..9")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _npz_arrays(contents: bytes) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(io.BytesIO(contents)):
        raise DataError(f"is no whole .npz file ({len(contents)} bytes): it is cut off, damaged or something else")
    try:
        with np.load(io.BytesIO(contents), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except _BROKEN_ZIP as problem:
        raise DataError(
            f"cannot be read ({problem}): the file is damaged, or holds Python objects, which are never "
            "unpickled; save plain arrays with np.savez"
        ) from None


def _pick(arrays: dict[str, NDArray[Any]], keys: tuple[str, ...], what: str) -> NDArray[Any]:
    for key in keys:
        if key in arrays:
            return arrays[key]
    raise DataError(f"no array for the {what}: found {sorted(arrays)}, wanted one of {', '.join(keys)}")
