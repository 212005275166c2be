"""IDX, CIFAR-10's binary version and .npz: what they hold, and what a cut off or damaged file does."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_files import archive, cifar, idx
from tinygrad_cr.data import read_cifar10_binary, read_idx, read_npz
from tinygrad_cr.errors import DataError

DATA = Path(__file__).parent / "data"
IN_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)), st.booleans())
def test_an_idx_array_comes_back(array: Any, zipped: bool) -> None:
    contents = gzip.compress(idx(array)) if zipped else idx(array)
    np.testing.assert_array_equal(read_idx(contents), array)


def test_idx_numbers_are_big_endian() -> None:
    assert read_idx(bytes([0, 0, 0x0C, 1]) + struct.pack(">Ii", 1, -70000)).tolist() == [-70000]


IMAGES = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize("size", range(len(IMAGES)))
def test_an_idx_file_cut_off_anywhere_is_refused(size: int) -> None:
    with pytest.raises(DataError):
        read_idx(IMAGES[:size])


@pytest.mark.parametrize("size", range(2, len(gzip.compress(IMAGES)), 7))
def test_a_gzip_stream_cut_off_anywhere_is_refused(size: int) -> None:
    with pytest.raises(DataError):
        read_idx(gzip.compress(IMAGES)[:size])


def test_a_short_idx_file_is_named_with_expected_and_found_bytes(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(IMAGES[:-1])
    with pytest.raises(DataError, match=r"images: expected 40 bytes for shape \(2, 3, 4\), found 39"):
        read_idx(path)


def test_a_long_idx_file_is_refused() -> None:
    with pytest.raises(DataError, match="found 41"):
        read_idx(IMAGES + b"x")


def test_a_flipped_bit_in_a_gzip_stream_is_found() -> None:
    damaged = bytearray(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 3, 232]) + bytes(1000)))
    damaged[-8] ^= 1
    with pytest.raises(DataError, match="gzip"):
        read_idx(bytes(damaged))


def test_a_file_of_another_kind_is_no_idx_file() -> None:
    with pytest.raises(DataError, match="no IDX file"):
        read_idx(b"PK\x03\x04 something else")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such file"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize("packed", [True, False])
def test_cifar_images_come_back_with_colours_last(tmp_path: Path, packed: bool) -> None:
    (one, first), (two, second), (three, _) = cifar([3, 1], 1), cifar([9], 2), cifar([0], 3)
    files = {"data_batch_2.bin": two, "data_batch_1.bin": one, "test_batch.bin": three}
    path = tmp_path / "cifar.tar.gz" if packed else tmp_path
    if packed:
        path.write_bytes(archive({f"cifar-10-batches-bin/{name}": files[name] for name in files}))
    else:
        for name, contents in files.items():
            (path / name).write_bytes(contents)
    np.testing.assert_array_equal(read_cifar10_binary(path).x.reshape(-1, 32, 32, 3), np.concatenate([first, second]))


def test_the_cifar_test_batch_is_the_test_part(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(cifar([1])[0])
    (tmp_path / "test_batch.bin").write_bytes(cifar([7])[0])
    test = read_cifar10_binary(tmp_path).test
    assert test is not None
    assert test.y is not None
    assert test.y.tolist() == [7]


def test_a_member_that_climbs_out_of_the_archive_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "a.tar.gz").write_bytes(archive({"../../data_batch_1.bin": cifar([1])[0]}))
    read_cifar10_binary(folder / "a.tar.gz")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "inner"]


def test_a_cut_off_cifar_batch_is_named_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(cifar([1])[0][:-1])
    with pytest.raises(DataError, match=r"data_batch_1\.bin has 3072 bytes, expected a multiple of 3073"):
        read_cifar10_binary(tmp_path)


def test_a_cifar_label_above_nine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(cifar([1, 10])[0])
    with pytest.raises(DataError, match="label of record 1 is 10"):
        read_cifar10_binary(tmp_path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_cut_off_archive_is_refused(tmp_path: Path, part: float) -> None:
    whole = archive({"data_batch_1.bin": cifar([1, 2, 3])[0]})
    (tmp_path / "a.tar.gz").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DataError, match=r"a\.tar\.gz: "):
        read_cifar10_binary(tmp_path / "a.tar.gz")


def test_the_python_version_of_cifar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(archive({"cifar-10-batches-py/data_batch_1": b"\x80\x02"}))
    with pytest.raises(DataError, match="binary version"):
        read_cifar10_binary(tmp_path / "a.tar.gz")


def test_the_twenty_cifar_images_load() -> None:
    data = read_npz(DATA / "cifar10-20.npz")
    assert (data.x.shape, str(data.x.dtype), data.image_shape) == ((20, 3072), "uint8", (32, 32, 3))


@IN_FOLDER
@given(
    x=hnp.arrays(st.sampled_from([np.uint8, np.float32, np.float64]), (4, 3), elements=st.integers(0, 255)),
    y=hnp.arrays(np.int64, 4, elements=st.integers(0, 9)),
    keys=st.sampled_from([("x", "y"), ("X", "Y"), ("images", "labels"), ("data", "target"), ("x", "targets")]),
)
def test_arrays_saved_as_npz_come_back(tmp_path: Path, x: Any, y: Any, keys: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **{keys[0]: x, keys[1]: y})
    data = read_npz(tmp_path / "a.npz")
    assert data.x.dtype == x.dtype
    np.testing.assert_array_equal(data.x, x)
    np.testing.assert_array_equal(data.y, y)


def test_an_npz_with_test_arrays_has_a_test_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(3), y=np.arange(3), x_test=np.ones((1, 3)), y_test=np.array([2]))
    assert len(read_npz(tmp_path / "a.npz").test or ()) == 1


def test_an_npz_without_labels_loads_for_prediction(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(3))
    assert read_npz(tmp_path / "a.npz", labelled=False).y is None


def test_missing_arrays_are_listed_with_those_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(3), why=np.arange(3))
    with pytest.raises(DataError, match=r"a\.npz: .*labels: found \['why', 'x'\], wanted one of y, "):
        read_npz(tmp_path / "a.npz")


def test_bad_data_in_an_npz_is_reported_with_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((2, 2), np.nan), y=np.arange(2))
    with pytest.raises(DataError, match=r"a\.npz: x\[0, 0\] is nan"):
        read_npz(tmp_path / "a.npz")


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[print]]), y=np.arange(1))
    with pytest.raises(DataError, match="never unpickled"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.99])
def test_a_cut_off_npz_is_refused(tmp_path: Path, part: float) -> None:
    whole = (DATA / "cifar10-20.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DataError, match=r"a\.npz: "):
        read_npz(tmp_path / "a.npz")


@IN_FOLDER
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_byte_in_an_npz_is_an_error_of_ours_or_harmless(tmp_path: Path, at: int, flip: int) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(32.0).reshape(8, 4), y=np.arange(8))
    contents = bytearray((tmp_path / "a.npz").read_bytes())
    contents[at % len(contents)] ^= flip
    (tmp_path / "a.npz").write_bytes(contents)
    try:
        found = read_npz(tmp_path / "a.npz").x
    except DataError:
        return
    np.testing.assert_array_equal(found, np.arange(32.0).reshape(8, 4))
