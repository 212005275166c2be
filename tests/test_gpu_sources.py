"""The CUDA C++ compiles without a warning, and is called as it is declared."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calls import Maker, Size
from simulated_gpu import host, install
from tinygrad_cr.kernels import _FAMILIES, available, backend
from tinygrad_cr.kernels.gpu import sources
from tinygrad_cr.kernels.gpu.batch import REAL, SCALARS

FAMILIES = sorted(path.stem for path in Path(sources.__file__).parent.glob("*.cu"))
OF_MEMBERS = [family for family in FAMILIES if family != "program"]
"""Those that compute members; what a program does between its calls has no members."""
HOST = ("spans", "l2", "decay")
CUPYS_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy's RawModule adds to them. Numbers below 1.2e-38 are 0 in float32."""
PACKED = {
    "affine": ["add_bias", "add_bias_relu_dropout", "relu_dropout_backward", "column_sums"],
    "dropout": ["relu", "relu_backward", "dropout", "scale"],
    "updates": ["sgd", "adam"],
    "softmax": ["squared_error"],
}
"""Kernels that read and write 128 bits at a time."""


def nvrtc() -> Any:
    """NVIDIA's compiler, which needs no GPU."""
    pytest.importorskip("cupy")
    compiler = importlib.import_module("cupy.cuda").nvrtc
    try:
        compiler.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"NVRTC cannot be loaded ({error}): pip install nvidia-cuda-nvrtc")
    return compiler


def compiled(family: str, real: str, architecture: str) -> tuple[str, str]:
    """PTX, and what the compiler said."""
    compiler = nvrtc()
    program = compiler.createProgram(sources.source(family), f"{family}.cu", [], [])
    try:
        options = [*sources.OPTIONS, f"-DREAL={real}", f"-arch={architecture}", *CUPYS_OPTIONS]
        compiler.compileProgram(program, options)
    except compiler.NVRTCError as error:
        return "", f"{error}: {compiler.getProgramLog(program)}"
    ptx = compiler.getPTX(program)
    return ptx.decode() if isinstance(ptx, bytes) else ptx, compiler.getProgramLog(program).strip("\0 \n")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_a_family_compiles_without_a_warning(family: str, real: str, architecture: str) -> None:
    ptx, log = compiled(family, real, architecture)
    assert log == ""
    assert set(re.findall(r"\.entry (\w+)\(", ptx)) == set(host.signatures(family))
    bodies = dict(zip(re.findall(r"\.entry (\w+)\(", ptx), ptx.split(".entry ")[1:], strict=True))
    vector = r"global\.v4\.(f32|b32|u32)" if real == "float" else r"global\.v2\.(f64|b64|u64)"
    assert [k for k in PACKED.get(family, []) if not re.search(f"ld.{vector}", bodies[k])] == []
    assert [k for k in PACKED.get(family, []) if not re.search(f"st.{vector}", bodies[k])] == []
    # An array of a thread that is no register lies in the GPU's memory.
    assert [k for k, body in bodies.items() if ".local" in body] == []


def test_a_warning_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "source", lambda family: 'extern "C" __global__ void f() { int unused; }')
    assert "unused" in compiled("any", "float", "sm_90")[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parser_sees_every_kernel(family: str) -> None:
    assert len(host.signatures(family)) == sources.source(family).count("__global__") > 0


@pytest.mark.parametrize(("family", "kernel"), [(f, k) for f in OF_MEMBERS for k in host.signatures(f)])
def test_parameters_stand_in_the_order_of_the_convention(family: str, kernel: str) -> None:
    names = [p.name for p in host.signatures(family)[kernel]]
    strides = [n for n in names if n.endswith("_stride")]
    assert names[0] == "index"
    assert all(names.index(n) == names.index(n.removesuffix("_stride")) + 1 for n in strides)
    arrays = [p.name for p in host.signatures(family)[kernel] if p.array]
    shared = ["index", "numbers", "chunks", "firsts"]
    assert [f"{n}_stride" for n in arrays if n not in shared] == strides
    rest = names[names.index(strides[-1]) + 1 :]
    assert rest[:2] in ([], ["numbers", "columns"])


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, tuple[Any, ...]]]]:
    """Family, kernel and arguments of what is launched; nothing runs."""
    if "gpu" in available():
        pytest.skip("there is a GPU: nothing is simulated")
    recorded: list[tuple[str, str, tuple[Any, ...]]] = []
    with install():
        monkeypatch.setattr(
            host,
            "run",
            lambda family, kernel, real, grid, block, given, shared: recorded.append((family, kernel, given)),
        )
        yield recorded


def launch_everything() -> None:
    """Every kernel of the contract, and what else the families have, in sizes that need all their launches."""
    gpu = backend("gpu")
    for kernel in _FAMILIES["gpu"]:
        for size in (Size(5, 3, 4), Size(3000, 0, 16)):
            run = Maker(np.float32)
            calls = [getattr(run, kernel)(size)]
            if kernel == "softmax_cross_entropy":
                calls.append(calls[0] | {"weights": run.normal(size.rows)})
            if kernel == "gather":
                calls += [run.gather(size, data=np.ones((9, size.columns), t)) for t in (np.uint8, np.float64)]
            for given in calls:
                own = [
                    gpu.xp.asarray(v) if isinstance(v, np.ndarray) and k not in HOST else v for k, v in given.items()
                ]
                getattr(gpu, kernel)(*own)
    x, rows = gpu.xp.ones(9, np.float32), gpu.xp.zeros(9, np.int64)
    importlib.import_module(f"{sources.__package__}.dropout").scale(x[:1], x, gpu.xp.zeros(9, np.float32))
    importlib.import_module(f"{sources.__package__}.batches").take(rows, rows, gpu.xp.zeros(9, np.int64))


def test_every_kernel_is_launched_and_nothing_else(launches: list[Any]) -> None:
    launch_everything()
    assert {(family, kernel) for family, kernel, _ in launches} == {
        (f, k) for f in OF_MEMBERS for k in host.signatures(f)
    }


def test_a_launch_passes_what_the_kernel_declares(launches: list[Any]) -> None:
    launch_everything()
    for family, kernel, given in launches:
        parameters = host.signatures(family)[kernel]
        assert len(given) == len(parameters), kernel
        for parameter, value in zip(parameters, given, strict=True):
            if parameter.array:
                wanted = np.dtype(host.TYPES["float" if parameter.type == "REAL" else parameter.type])
                assert value is None or value.dtype == wanted, (kernel, parameter)
            else:
                assert type(value) is (float if parameter.type == "double" else int), (kernel, parameter)


@pytest.mark.parametrize("kernel", SCALARS)
def test_the_columns_of_a_table_are_the_last_parameters(kernel: str) -> None:
    own = {
        "affine_relu_dropout": ("affine", "add_bias_relu_dropout"),
        "affine_relu_dropout_backward": ("affine", "relu_dropout_backward"),
        "sgd": ("updates", "sgd"),
        "adam": ("updates", "adam"),
        "dropout": ("dropout", "dropout"),
    }
    family, name = own[kernel]
    parameters = host.signatures(family)[name][-len(SCALARS[kernel]) :]
    assert tuple((p.name, REAL if p.type == "double" else not REAL) for p in parameters) == SCALARS[kernel]


BAD = {
    "too few": ([None], TypeError),
    "an integer for a pointer": ([None, 4, 2, 0, np.ones(4, np.float32), 0], TypeError),
    "another type of array": ([None, 4, np.ones(4), 0], TypeError),
    "a real number for a whole one": ([None, 4.0, np.ones(4, np.float32), 0], TypeError),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_host_refuses_arguments_that_do_not_fit(kind: str) -> None:
    given, error = BAD[kind]
    with pytest.raises(error):
        host.run("affine", "clear", "float", (1, 1, 1), (32, 1, 1), given)


TALK = """
typedef long long whole;
extern "C" __global__ void talk(whole *out, whole how) {
    extern __shared__ whole values[];
    const int t = threadIdx.x;
    values[t] = (whole)1 << t % 32;
    if (how == 1 && t == 5) {
        __syncwarp();
    }
    if (how == 2 && t == 5) {
        return;
    }
    if (how != 3) {
        __syncthreads();
    }
    whole sum = values[(t + 33) % blockDim.x];
    for (int d = 16; d; d /= 2) {
        sum += __shfl_xor_sync(how == 4 ? 0xffffu : 0xffffffffu, sum, d);
    }
    out[t] = __ballot_sync(0xffffffffu, sum == 0xffffffffll) == 0xffffffffu ? __shfl_sync(0xffffffffu, sum, 3) : 0;
}
"""


def talk(how: int, monkeypatch: pytest.MonkeyPatch, backwards: bool = False) -> Any:
    monkeypatch.setattr(host, "source", lambda family: TALK)
    out = np.zeros(64, np.int64)
    host.run("talk", "talk", "float", (1, 1, 1), (64, 1, 1), [out, how], 64 * 8, backwards=backwards)
    return out


@pytest.mark.parametrize("backwards", [False, True])
def test_threads_on_the_host_wait_for_each_other_and_exchange(monkeypatch: pytest.MonkeyPatch, backwards: bool) -> None:
    np.testing.assert_array_equal(talk(0, monkeypatch, backwards), np.full(64, 2**32 - 1))


@pytest.mark.parametrize("how", [1, 2, 4], ids=["a barrier of some", "a thread that left", "a lane that is not named"])
def test_threads_that_never_meet_are_an_error(monkeypatch: pytest.MonkeyPatch, how: int) -> None:
    with pytest.raises(RuntimeError, match=r"talk of talk.cu: .* at line \d+, block"):
        talk(how, monkeypatch)


def test_a_missing_barrier_shows_in_one_of_the_two_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [talk(3, monkeypatch, backwards) for backwards in (False, True)]
    assert any((out != 2**32 - 1).any() for out in found)
