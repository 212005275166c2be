"""Products that skip the zeros of a factor: the same bits as those that read them, and the same NaN and infinity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest

import tinygrad_cr
from calls import TOLERANCE, Maker, Size, assert_like_reference, call
from tinygrad_cr.kernels.cpu.sparse import LEAST, LEAST_VECTORS, MOST_NONZERO, worth_skipping
from tinygrad_cr.kernels.cpu.threads import usable_cores
from tinygrad_cr.kernels.cpu.vectors import VECTOR_BYTES

# Nothing ends with a word, vector or panel; sums in two halves; several groups of panels; words that are all there.
# Of narrow results a sparse dy is skipped everywhere, a sparse x where vectors are short.
SIZES = [
    Size(130, 300, 330),
    Size(130, 200, 107),
    Size(100, 3072, 50),
    Size(333, 523, 421),
    Size(256, 192, 384),
    Size(90, 1000, 33),
]
SPARSE = ["x", "dy"]

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s.rows}x{s.inner}x{s.columns}")
several_cores = pytest.mark.skipif(usable_cores() < 2, reason="one core")
either_factor = pytest.mark.parametrize("sparse", SPARSE)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = tinygrad_cr.get_num_threads()
    yield
    tinygrad_cr.set_num_threads(before)


@numba.njit
def skipped(a: Any, columns: int, most: float) -> Any:
    return worth_skipping(a, columns, most)


def arguments(dtype: Any, size: Size, sparse: str = "", nonzero: float = 0.25) -> dict[str, dict[str, Any]]:
    """Of both kernels, by name; of the factor that is named, only a part is not zero."""
    made = Maker(dtype)
    forward, backward = made.affine(size), made.affine_backward(size)
    for factor in (forward.get(sparse), backward.get(sparse)):
        if factor is not None:
            factor[made.rng.random(factor.shape) >= nonzero] = 0
            assert skipped(factor, 128, MOST_NONZERO)
    return {"affine": forward, "affine_backward": backward}


def in_pieces(kernel: str, given: dict[str, Any], cut: dict[str, int]) -> dict[str, Any]:
    """What a kernel writes if it is called for few rows, or columns, at a time: too few to skip anything.

    cut: the axis along which each array is cut; the others go into each call whole.
    """
    length = {given[name].shape[axis] for name, axis in cut.items()}.pop()
    parts = []
    for begin in range(0, length, LEAST - 1):
        own = dict(given)
        for name, axis in cut.items():
            pieces = (slice(None),) * axis + (slice(begin, begin + LEAST - 1),)
            own[name] = np.ascontiguousarray(given[name][pieces])
        parts.append(call("cpu", kernel, own))
    return {name: np.concatenate([part[name] for part in parts], axis) for name, axis in cut.items()}


def assert_same_bits(found: Any, wanted: Any) -> None:
    number = f"u{found.itemsize}"
    np.testing.assert_array_equal(found.view(number), wanted.view(number))


@every_size
@both_dtypes
@either_factor
@pytest.mark.parametrize("nonzero", [0.0, 0.02, 0.4])
def test_skipping_changes_no_bit(dtype: Any, size: Size, sparse: str, nonzero: float) -> None:
    given = arguments(dtype, size, sparse, nonzero)
    out = call("cpu", "affine", given["affine"])["out"]
    backward = given["affine_backward"]
    gradients = call("cpu", "affine_backward", backward)
    rows = {"dy": 0, "x": 0, "dx": 0}
    assert_same_bits(out, in_pieces("affine", given["affine"], {"x": 0, "out": 0})["out"])
    dx = in_pieces("affine_backward", backward | {"dw": None, "db": None}, rows)["dx"]
    assert_same_bits(gradients["dx"], dx)
    # Of a factor with few columns no zeros are skipped in a product with few columns of the other.
    columns = {"dy": 1, "dw": 1} if sparse == "x" else {"x": 1, "dw": 0}
    dw = in_pieces("affine_backward", backward | {"dx": None, "db": None}, columns)["dw"]
    assert_same_bits(gradients["dw"], dw)


@every_size
@both_dtypes
@either_factor
def test_products_of_mostly_zeros_equal_reference(dtype: Any, size: Size, sparse: str) -> None:
    for kernel, given in arguments(dtype, size, sparse).items():
        assert_like_reference("cpu", kernel, given, max(size))


@every_size
@both_dtypes
@either_factor
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_zero_times_infinity_is_not_skipped(dtype: Any, size: Size, sparse: str, value: float) -> None:
    """In the factor that is read only where the other one is not zero, one element after the other."""
    rng = np.random.default_rng(0)
    for kernel, given in arguments(dtype, size, sparse).items():
        for name in ("w", *{"x", "dy"} - {sparse}):
            # The ends, and somewhere inside of panels and of their vectors.
            for place in (0, -1, *rng.integers(given[name].size, size=4)) if name in given else ():
                factor = given[name].copy()
                factor.reshape(-1)[place] = value
                with np.errstate(invalid="ignore"):
                    assert_like_reference("cpu", kernel, given | {name: factor}, max(size))


def gated(dtype: Any, size: Size, nonzero: float = 0.25) -> dict[str, Any]:
    """Arguments of the fused backward kernel, of a first layer: nobody asks for dx. A few outputs are not above 0."""
    given = Maker(dtype).affine_relu_dropout_backward(size) | {"dx": None}
    given["y"][Maker(dtype, 1).rng.random(given["y"].shape) >= 2 * nonzero] = 0
    given["y"].reshape(-1)[5::211], given["y"].reshape(-1)[7::223] = -1, np.nan
    return given


@every_size
@both_dtypes
@pytest.mark.parametrize("nonzero", [0.0, 0.02, 0.25])
def test_a_gradient_that_is_turned_at_once_has_the_same_bits(dtype: Any, size: Size, nonzero: float) -> None:
    given = gated(dtype, size, nonzero)
    found = call("cpu", "affine_relu_dropout_backward", given)
    # It is nowhere as it is, but in memory for its transpose.
    assert np.isnan(found["dz"]).all()
    # What asks for dx as well writes dz as it is, and then its transpose.
    with_dx = call("cpu", "affine_relu_dropout_backward", given | {"dx": np.empty_like(given["x"])})
    for name in ("dw", "db"):
        assert_same_bits(found[name], with_dx[name])


@every_size
@both_dtypes
def test_a_gradient_that_is_turned_at_once_equals_reference(dtype: Any, size: Size) -> None:
    given = gated(dtype, size)
    wanted = call("reference", "affine_relu_dropout_backward", given)
    found = call("cpu", "affine_relu_dropout_backward", given)
    for name in ("dw", "db"):
        limit = TOLERANCE[np.dtype(dtype)] * max(size) ** 0.5
        np.testing.assert_allclose(found[name], wanted[name], rtol=limit, atol=limit, err_msg=name)


@both_dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_reaches_a_unit_that_was_off_goes_nowhere(dtype: Any, value: float) -> None:
    given = gated(dtype, Size(130, 200, 107))
    off, on = np.argwhere(given["y"] == 0)[0], np.argwhere(given["y"] > 0)[-1]
    given["dy"][tuple(off)] = value
    found = call("cpu", "affine_relu_dropout_backward", given)
    assert np.isfinite(found["dw"]).all()
    assert np.isfinite(found["db"]).all()
    given["dy"][tuple(on)] = value
    reached = call("cpu", "affine_relu_dropout_backward", given)
    unit = np.arange(107) == on[1]
    np.testing.assert_array_equal(np.isfinite(reached["dw"]), np.broadcast_to(~unit, found["dw"].shape))
    np.testing.assert_array_equal(np.isfinite(reached["db"]), ~unit)


@several_cores
@every_size
@both_dtypes
def test_any_number_of_threads_turns_a_gradient_to_the_same_bits(dtype: Any, size: Size) -> None:
    given, found = gated(dtype, size), []
    for number in range(1, usable_cores() + 1):
        tinygrad_cr.set_num_threads(number)
        found.append(call("cpu", "affine_relu_dropout_backward", given))
        for name in ("dw", "db"):
            assert_same_bits(found[-1][name], found[0][name])


@several_cores
@every_size
@both_dtypes
@either_factor
def test_any_number_of_threads_gives_the_same_bits(dtype: Any, size: Size, sparse: str) -> None:
    for kernel, given in arguments(dtype, size, sparse).items():
        tinygrad_cr.set_num_threads(1)
        alone = call("cpu", kernel, given)
        for number in range(2, usable_cores() + 1):
            tinygrad_cr.set_num_threads(number)
            for name, found in call("cpu", kernel, given).items():
                np.testing.assert_array_equal(found, alone[name], err_msg=f"{name}, {number} threads")


def test_a_factor_is_judged_by_some_rows() -> None:
    a = np.ones((100, 40), np.float32)
    assert not skipped(a, 128, MOST_NONZERO)
    a[:, 20:] = 0
    assert skipped(a, 128, MOST_NONZERO)
    assert not skipped(a, 128, 0.45)
    a[:] = 0
    assert not skipped(a[:, : LEAST - 1].copy(), 128, MOST_NONZERO)
    assert not skipped(a[: LEAST - 1], 128, MOST_NONZERO)
    a[0, 0] = np.nan
    assert not skipped(a, 128, 0.0)


@both_dtypes
def test_few_columns_are_not_worth_it(dtype: Any) -> None:
    a = np.zeros((100, 40), dtype)
    least = max(LEAST, LEAST_VECTORS * VECTOR_BYTES // a.itemsize)
    assert skipped(a, least, MOST_NONZERO)
    assert not skipped(a, least - 1, MOST_NONZERO)


@both_dtypes
def test_a_factor_that_is_judged_wrongly_gives_the_same_product(dtype: Any) -> None:
    given = arguments(dtype, Size(160, 200, 200))["affine"]
    # The rows that are looked at, an eighth of them all apart.
    given["x"][::20] = 0
    assert skipped(given["x"], 200, MOST_NONZERO)
    assert_like_reference("cpu", "affine", given, 200)


@both_dtypes
def test_gradients_below_the_smallest_normal_number_count(dtype: Any) -> None:
    given = arguments(dtype, Size(130, 300, 330), "dy")["affine_backward"]
    given["dy"] *= 100 * np.finfo(dtype).smallest_subnormal
    assert skipped(given["dy"], 300, MOST_NONZERO)
    dw = call("cpu", "affine_backward", given)["dw"]
    assert np.any(dw)
    dense = in_pieces("affine_backward", given | {"dx": None, "db": None}, {"x": 1, "dw": 0})["dw"]
    np.testing.assert_array_equal(dw, dense)
