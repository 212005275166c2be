"""Every backend computes what `reference` computes, writes every output that is wanted, and nothing else."""

from __future__ import annotations

import inspect
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import strategies
from calls import EVERY, FAST, WRITES, Maker, Size, assert_like_reference, call
from tinygrad_cr.kernels import BACKWARD, KERNELS, Kernels, backend

ROWS = (0, 1, 2, 3, 7, 33, 100)
WIDTHS = (1, 3, 10, 17, 50, 100, 257)
SIZES = [Size(n, 5, m) for n, m in product(ROWS, WIDTHS)]
# More columns, and more rows, than an epilogue handles at a time; and one product with a long sum.
LARGE = [Size(3, 4, 5000), Size(3000, 4, 3), Size(411, 2, 10), Size(1, 3, 4097), Size(20, 3072, 50)]
LARGE += [Size(700, 30, 70), Size(20, 70, 1100)]
# Both factors of each product are too large to be read where they lie, and nothing ends with a tile, panel or group.
LARGE += [Size(261, 523, 521)]
# A last panel that is wider; sums too short to be cut in two.
LARGE += [Size(261, 523, 514), Size(100, 80, 40), Size(3400, 13, 6)]
THRESHOLDS = (1, 32768, 65535, 65536)

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
every_size = pytest.mark.parametrize("size", SIZES + LARGE, ids=lambda s: f"{s.rows}x{s.inner}x{s.columns}")
every_fast_backend = pytest.mark.parametrize("name", FAST)
dtypes_and_backends = [both_dtypes, every_fast_backend]


def longest_sum(size: Size) -> int:
    return max(size.rows, size.inner, size.columns)


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k != "mean_squared_error"])
@every_fast_backend
@both_dtypes
@every_size
def test_a_kernel_equals_reference_at_any_size(name: str, kernel: str, dtype: Any, size: Size) -> None:
    arguments = getattr(Maker(dtype), kernel)(size)
    assert_like_reference(name, kernel, arguments, longest_sum(size))


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("n", [1, 2, 3, 17, 257, 100_003])
def test_mean_squared_error_equals_reference(name: str, dtype: Any, n: int) -> None:
    assert_like_reference(name, "mean_squared_error", Maker(dtype).mean_squared_error(Size(n, 0, 1)), n)


@every_fast_backend
@given(
    kernel=st.sampled_from([k for k in KERNELS if k not in ("mean_squared_error", "softmax_cross_entropy")]),
    size=strategies.sizes(),
    dtype=strategies.dtypes(),
    seed=strategies.numbers(),
)
def test_a_kernel_equals_reference_at_random_sizes(
    name: str, kernel: str, size: tuple[int, int, int], dtype: Any, seed: int
) -> None:
    arguments = getattr(Maker(dtype, seed), kernel)(Size(*size))
    assert_like_reference(name, kernel, arguments, longest_sum(Size(*size)))


@every_fast_backend
@given(size=strategies.sizes(), dtype=strategies.dtypes(), threshold=strategies.thresholds(), state=strategies.states())
def test_a_mask_of_any_state_equals_that_of_reference(
    name: str, size: tuple[int, int, int], dtype: Any, threshold: int, state: tuple[int, int, int]
) -> None:
    arguments = Maker(dtype).affine_relu_dropout(Size(*size), threshold=threshold, state=state)
    arguments["scale"] = 1.0  # the scale of a small threshold would hide the rounding of everything else
    assert_like_reference(name, "affine_relu_dropout", arguments, longest_sum(Size(*size)))


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("kernel", ["dropout", "affine_relu_dropout"])
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("size", [Size(33, 5, 17), Size(9, 3, 4099)], ids=["small", "wide"])
def test_dropout_equals_reference_at_any_threshold(
    name: str, kernel: str, dtype: Any, threshold: int, size: Size
) -> None:
    arguments = getattr(Maker(dtype), kernel)(size, threshold=threshold)
    # Values grow with the scale, and so does the error allowed.
    arguments["w" if kernel == "affine_relu_dropout" else "x"] /= dtype(arguments["scale"])
    if kernel == "affine_relu_dropout":
        arguments["b"] /= dtype(arguments["scale"])
    assert_like_reference(name, kernel, arguments, size.inner)


@pytest.mark.parametrize("wanted", list(product((True, False), repeat=3)), ids=str)
@pytest.mark.parametrize("kernel", ["affine_backward", "affine_relu_dropout_backward"])
@every_fast_backend
def test_any_choice_of_gradients_may_be_left_out(name: str, kernel: str, wanted: tuple[bool, ...]) -> None:
    arguments = getattr(Maker(np.float32), kernel)(Size(7, 4, 10))
    for output, is_wanted in zip(("dx", "dw", "db"), wanted, strict=True):
        if not is_wanted:
            arguments[output] = None
    assert_like_reference(name, kernel, arguments, 10)


@every_fast_backend
@both_dtypes
def test_the_gradient_of_the_input_of_a_network_may_be_left_out(name: str, dtype: Any) -> None:
    arguments = Maker(dtype).feed_forward_backward(Size(7, 4, 10))
    whole = call(name, "feed_forward_backward", arguments)["gradients"]
    np.testing.assert_array_equal(call(name, "feed_forward_backward", arguments | {"dx": None})["gradients"], whole)


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("thresholds", [(0, 0, 0), (0, 32768, 0), (30000, 65536, 20000), (65536, 0, 1)], ids=str)
def test_a_network_of_any_layers_equals_reference(name: str, dtype: Any, thresholds: tuple[int, ...]) -> None:
    for kernel in ("feed_forward", "feed_forward_backward"):
        arguments = getattr(Maker(dtype), kernel)(Size(33, 5, 17))
        arguments["layers"][:, 4] = thresholds
        assert_like_reference(name, kernel, arguments, 33)


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [0.5, 0, 2, 0], [0, 0, 0, 1e-3]], ids=str)
def test_weighted_cross_entropy_equals_reference(name: str, dtype: Any, weights: list[float]) -> None:
    arguments = Maker(dtype).softmax_cross_entropy(Size(4, 0, 10), np.array(weights, dtype))
    assert_like_reference(name, "softmax_cross_entropy", arguments, 10)


@both_dtypes
@pytest.mark.parametrize("weights", [None, np.ones(3), np.array([1.0, 0.0, 1.0])], ids=["none", "ones", "zero there"])
@pytest.mark.parametrize("label", [-1, 4, -(2**63), 2**63 - 1])
def test_a_label_out_of_range_makes_the_loss_nan(kernels: Kernels, dtype: Any, label: int, weights: Any) -> None:
    arguments = Maker(dtype).softmax_cross_entropy(Size(3, 0, 4), None if weights is None else weights.astype(dtype))
    arguments["labels"][1] = label
    assert np.isnan(call(kernels.name, "softmax_cross_entropy", arguments)["loss"])


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True], ids=["classical", "nesterov"])
@pytest.mark.parametrize("norms", [False, True], ids=["without norms", "with norms"])
def test_sgd_equals_reference(name: str, dtype: Any, momentum: float, nesterov: bool, norms: bool) -> None:
    arguments = Maker(dtype).sgd(Size(9, 0, 17), momentum, nesterov, norms)
    assert_like_reference(name, "sgd", arguments, 9 * 17)


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("kernel", ["sgd", "adam"])
@both_dtypes
def test_norms_of_the_parameters_alone_are_the_first_column(name: str, kernel: str, dtype: Any) -> None:
    arguments = getattr(Maker(dtype), kernel)(Size(90, 0, 17))
    both, alone = call(name, kernel, arguments), call(name, kernel, arguments | {"norms": np.full((2, 1), np.nan)})
    np.testing.assert_array_equal(alone.pop("norms"), both.pop("norms")[:, :1])
    for written, found in alone.items():
        np.testing.assert_array_equal(found, both[written])


@pytest.mark.parametrize(("kernel", "size"), [("sgd", 1e-25), ("sgd", 1e25), ("adam", 1e-25)])
def test_norms_are_sums_of_squares_in_float64(kernels: Kernels, kernel: str, size: float) -> None:
    """Of numbers whose squares float32 does not hold."""
    arguments = getattr(Maker(np.float32), kernel)(Size(90, 0, 17))
    for name in ("param", "grad", "velocity") if kernel == "sgd" else ("param",):
        arguments[name][:] = size
    expected = call("reference", kernel, arguments)["norms"]
    np.testing.assert_allclose(call(kernels.name, kernel, arguments)["norms"], expected, rtol=1e-5)
    assert (expected > 0).all()
    assert np.isfinite(expected).all()


def test_norms_of_large_tensors_are_exact_but_for_a_few_roundings(kernels: Kernels) -> None:
    """Also where some blocks hold numbers whose squares float32 does not."""
    param = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    param[3000:7000] *= np.float32(1e-22)
    param[20_000:23_000] *= np.float32(1e22)
    arguments = Maker(np.float32).sgd(Size(len(param), 0, 1), norms=True)
    arguments |= {"param": param, "grad": np.zeros_like(param), "velocity": np.zeros_like(param)}
    arguments |= {"spans": np.array([[0, 20_000], [20_000, len(param)]]), "l2": np.zeros(2)}
    arguments["norms"] = np.zeros((2, 2))
    found = call(kernels.name, "sgd", arguments)["norms"][:, 0]
    exact = [np.square(part.astype(np.float64)).sum() for part in (param[:20_000], param[20_000:])]
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_sgd_without_momentum_leaves_the_velocity_alone(kernels: Kernels) -> None:
    arguments = Maker(np.float64).sgd(Size(3, 0, 5), momentum=0.0)
    np.testing.assert_array_equal(call(kernels.name, "sgd", arguments)["velocity"], arguments["velocity"])


def test_sgd_changes_nothing_between_its_tensors(kernels: Kernels) -> None:
    arguments = Maker(np.float64).sgd(Size(3, 0, 5))
    found = call(kernels.name, "sgd", arguments)
    between = [15, 16, 17, 23]
    np.testing.assert_array_equal(found["param"][between], arguments["param"][between])


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("norms", [False, True], ids=["without norms", "with norms"])
def test_five_steps_of_adam_equal_reference(name: str, dtype: Any, norms: bool) -> None:
    arguments = Maker(dtype).adam(Size(9, 0, 17), norms=norms)
    arguments["mean"][:] = arguments["square"][:] = 0
    for step in range(1, 6):
        arguments["step"] = step
        assert_like_reference(name, "adam", arguments, 9 * 17)
        arguments |= call("reference", "adam", arguments)


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("stored", [np.uint8, np.float32, np.float64], ids=["uint8", "float32", "float64"])
def test_gather_converts_and_standardises_as_reference_does(name: str, dtype: Any, stored: Any) -> None:
    data = np.random.default_rng(2).uniform(0, 255, (50, 17)).astype(stored)
    arguments = Maker(dtype).gather(Size(33, 0, 17), data)
    arguments["scale"] /= 255
    assert_like_reference(name, "gather", arguments)


def test_gather_takes_a_row_as_often_as_it_is_named(kernels: Kernels) -> None:
    arguments = {
        "data": np.array([[1, 2], [3, 4], [250, 255]], np.uint8),
        "rows": np.array([2, 0, 2]),
        "mean": np.array([1.0, 2.0]),
        "scale": np.array([0.5, 1.0]),
        "out": np.full((3, 2), np.nan),
    }
    found = call(kernels.name, "gather", arguments)["out"]
    np.testing.assert_array_equal(found, [[124.5, 253.0], [0.0, 0.0], [124.5, 253.0]])


def test_scatter_add_adds_up_repeated_indices(kernels: Kernels) -> None:
    arguments = {"out": np.zeros(3), "index": np.array([1, 1, 2]), "values": np.array([1.0, 10.0, 100.0])}
    np.testing.assert_array_equal(call(kernels.name, "scatter_add", arguments)["out"], [0, 11, 100])


@both_dtypes
@pytest.mark.parametrize("batch", [1, 7, 16, 100])
@pytest.mark.parametrize("columns", [1, 2, 4, 10, 17, 50, 52, 58, 66, 100])
def test_a_column_of_a_weight_gradient_does_not_depend_on_those_beside_it(dtype: Any, batch: int, columns: int) -> None:
    """To the bit: columns that fill no vector are computed in the transpose, the others are not."""
    made = Maker(dtype)
    wide = made.affine_backward(Size(batch, 150, 128)) | {"dx": None, "db": None}
    narrow = wide | {name: np.ascontiguousarray(wide[name][:, :columns]) for name in ("dy", "w", "dw")}
    found = call("cpu", "affine_backward", narrow)["dw"]
    np.testing.assert_array_equal(found, call("cpu", "affine_backward", wide)["dw"][:, :columns])


@both_dtypes
@pytest.mark.parametrize("inner", [63, 64, 65, 79, 130])
@pytest.mark.parametrize("columns", [9, 10, 11, 17, 19, 20, 21, 33, 50, 66])
def test_columns_behind_the_last_vector_equal_reference(dtype: Any, inner: int, columns: int) -> None:
    """A sum of theirs has several chains; a row has the same bits, whichever rows are computed with it."""
    given = Maker(dtype).affine(Size(13, inner, columns))
    assert_like_reference("cpu", "affine", given, inner)
    whole = call("cpu", "affine", given)["out"]
    for rows in (1, 5, 6, 7):
        some = given | {name: given[name][-rows:] for name in ("x", "out")}
        np.testing.assert_array_equal(call("cpu", "affine", some)["out"], whole[-rows:])


@both_dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_columns_behind_the_last_vector_show_nan_and_infinity(dtype: Any, value: float) -> None:
    given = Maker(dtype).affine(Size(8, 75, 18))
    given["x"][3, 74], given["w"][20, 17] = value, value
    with np.errstate(invalid="ignore"):
        found, wanted = (call(name, "affine", given)["out"] for name in ("cpu", "reference"))
    np.testing.assert_array_equal(found[~np.isfinite(wanted)], wanted[~np.isfinite(wanted)])
    assert np.isfinite(found[np.arange(8) != 3, 16]).all()


@both_dtypes
def test_relu_keeps_nan_and_infinity(kernels: Kernels, dtype: Any) -> None:
    arguments = {"x": np.array([np.nan, -np.inf, np.inf, -1, 0, 2], dtype), "out": np.zeros(6, dtype)}
    np.testing.assert_array_equal(call(kernels.name, "relu", arguments)["out"], [np.nan, 0, np.inf, 0, 0, 2])


@both_dtypes
@pytest.mark.parametrize("threshold", [65535, 65536])
def test_nan_shows_behind_affine_relu_dropout(kernels: Kernels, dtype: Any, threshold: int) -> None:
    arguments = Maker(dtype).affine_relu_dropout(Size(3, 2, 4), threshold=threshold)
    arguments["x"][1, 0] = np.nan
    found = call(kernels.name, "affine_relu_dropout", arguments)["out"]
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), [False, True, False])


@every_fast_backend
@both_dtypes
@pytest.mark.parametrize("kernel", ["relu", "gelu", "affine", "affine_relu_dropout", "dropout"])
def test_nan_and_infinity_go_where_reference_lets_them(name: str, kernel: str, dtype: Any) -> None:
    arguments = getattr(Maker(dtype), kernel)(Size(6, 1, 10))
    arguments["x"].reshape(-1)[[0, 2, 4]] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        assert_like_reference(name, kernel, arguments)


@both_dtypes
def test_nothing_flows_back_through_a_unit_that_was_not_above_zero(kernels: Kernels, dtype: Any) -> None:
    arguments = {
        "dy": np.array([1, 2, 3, 4], dtype),
        "y": np.array([0, 5, np.nan, 1e-30], dtype),
        "dx": np.ones(4, dtype),
    }
    np.testing.assert_array_equal(call(kernels.name, "relu_backward", arguments)["dx"], [0, 2, 0, 4])


@given(size=strategies.sizes(12), seed=strategies.numbers(), threshold=strategies.thresholds())
@pytest.mark.parametrize("name", EVERY)
def test_the_fused_kernel_is_affine_then_relu_then_dropout(
    name: str, size: tuple[int, int, int], seed: int, threshold: int
) -> None:
    assume(size[1])
    fused = Maker(np.float64, seed).affine_relu_dropout(Size(*size), threshold=threshold)
    z = call(name, "affine", {k: fused[k] for k in ("x", "w", "b", "out")})["out"].reshape(-1)
    active = call(name, "relu", {"x": z, "out": np.empty_like(z)})["out"]
    mask = {k: fused[k] for k in ("threshold", "scale", "seed", "draw", "stream")}
    expected = call(name, "dropout", {"x": active, **mask, "out": np.empty_like(z)})["out"]
    found = call(name, "affine_relu_dropout", fused)["out"].reshape(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * fused["scale"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_takes_the_arguments_of_the_contract(kernels: Kernels, kernel: str) -> None:
    function = getattr(kernels, kernel)
    contract = list(inspect.signature(getattr(Kernels, kernel)).parameters)[1:]
    taken = list(inspect.signature(getattr(function, "py_func", function)).parameters)
    # A kernel of the GPU is written for a batch of members, and called for one.
    assert (taken[1:] if hasattr(function, "of_members") else taken) == contract


def test_reference_has_every_kernel_of_the_contract() -> None:
    assert [k for k in KERNELS if not callable(getattr(backend("reference"), k, None))] == []


def test_a_backward_kernel_is_a_kernel_too() -> None:
    assert set(BACKWARD) | set(BACKWARD.values()) <= set(KERNELS)


def test_every_kernel_is_held_against_reference() -> None:
    assert set(WRITES) == set(KERNELS)


def sgd_once(kernels: Kernels, grad: float, velocity: float) -> float:
    """The velocity after one step with momentum 0.9."""
    arguments = {
        "param": np.ones(3, np.float32),
        "grad": np.full(3, grad, np.float32),
        "velocity": np.full(3, velocity, np.float32),
        "spans": np.array([[0, 3]]),
        "l2": np.zeros(1),
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "norms": None,
    }
    return float(call(kernels.name, "sgd", arguments)["velocity"][0])


def test_a_velocity_that_dies_away_becomes_zero_instead_of_denormal(kernels: Kernels) -> None:
    assert sgd_once(kernels, grad=0, velocity=1e-35) == 0


def test_a_velocity_that_is_undefined_stays_so(kernels: Kernels) -> None:
    assert np.isnan(sgd_once(kernels, grad=np.nan, velocity=1.0))
