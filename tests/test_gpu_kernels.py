"""The CUDA kernels compute what `reference` computes, for one network and for members of a population in one launch.

Where there is no GPU they run on the host, see `simulated_gpu`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from calls import TOLERANCE, WRITES, Maker, Size
from simulated_gpu import State, host, install, state
from tinygrad_cr.kernels import _FAMILIES, Kernels, available, backend
from tinygrad_cr.kernels.gpu.batch import SCALARS, Batch, Stack

REAL_GPU = "gpu" in available()
KERNELS = tuple(_FAMILIES["gpu"])
HOST = ("spans", "l2", "decay")
"""Arguments that are arrays of the host on any backend."""
SIZES = [Size(*s) for s in [(0, 3, 5), (3, 5, 0), (1, 1, 1), (7, 0, 8), (3, 5, 17), (33, 4, 64), (100, 3, 10)]]
LARGE = [Size(300, 2, 13), Size(9, 2, 4099), Size(1100, 3, 8)]
"""More rows than a tile, more columns and more elements than a block."""
STATES = [(0, 0, 0), (2**63 - 1, 2**63 - 1, 2**31 - 1), (2**32, 2**40 + 3, 2), (5, 2**32 - 1, 7)]
PRODUCTS = {
    "affine": ("out",),
    "affine_relu_dropout": ("out",),
    "affine_backward": ("dx", "dw"),
    "affine_relu_dropout_backward": ("dx", "dw"),
}
"""What cuBLAS computes of a kernel."""
GUARD = 8
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture(scope="module")
def gpu() -> Iterator[Kernels]:
    """The backend, of a real GPU if there is one."""
    if REAL_GPU:
        yield backend("gpu")
        return
    if problem := host.problem():
        pytest.skip(problem)
    with install():
        yield backend("gpu")


@pytest.fixture
def simulated(gpu: Kernels) -> State:
    """What the simulated GPU has done; without one the test does not apply."""
    if REAL_GPU:
        pytest.skip("there is a GPU: nothing is simulated")
    return state


def family(name: str) -> Any:
    return importlib.import_module(f"tinygrad_cr.kernels.gpu.{name}")


class Members:
    """One argument of all members in one piece of the GPU's memory, with guards around it and between them.

    offset: how many elements it begins behind a place that is aligned to 16 bytes.
    """

    def __init__(self, xp: Any, values: list[Any], gap: int = GUARD, offset: int = 0) -> None:
        first = values[0]
        self.shape, self.stride = first.shape, first.size + gap
        everything = np.zeros(GUARD + offset + self.stride * len(values) + GUARD, first.dtype)
        everything[:] = np.nan if first.dtype.kind == "f" else 119
        starts = [GUARD + offset + m * self.stride for m in range(len(values))]
        self.places = [slice(start, start + first.size) for start in starts]
        for place, value in zip(self.places, values, strict=True):
            everything[place] = value.reshape(-1)
        self.buffer = xp.asarray(everything)
        self.views = [self.buffer[place].reshape(self.shape) for place in self.places]
        self.before = everything

    def stack(self) -> Stack:
        return Stack(self.views[0], self.stride if len(self.views) > 1 else 0)

    def now(self) -> list[Any]:
        """What each member's array holds; nothing else was written."""
        everything = self.buffer.get()
        outside = np.ones(everything.shape, bool)
        for place in self.places:
            outside[place] = False
        np.testing.assert_array_equal(everything[outside], self.before[outside], err_msg="written outside")
        return [everything[place].reshape(self.shape) for place in self.places]


def alone(gpu: Kernels, kernel: str, arguments: dict[str, Any], offset: int = 0) -> dict[str, Any]:
    """The arrays among the arguments as the kernel left them."""
    placed = {
        name: Members(gpu.xp, [value], offset=offset)
        for name, value in arguments.items()
        if isinstance(value, np.ndarray) and name not in HOST
    }
    getattr(gpu, kernel)(*(placed[n].views[0] if n in placed else value for n, value in arguments.items()))
    return {name: members.now()[0] for name, members in placed.items()}


def together(
    gpu: Kernels,
    kernel: str,
    arguments: list[dict[str, Any]],
    members: tuple[int, ...] = (0, 1, 2),
    shared: tuple[str, ...] = (),
    gap: int = GUARD,
    numbers: bool = True,
) -> list[dict[str, Any]]:
    """What is left of each member's arrays by one call for these members."""
    xp, given, placed = gpu.xp, [], {}
    for name, value in arguments[0].items():
        own = [a[name] for a in arguments]
        if name in HOST:
            given.append(value if name == "spans" else np.stack(own))
        elif isinstance(value, np.ndarray):
            placed[name] = Members(xp, own[:1] if name in shared else own, gap)
            given.append(placed[name].stack())
        else:
            given.append(value)
    index = None if members == tuple(range(len(members))) else xp.asarray(np.array(members))
    batch = Batch(members, index, table(xp, kernel, arguments) if numbers else None, [])
    getattr(gpu, kernel).of_members(batch, *given)
    now = {name: m.now() for name, m in placed.items()}
    return [{n: values[0 if n in shared else m] for n, values in now.items()} for m in range(len(arguments))]


def table(xp: Any, kernel: str, arguments: list[dict[str, Any]]) -> Any:
    """The scalars of all members, real numbers by their bits."""
    columns = SCALARS.get(kernel, ())
    rows = [[np.float64(a[n]).view(np.int64) if real else int(a[n]) for n, real in columns] for a in arguments]
    return xp.asarray(np.array(rows, np.int64)) if columns else None


def changed(kernel: str, dtype: Any, size: Size, m: int) -> dict[str, Any]:
    """Arguments of member m: its own arrays and its own scalars."""
    arguments = getattr(Maker(dtype, seed=m), kernel)(size)
    if "threshold" in arguments:
        arguments |= {"threshold": (20000, 65536, 50000)[m], "scale": 1.5 + m, "seed": 2**40 + m, "stream": m}
        arguments |= {"draw": 2**35 + m}
    if kernel == "affine_relu_dropout_backward":
        arguments["scale"] = 1.5 + m
    if kernel == "sgd":
        arguments |= {
            "lr": 0.1 * (m + 1),
            "momentum": (0.9, 0.0, 0.5)[m],
            "nesterov": m == 2,
            "l2": np.array([0.1 * m, 0]),
        }
    if kernel == "adam":
        arguments |= {"lr": 0.1 * (m + 1), "beta1": 0.9 - 0.1 * m, "eps": 1e-8 * (m + 1), "step": 3 + m}
        arguments |= {"l2": np.array([0.1 * m, 0]), "decay": np.array([0.2 * m, 0.1])}
    return arguments


def assert_like_reference(found: dict[str, Any], kernel: str, arguments: dict[str, Any], size: Size) -> None:
    expected = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    getattr(backend("reference"), kernel)(*expected.values())
    for name, value in found.items():
        if name not in WRITES[kernel]:
            np.testing.assert_array_equal(value, arguments[name], err_msg=f"input {name} of {kernel} was changed")
        elif value.dtype.kind == "f":
            kind = next(v.dtype for v in expected.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f")
            limit = TOLERANCE[kind] * max(1, *size) ** 0.5
            np.testing.assert_allclose(value, expected[name], rtol=limit, atol=limit, err_msg=f"{kernel} {name}")
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=f"{kernel} {name}")


def assert_same(found: dict[str, Any], expected: dict[str, Any], kernel: str = "") -> None:
    """Bit for bit; to rounding what a real cuBLAS multiplied, which has other ways for many and for other addresses."""
    products = PRODUCTS.get(kernel, ()) if REAL_GPU else ()
    for name, value in expected.items():
        if name in products:
            limit = TOLERANCE[value.dtype] * 20
            np.testing.assert_allclose(found[name], value, rtol=limit, atol=limit, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def sizes_of(kernel: str) -> list[Size]:
    losses = kernel in ("mean_squared_error", "softmax_cross_entropy")
    return [s for s in SIZES + LARGE if not losses or s.rows * s.columns]


@both_dtypes
@pytest.mark.parametrize(("kernel", "size"), [(k, s) for k in KERNELS for s in sizes_of(k)], ids=str)
def test_a_kernel_computes_what_reference_computes(gpu: Kernels, kernel: str, size: Size, dtype: Any) -> None:
    arguments = getattr(Maker(dtype), kernel)(size)
    assert_like_reference(alone(gpu, kernel, arguments), kernel, arguments, size)


@both_dtypes
@every_kernel
@pytest.mark.parametrize("size", [Size(33, 4, 64), Size(300, 2, 12)], ids=str)
def test_where_an_array_lies_does_not_change_a_bit(gpu: Kernels, kernel: str, size: Size, dtype: Any) -> None:
    arguments = getattr(Maker(dtype), kernel)(size)
    assert_same(alone(gpu, kernel, arguments, offset=1), alone(gpu, kernel, arguments), kernel)


@both_dtypes
@every_kernel
@pytest.mark.parametrize("size", [Size(20, 4, 64), Size(5, 3, 7)], ids=str)
@pytest.mark.parametrize("gap", [0, 3, 8])
def test_a_member_gets_what_it_gets_alone(gpu: Kernels, kernel: str, size: Size, dtype: Any, gap: int) -> None:
    arguments = [changed(kernel, dtype, size, m) for m in range(3)]
    found = together(gpu, kernel, arguments, gap=gap)
    for m in range(3):
        assert_same(found[m], alone(gpu, kernel, arguments[m]), kernel)


@every_kernel
@pytest.mark.parametrize("members", [(0, 2), (1,), (2, 0)], ids=str)
def test_members_that_are_not_called_keep_what_they_have(gpu: Kernels, kernel: str, members: tuple[int, ...]) -> None:
    size = Size(300, 3, 8)
    arguments = [changed(kernel, np.float32, size, m) for m in range(3)]
    found = together(gpu, kernel, arguments, members)
    for m in range(3):
        before = {name: arguments[m][name] for name in found[m]}
        assert_same(found[m], alone(gpu, kernel, arguments[m]) if m in members else before, kernel)


SHARED = {
    "affine": ("x",),
    "affine_backward": ("x", "w"),
    "affine_relu_dropout": ("x", "b"),
    "affine_relu_dropout_backward": ("x",),
    "softmax_cross_entropy": ("labels",),
    "mean_squared_error": ("target",),
    "gather": ("data", "mean", "scale"),
    "philox": ("key",),
    "dropout": ("x",),
    "sgd": ("grad",),
}


@pytest.mark.parametrize("kernel", SHARED)
def test_members_may_share_an_input(gpu: Kernels, kernel: str) -> None:
    arguments = [changed(kernel, np.float32, Size(20, 4, 12), m) for m in range(3)]
    for m in (1, 2):
        arguments[m] |= {name: arguments[0][name] for name in SHARED[kernel]}
    found = together(gpu, kernel, arguments, shared=SHARED[kernel])
    for m in range(3):
        assert_same(found[m], alone(gpu, kernel, arguments[m]), kernel)


@pytest.mark.parametrize("kernel", SCALARS)
def test_without_a_table_the_scalars_of_the_call_count_for_all(gpu: Kernels, kernel: str) -> None:
    arguments = [changed(kernel, np.float32, Size(9, 3, 8), m) for m in range(3)]
    for m in (1, 2):
        arguments[m] |= {name: arguments[0][name] for name, _ in SCALARS[kernel]}
    found = together(gpu, kernel, arguments, numbers=False)
    for m in range(3):
        assert_same(found[m], alone(gpu, kernel, arguments[m]), kernel)


@both_dtypes
@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("threshold", [1, 32768, 65535, 65536])
@pytest.mark.parametrize("kernel", ["dropout", "affine_relu_dropout"])
def test_a_mask_is_that_of_reference(
    gpu: Kernels, kernel: str, state: tuple[int, int, int], threshold: int, dtype: Any
) -> None:
    arguments = getattr(Maker(dtype), kernel)(Size(37, 1, 131), threshold=threshold, state=state)
    arguments |= {"scale": 1.0}
    for name in ("x", "w", "b"):
        if name in arguments:
            arguments[name][...] = 1
    expected = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    getattr(backend("reference"), kernel)(*expected.values())
    np.testing.assert_array_equal(alone(gpu, kernel, arguments)["out"], expected["out"])


@pytest.mark.parametrize("kernel", ["affine_backward", "affine_relu_dropout_backward"])
@pytest.mark.parametrize("missing", ["dx", "dw", "db"])
def test_a_gradient_may_be_left_out(gpu: Kernels, kernel: str, missing: str) -> None:
    for size in (Size(20, 3, 12), Size(300, 3, 7)):
        arguments = getattr(Maker(np.float32), kernel)(size)
        expected = alone(gpu, kernel, arguments)
        del expected[missing]
        assert_same(alone(gpu, kernel, arguments | {missing: None}), expected, kernel)


@both_dtypes
@pytest.mark.parametrize("classes", [1, 2, 10, 33, 200, 1025, 3000])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_cross_entropy_is_that_of_reference_for_any_number_of_classes(
    gpu: Kernels, classes: int, weighted: bool, dtype: Any
) -> None:
    for rows in (5, 600) if classes < 100 else (5,):
        arguments = Maker(dtype).softmax_cross_entropy(Size(rows, 0, classes))
        arguments["weights"] = np.linspace(0, 3, rows).astype(dtype) if weighted else None
        found = alone(gpu, "softmax_cross_entropy", arguments)
        assert_like_reference(found, "softmax_cross_entropy", arguments, Size(rows, 0, classes))


def test_weights_of_members_are_their_own(gpu: Kernels) -> None:
    arguments = [changed("softmax_cross_entropy", np.float32, Size(600, 1, 10), m) for m in range(3)]
    for m in range(3):
        arguments[m]["weights"] = np.linspace(m, 5, 600).astype(np.float32)
    found = together(gpu, "softmax_cross_entropy", arguments, (0, 2))
    for m in (0, 2):
        assert_same(found[m], alone(gpu, "softmax_cross_entropy", arguments[m]))


@both_dtypes
@pytest.mark.parametrize("classes", [4, 1500])
@pytest.mark.parametrize("label", [-1, -(2**62), 2**62, None])
def test_a_label_out_of_range_makes_the_loss_nan(gpu: Kernels, classes: int, label: int | None, dtype: Any) -> None:
    arguments = Maker(dtype).softmax_cross_entropy(Size(3, 0, classes))
    arguments["labels"][1] = classes if label is None else label
    found = alone(gpu, "softmax_cross_entropy", arguments)
    assert np.isnan(found["loss"]).all()
    assert np.isfinite(found["dlogits"]).all()


@both_dtypes
def test_cross_entropy_is_finite_for_logits_far_apart_and_for_impossible_classes(gpu: Kernels, dtype: Any) -> None:
    arguments = Maker(dtype).softmax_cross_entropy(Size(3, 0, 4))
    arguments["logits"][:] = [[1e4, 0, -1e4, 1], [0, -np.inf, 2, 1], [-1e4, -1e4, -1e4, -np.inf]]
    arguments["labels"][:] = [2, 0, 1]
    found = alone(gpu, "softmax_cross_entropy", arguments)
    assert_like_reference(found, "softmax_cross_entropy", arguments, Size(3, 0, 4))
    assert np.isfinite(found["loss"]).all()
    assert np.isfinite(found["dlogits"]).all()


@both_dtypes
@pytest.mark.parametrize("n", [1, 17, 20_011])
def test_the_mean_squared_error_of_many_blocks_is_that_of_reference(gpu: Kernels, n: int, dtype: Any) -> None:
    arguments = Maker(dtype).mean_squared_error(Size(n, 0, 1))
    assert_like_reference(alone(gpu, "mean_squared_error", arguments), "mean_squared_error", arguments, Size(n, 0, 1))


@pytest.mark.parametrize(
    "options", [{"momentum": 0.0}, {"nesterov": True}, {"momentum": 0.5}, {"norms": False}], ids=str
)
@both_dtypes
def test_sgd_of_any_kind_is_that_of_reference(gpu: Kernels, options: dict[str, Any], dtype: Any) -> None:
    arguments = Maker(dtype).sgd(Size(70, 0, 61), **options)
    assert_like_reference(alone(gpu, "sgd", arguments), "sgd", arguments, Size(70, 0, 61))


def test_elements_beside_a_tensor_do_not_count_where_adam_divides_by_zero(gpu: Kernels) -> None:
    arguments = Maker(np.float32).adam(Size(5, 0, 7)) | {"eps": 0.0}
    assert_like_reference(alone(gpu, "adam", arguments), "adam", arguments, Size(5, 0, 7))


def test_a_negligible_velocity_becomes_zero(gpu: Kernels) -> None:
    arguments = Maker(np.float32).sgd(Size(3, 0, 5), momentum=0.5)
    arguments["velocity"][:] = [1.9e-30, -1.9e-30] * (len(arguments["velocity"]) // 2)
    arguments["grad"][:] = arguments["param"][:] = 0
    (first, stop), _ = arguments["spans"]
    found = alone(gpu, "sgd", arguments)["velocity"]
    assert not found[first:stop].any()
    assert found[stop] == arguments["velocity"][stop]


def test_norms_do_not_change_the_update(gpu: Kernels) -> None:
    for kernel in ("sgd", "adam"):
        arguments = getattr(Maker(np.float32), kernel)(Size(70, 0, 61))
        expected = alone(gpu, kernel, arguments)
        del expected["norms"]
        assert_same(alone(gpu, kernel, arguments | {"norms": None}), expected, kernel)


def test_spans_without_elements_have_norms_of_zero(gpu: Kernels) -> None:
    arguments = Maker(np.float32).sgd(Size(3, 0, 5))
    arguments["spans"] = np.array([[4, 4], [2, 2]])
    found = alone(gpu, "sgd", arguments)
    np.testing.assert_array_equal(found["norms"], np.zeros((2, 2)))
    np.testing.assert_array_equal(found["param"], arguments["param"])


@pytest.mark.parametrize("kernel", ["sgd", "adam"])
def test_a_repeated_update_copies_nothing_to_the_gpu_and_waits_for_nothing(
    gpu: Kernels, simulated: State, kernel: str
) -> None:
    arguments = getattr(Maker(np.float32), kernel)(Size(30, 0, 20))
    own = {k: gpu.xp.asarray(v) if isinstance(v, np.ndarray) and k not in HOST else v for k, v in arguments.items()}
    getattr(gpu, kernel)(*own.values())
    uploads = simulated.uploads
    with simulated.no_waits():
        getattr(gpu, kernel)(*own.values())
    assert simulated.uploads == uploads
    own["l2"] = own["l2"] + np.array([simulated.uploads, 0])  # As no call before had it.
    getattr(gpu, kernel)(*own.values())
    assert simulated.uploads > uploads


@pytest.mark.parametrize("stored", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("d", [3, 4, 64, 300])
@both_dtypes
def test_gather_takes_rows_of_any_type(gpu: Kernels, stored: Any, d: int, dtype: Any) -> None:
    data = (np.random.default_rng(0).normal(size=(50, d)) * 30 + 100).astype(stored)
    arguments = Maker(dtype).gather(Size(37, 0, d), data=data)
    arguments["rows"][:2] = -1, -50
    assert_like_reference(alone(gpu, "gather", arguments), "gather", arguments, Size(37, 0, d))


def test_a_row_that_does_not_exist_is_gathered_as_nan(gpu: Kernels) -> None:
    arguments = Maker(np.float32).gather(Size(4, 0, 8))
    arguments["rows"][:] = [0, 2**40, -9, 7]
    found = alone(gpu, "gather", arguments)["out"]
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, True, False])
    assert not np.isnan(found[[0, 3]]).any()


@both_dtypes
def test_scale_multiplies_by_each_members_factor(gpu: Kernels, dtype: Any) -> None:
    maker = Maker(dtype)
    factors, xs = [maker.normal(1) for _ in range(3)], [maker.normal(1001) for _ in range(3)]
    placed = [Members(gpu.xp, values, 3) for values in (factors, xs, [np.zeros_like(x) for x in xs])]
    family("dropout").scale.of_members(Batch((0, 1, 2), None, None, []), *(p.stack() for p in placed))
    np.testing.assert_array_equal(placed[2].now(), [f * x for f, x in zip(factors, xs, strict=True)])
    out = gpu.xp.zeros(1001, dtype)
    family("dropout").scale(placed[0].views[1], placed[1].views[2], out)
    np.testing.assert_array_equal(out.get(), factors[1] * xs[2])


def test_take_counts_a_row_outside_as_the_nearest_inside(gpu: Kernels) -> None:
    values, rows = np.arange(7) * 2**40, np.array([3, -1, 7, 6, -(2**62), 2**62, 0])
    out = gpu.xp.zeros(7, np.int64)
    family("batches").take(gpu.xp.asarray(values), gpu.xp.asarray(rows), out)
    np.testing.assert_array_equal(out.get(), values[np.clip(rows, 0, 6)])


def test_take_works_for_members_with_shared_values(gpu: Kernels) -> None:
    rng = np.random.default_rng(0)
    values, rows = rng.integers(0, 9, 20), [rng.integers(0, 20, 300) for _ in range(3)]
    placed = [Members(gpu.xp, v, 1) for v in ([values], rows, [np.zeros(300, int)] * 3)]
    index = gpu.xp.asarray(np.array([0, 2]))
    family("batches").take.of_members(Batch((0, 2), index, None, []), *(p.stack() for p in placed))
    found = placed[2].now()
    np.testing.assert_array_equal(found, [values[rows[0]], np.zeros(300, int), values[rows[2]]])


@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ("softmax_cross_entropy", Size(600, 0, 10)),
        ("softmax_cross_entropy", Size(5, 0, 1500)),
        ("mean_squared_error", Size(20_011, 0, 1)),
        ("affine_relu_dropout_backward", Size(300, 2, 24)),
        ("affine_relu_dropout", Size(40, 2, 24)),
        ("sgd", Size(70, 0, 61)),
        ("adam", Size(70, 0, 61)),
    ],
    ids=str,
)
def test_the_order_in_which_threads_run_does_not_change_a_bit(
    gpu: Kernels, simulated: State, monkeypatch: pytest.MonkeyPatch, kernel: str, size: Size
) -> None:
    arguments = getattr(Maker(np.float32), kernel)(size)
    expected, run = alone(gpu, kernel, arguments), host.run
    monkeypatch.setattr(host, "run", lambda *given: run(*given, backwards=True))
    assert_same(alone(gpu, kernel, arguments), expected, kernel)
