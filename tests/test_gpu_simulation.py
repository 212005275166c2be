"""The simulated GPU has nothing that a real one has not, and refuses what that refuses."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from simulated_gpu import CaptureRefusedError, State, WaitError, arrays, install
from simulated_gpu.arrays import CREATIONS, MATMUL, SIGNATURES, UFUNCS, xp
from tinygrad_cr.kernels import available, backend
from tinygrad_cr.kernels.gpu.batch import Batch, Stack


@pytest.fixture
def simulated_gpu() -> Iterator[State]:
    """Where there is a real GPU, too, the simulated one would have to be installed beside it: these tests are of it."""
    if "gpu" in available():
        pytest.skip("there is a GPU: nothing is simulated")
    with install() as state:
        yield state


def device() -> Any:
    return importlib.import_module("tinygrad_cr.kernels.gpu.device")


def products() -> Any:
    return importlib.import_module("tinygrad_cr.kernels.gpu.products")


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("name", "text"), [*SIGNATURES.items(), *CREATIONS.items(), ("matmul", MATMUL)], ids=str)
def test_a_function_takes_what_cupys_takes(name: str, text: str) -> None:
    cupy = pytest.importorskip("cupy")
    assert parameters(eval(f"lambda {text}: 0")) == parameters(getattr(cupy, name))


def test_there_is_nothing_that_cupy_has_not() -> None:
    cupy = pytest.importorskip("cupy")
    assert [n for n in dir(arrays.ndarray) if not hasattr(cupy.ndarray, n)] == ["__weakref__", "_base", "_host"]
    assert [n for n in vars(xp) if not n.startswith("__") and not hasattr(cupy, n)] == []
    assert [n for n in UFUNCS if not isinstance(getattr(cupy, n), cupy.ufunc)] == []
    assert [n for n in vars(xp.cuda) if not hasattr(cupy.cuda, n)] == []
    assert [n for n in vars(xp.cuda.runtime) if not hasattr(cupy.cuda.runtime, n)] == []


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, n: a + n,
        lambda a, n: n + a,
        lambda a, n: xp.maximum(a, n),
        lambda a, n: xp.where(a > 0, a, n),
        lambda a, n: xp.stack([a, n]),
        lambda a, n: xp.sum(n),
        lambda a, n: a @ n,
        lambda a, n: a.__setitem__(slice(None), n),
        lambda a, n: xp.copyto(a, n),
        lambda a, n: np.asarray(a),
        lambda a, n: np.add(a, 1),
    ],
)
def test_numpys_arrays_are_refused(mix: Any) -> None:
    with pytest.raises(TypeError):
        mix(xp.ones(3), np.ones(3))


def test_a_keyword_that_cupy_has_not_is_refused() -> None:
    with pytest.raises(TypeError):
        xp.take(xp.ones(3), xp.zeros(1, int), mode="clip")
    with pytest.raises(TypeError):
        xp.add(xp.ones(3), 1, where=xp.ones(3, bool))
    with pytest.raises(AttributeError):
        xp.ones(3).ctypes  # noqa: B018


def test_results_are_arrays_also_where_numpys_are_numbers() -> None:
    assert [type(a) for a in (xp.ones(3).sum(), xp.ones(()) + 1, xp.ones(3)[0])] == [arrays.ndarray] * 3


def test_a_view_knows_whose_it_is() -> None:
    a = xp.ones((2, 3))
    assert {id(view.base) for view in (a.T, a[0][1:], a.reshape(-1))} == {id(a)}
    assert (a + 1).base is None
    assert [view.data.ptr - a.data.ptr for view in (a[0], a[1], a[1, 1:])] == [0, 24, 32]


def test_a_look_at_a_value_is_a_wait(simulated_gpu: State) -> None:
    a = xp.ones(1)
    for look in (a.item, a.get, a.tolist, lambda: bool(a), lambda: float(a), lambda: repr(a), lambda: a[a > 0]):
        with simulated_gpu.no_waits(), pytest.raises(WaitError):
            look()
    assert simulated_gpu.waits == 7


def test_a_graph_does_again_what_was_captured_with_what_memory_holds_then(simulated_gpu: State) -> None:
    x, w, b, out, total = xp.ones((2, 3)), xp.ones((3, 4)), xp.ones(4), xp.zeros((2, 4)), xp.zeros(4)
    calls = []

    def run() -> None:
        backend("gpu").affine(x, w, b, out)
        total[...] += out.sum(axis=0) * 2
        calls.append(total)

    graph = device().capture(run)
    np.testing.assert_array_equal(total.get(), [16] * 4)
    x.fill(2)
    graph.launch()
    np.testing.assert_array_equal(total.get(), [16 + 28] * 4)
    assert len(calls) == 2


def test_a_capture_neither_waits_nor_copies_from_the_host(simulated_gpu: State) -> None:
    x = xp.ones(3)
    for work in (x.sum().item, lambda: xp.asarray(np.ones(3)), lambda: x[[0, 1]], lambda: xp.stack([x] * 9)):
        with pytest.raises(CaptureRefusedError):
            device().capture(work)


@pytest.mark.parametrize("members", [(0, 1, 2, 3), (0, 2), (2,), (0, 1, 3)], ids=str)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_members_are_those_of_numpy(
    simulated_gpu: State, members: tuple[int, ...], transposed: tuple[bool, bool], dtype: str
) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 2, 3)).astype(dtype), rng.normal(size=(4, 3, 5)).astype(dtype)
    given = [xp.asarray(m.swapaxes(1, 2) if t else m, order="C") for m, t in zip((a, b), transposed, strict=True)]
    out = xp.zeros((4, 2, 5), dtype)
    batch = Batch(members, None, None, [])
    graph = device().capture(
        lambda: products().product(
            batch, Stack(given[0][0], 6), Stack(given[1][0], 15), Stack(out[0], 10),
            transpose_a=transposed[0], transpose_b=transposed[1],
        )
    )  # fmt: skip
    out.fill(0)
    graph.launch()
    wanted = np.zeros((4, 2, 5))
    wanted[list(members)] = (a @ b)[list(members)]
    np.testing.assert_allclose(out.get(), wanted, rtol=1e-5, atol=1e-6)


def test_the_workspace_of_a_thread_that_ended_stays_where_graphs_know_it(simulated_gpu: State) -> None:
    a = xp.ones((2, 2))

    def multiply() -> None:
        out = xp.zeros((2, 2))
        products().product(Batch((0,), None, None, []), Stack(a, 0), Stack(a, 0), Stack(out, 0))

    for _ in range(3):
        thread = threading.Thread(target=multiply)
        thread.start()
        thread.join()
    (kept,) = products()._cublas._free["device 0"]
    assert kept.workspace.ptr
    assert products()._cublas._library.handles == 1


@pytest.mark.parametrize(
    ("members", "name"), [((3,), "gemm_v2_64"), ((0, 2), "gemmStridedBatched_64"), ((0, 1, 3), "gemmBatched_64")]
)
def test_one_product_is_no_batch(simulated_gpu: State, members: tuple[int, ...], name: str) -> None:
    a = xp.ones((4, 2, 2), np.float32)
    stack = Stack(a[0], 4)
    products().product(Batch(members, None, None, []), stack, stack, Stack(xp.zeros((4, 2, 2), np.float32)[0], 4))
    assert products()._cublas._library.calls[-1] == f"cublasS{name}"


def test_memory_runs_out_as_cupys_does(simulated_gpu: State) -> None:
    simulated_gpu.memory = 2**10
    with pytest.raises(MemoryError, match=r"Out of memory allocating 4,096 bytes"):
        xp.zeros(512)
