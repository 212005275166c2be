"""The engine on a GPU, simulated where there is none: moves, errors, and steps that wait for nothing."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from calls import Maker, Size, assert_like_reference, evaluate_case, training_step
from simulated_gpu import State
from tinygrad_cr import Generator, Tensor, nn, ops, optim
from tinygrad_cr.device import device_memory
from tinygrad_cr.errors import (
    DataError,
    DeviceError,
    DeviceMemoryError,
    DTypeError,
    IndexingError,
    OptionError,
    StateDictError,
)
from tinygrad_cr.gradcheck import gradcheck
from tinygrad_cr.kernels import KERNELS, backend
from tinygrad_cr.kernels.gpu import availability
from tinygrad_cr.op_table import CASES, Case

FIRST_OF_EACH = list({case.operation: case for case in reversed(CASES)}.values())
X, Y = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.array([0, 2, 1, 2, 0, 1])


def xp() -> Any:
    return backend("gpu").xp


def network(device: str, dropout: float = 0.5, **options: Any) -> nn.MLP:
    model = nn.MLP([4, 8, 3], dropout=dropout, generator=3, **options)
    model.to(device)
    return model


# Values are those of the CPU


@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=str)
def test_value_and_gradient_of_an_operation_are_those_of_the_cpu(gpu: Any, case: Case) -> None:
    value, gradients = evaluate_case(case, "float64", "gpu")
    expected, expected_gradients = evaluate_case(case, "float64", "reference")
    for found, wanted in zip([value, *gradients], [expected, *expected_gradients], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [Size(3, 5, 7), Size(33, 4, 10)], ids=str)
def test_a_kernel_equals_reference(gpu: Any, kernel: str, dtype: str, size: Size) -> None:
    if kernel == "mean_squared_error":
        size = Size(size.rows, 0, 1)
    assert_like_reference("gpu", kernel, getattr(Maker(dtype), kernel)(size), max(size))


@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
def test_masks_are_the_same_bit_for_bit(gpu: Any, mode: str) -> None:
    x = np.ones((13, 37), "float32")
    found, wanted = (
        ops.dropout(Tensor(x, device=device), 0.3, generator=Generator(5, stream=2, draw=9), mode=mode).numpy()
        for device in ("gpu", "cpu")
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW], ids=lambda c: c.__name__)
@pytest.mark.parametrize("members", [None, 3])
def test_a_few_steps_lead_where_those_of_the_cpu_lead(gpu: Any, make: Any, members: int | None) -> None:
    states = []
    for device in ("cpu", "gpu"):
        model = network(device, members=members)
        optimizer = make(model, 0.05)
        for _ in range(4):
            optimizer.zero_grad()
            ops.cross_entropy(model(Tensor(X, device=device)), Y).sum().backward()
            optim.clip_norm(optimizer, 0.5)
            norms = optimizer.step(reg=0.01, norms=True)
        states.append(model.state_dict() | {"norms": backend(device).to_numpy(norms)} | optimizer.state_dict())
    for name, wanted in states[0].items():
        np.testing.assert_allclose(states[1][name], wanted, rtol=2e-4, atol=1e-6, err_msg=name)


def test_gradcheck_works_on_tensors_of_the_gpu(gpu: Any) -> None:
    x = Tensor(np.array([[0.5, 0.0], [-1.0, 2.0]]), device="gpu")
    report = gradcheck(lambda t: ops.relu(t) + ops.tanh(t), [x])
    assert report.moved == ["0 (t)[0, 1]"]
    model = network("gpu", dropout=0.0, dtype="float64")
    assert gradcheck(model, [Tensor(X.astype(float), device="gpu")], wrt=dict(model.named_parameters())).ok


def test_gradcheck_finds_a_wrong_rule_on_the_gpu(gpu: Any) -> None:
    def wrong(x: Tensor) -> Tensor:
        return tinygrad_cr.tensor.record(x.data * x.data, (x,), lambda g: (g * x.data,))

    assert not gradcheck(wrong, [Tensor(np.array([1.0, 2.0]), device="gpu")], raises=False).ok


# No host wait


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam], ids=lambda c: c.__name__)
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("where", ["host", "gpu"])
def test_a_training_step_waits_for_nothing(simulated_gpu: State, make: Any, members: int | None, where: str) -> None:
    model = network("gpu", members=members)
    optimizer = make(model, 0.05)
    x, y, w = Tensor(X, device="gpu"), Y, np.ones(6)
    if where == "gpu":
        y, w = xp().asarray(y), Tensor(w, device="gpu")
    with simulated_gpu.no_waits():
        for weights in (None, w):
            optimizer.zero_grad()
            ops.cross_entropy(model(x), y, weights).sum().backward()
            optim.clip_norm(optimizer, 0.5)
            optimizer.step(reg=0.1, norms=True)
        leaf = Tensor(x, requires_grad=True)
        ops.mse(leaf, leaf * 2.0).backward()
        leaf[[0, 1]][:, np.array([True, False, True, True])]
    assert np.isfinite(model.state_dict()["layers.0.weight"]).all()


def test_labels_out_of_range_are_found_on_the_host_and_make_the_loss_nan_on_the_gpu(simulated_gpu: State) -> None:
    logits = Tensor(np.zeros((3, 4)), device="gpu")
    with simulated_gpu.no_waits(), pytest.raises(DataError, match=r"label 4 in row 1 is outside \[0, 4\)"):
        ops.cross_entropy(logits, [0, 4, 1])
    with simulated_gpu.no_waits(), pytest.raises(DataError, match="sample weights"):
        ops.cross_entropy(logits, [0, 3, 1], [1.0, -1.0, 1.0])
    assert np.isnan(ops.cross_entropy(logits, xp().asarray([0, 4, 1])).item())


# Moves


def test_an_array_of_the_gpu_becomes_a_tensor_without_a_copy_and_without_a_word(gpu: Any) -> None:
    array = xp().ones((2, 3), "float32")
    x = Tensor(array)
    assert x.device == "gpu"
    assert x.data is array
    assert xp().asarray(x).data.ptr == array.data.ptr
    assert xp().from_dlpack(x).data.ptr == array.data.ptr
    assert x.__dlpack_device__()[0] == 2
    assert not hasattr(Tensor(X), "__cuda_array_interface__")


def test_what_another_library_shows_is_taken_without_a_copy(gpu: Any) -> None:
    array = xp().arange(6, dtype="float32").reshape(2, 3).T
    foreign = types.SimpleNamespace(__cuda_array_interface__=array.__cuda_array_interface__)
    x = Tensor(foreign)
    assert (x.device, x.data.data.ptr, x.data.strides) == ("gpu", array.data.ptr, array.strides)
    np.testing.assert_array_equal((x * 1.0).numpy(), array.get())


def test_tensors_go_up_and_down_as_they_are_told(gpu: Any) -> None:
    up = Tensor(X, device="gpu", requires_grad=True)
    assert (up.device, up.dtype, up.requires_grad) == ("gpu", X.dtype, True)
    for down in (up.to("cpu"), Tensor(up, device="cpu"), Tensor(up.data, device="cpu")):
        assert down.device == "cpu"
        np.testing.assert_array_equal(down.data, X)
    for array in (np.array(up), np.asarray(up, "float64"), up.numpy()):
        np.testing.assert_array_equal(array, X)
    with pytest.raises(ValueError, match="by a copy only"):
        np.array(up, copy=False)
    assert repr(Tensor([1.0], device="gpu")) == "Tensor([1.], dtype=float32, device='gpu')"
    assert Tensor([1, 2], device="gpu").dtype == np.int64


@pytest.mark.parametrize("dtype", ["float16", "complex64"])
def test_an_array_of_the_gpu_in_another_dtype_is_refused(gpu: Any, dtype: str) -> None:
    with pytest.raises(DTypeError, match=f"got {dtype}; convert with dtype='float32'"):
        Tensor(xp().ones(3, dtype))


def test_a_module_moves_there_and_back_with_its_dtype(gpu: Any) -> None:
    model = nn.MLP([4, 8, 3], generator=3, dtype="float64")
    before = model.state_dict()
    ops.cross_entropy(model(X.astype(float)), Y).backward()
    model.to("gpu")
    assert {p.device for p in model.parameters()} == {"gpu"}
    assert {p.dtype for p in model.parameters()} == {np.dtype("float64")}
    assert [p.grad for p in model.parameters()] == [None] * 4
    assert model.parameters()[0].data.base is model.flat().values.base
    model.to("float32").to("float64").to("cpu")
    for name, value in model.state_dict().items():
        assert type(value) is np.ndarray
        np.testing.assert_allclose(value, before[name], rtol=1e-6)


def test_states_are_numpys_arrays_and_fit_on_every_device(gpu: Any) -> None:
    model, other = network("gpu"), network("cpu")
    optimizer, theirs = optim.SGD(model, 0.1, 0.9), optim.SGD(other, 0.1, 0.9)
    training_step(model, optimizer)(Tensor(X, device="gpu"), Y)
    other.load_state_dict(model.state_dict())
    theirs.load_state_dict(optimizer.state_dict())
    model.load_state_dict({name: p.data for name, p in model.named_parameters()})
    optimizer.load_state_dict(theirs.state_dict())
    assert {type(value) for value in optimizer.state_dict().values()} == {np.ndarray}
    np.testing.assert_array_equal(theirs.velocity, optimizer.velocity.get())
    with pytest.raises(StateDictError):
        model.load_state_dict({})


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copied", "pickled"])
def test_a_module_on_the_gpu_can_be_copied_and_pickled(gpu: Any, again: Callable[[Any], Any]) -> None:
    model = network("gpu")
    twin = again(model)
    assert twin.flat().backend is backend("gpu")
    twin.parameters()[0].data.fill(0)
    assert model.state_dict()["layers.0.weight"].any()
    np.testing.assert_array_equal(twin.state_dict()["layers.1.weight"], model.state_dict()["layers.1.weight"])


def test_networks_on_the_gpu_become_a_population_there(gpu: Any) -> None:
    population = nn.stack([network("gpu"), network("gpu")])
    assert {p.device for p in population.parameters()} == {"gpu"}
    assert population[1].parameters()[0].data.base is population.parameters()[0].data.base


def test_indices_of_every_kind_pick_what_they_pick_on_the_cpu(gpu: Any) -> None:
    data = np.arange(24.0).reshape(4, 6)
    indices: list[Any] = [
        1,
        slice(1, 3),
        [2, 0],
        np.array([1, 1]),
        (slice(None), [0, 5]),
        data > 7,
        (data[:, 0] > 5, 2),
    ]
    for index in [*indices, ([], ...), (np.array([0, 3]), np.array([1, 1])), None]:
        x, y = Tensor(data, device="gpu", requires_grad=True), Tensor(data, requires_grad=True)
        x[index].sum().backward()
        y[index].sum().backward()
        np.testing.assert_array_equal(x[index].numpy(), y[index].numpy())
        np.testing.assert_array_equal(x.grad.get(), y.grad)
    x = Tensor(data, device="gpu")
    for index in (np.array([3, 0]), data > 7):
        np.testing.assert_array_equal(x[xp().asarray(index)].numpy(), data[index])
        np.testing.assert_array_equal(x[Tensor(index, device="gpu")].numpy(), data[index])
    with pytest.raises(IndexingError):
        x[[4]]


# Two devices are not mixed

MIXES: dict[str, Callable[[Tensor, Tensor, Any], Any]] = {
    "operands": lambda here, there, array: there + here,
    "an array": lambda here, there, array: here * array,
    "matrices": lambda here, there, array: there @ here,
    "several": lambda here, there, array: ops.stack([here, there]),
    "weights and input": lambda here, there, array: ops.affine(here, there, there[0]),
    "labels": lambda here, there, array: ops.cross_entropy(there, Tensor([0, 1])),
    "labels in an array": lambda here, there, array: ops.cross_entropy(here, array[0].astype(int)),
    "sample weights": lambda here, there, array: ops.cross_entropy(there, [0, 1], here[0]),
    "sample weights in an array": lambda here, there, array: ops.cross_entropy(here, [0, 1], array[0]),
    "a condition": lambda here, there, array: ops.where(here > 0, there, 0.0),
    "a condition in an array": lambda here, there, array: ops.where(array > 0, here, 0.0),
    "an index": lambda here, there, array: there[Tensor([0])],
    "a gradient": lambda here, there, array: (Tensor(there, requires_grad=True) * 1.0).backward(here),
    "a module": lambda here, there, array: nn.Affine(2, 3)(there),
}


@pytest.mark.parametrize("name", MIXES)
def test_mixing_devices_is_an_error_that_says_how_to_move(gpu: Any, name: str) -> None:
    here = Tensor(np.ones((2, 2), "float32"))
    with pytest.raises(DeviceError, match=r"'(gpu|cpu)'.*'(gpu|cpu)'.*(\.to\(|Tensor\()"):
        MIXES[name](here, here.to("gpu"), xp().ones((2, 2), "float32"))


def test_a_gradient_assigned_on_another_device_is_refused(gpu: Any) -> None:
    model = network("gpu")
    optimizer = optim.SGD(model, 0.1)
    model.parameters()[0].grad = np.zeros((4, 8), "float32")
    with pytest.raises(DeviceError, match="Tensor\\(array, device='gpu'\\)"):
        optimizer.step()


# Memory


def test_memory_that_runs_out_says_what_was_asked_and_what_is_free(simulated_gpu: State) -> None:
    simulated_gpu.memory = 2**20
    with pytest.raises(DeviceMemoryError, match=r"asked for 7\.6 MiB, 512\.0 KiB of its 1\.0 MiB are free") as caught:
        Tensor(np.zeros(10**6), device="gpu")
    assert isinstance(caught.value, MemoryError)
    with pytest.raises(DeviceMemoryError), device_memory():
        xp().empty(10**6)


def test_a_module_for_which_there_is_no_memory_stays_where_it_is(simulated_gpu: State) -> None:
    model = nn.MLP([100, 100, 10], generator=0)
    simulated_gpu.memory = 60_000
    before, flat = model.state_dict(), model.flat()
    with pytest.raises(DeviceMemoryError):
        model.to("gpu")
    assert model.flat() is flat
    assert {p.device for p in model.parameters()} == {"cpu"}
    np.testing.assert_array_equal(model.state_dict()["layers.0.weight"], before["layers.0.weight"])


def test_a_memory_error_of_the_host_stays_what_it_is() -> None:
    with pytest.raises(MemoryError) as caught, device_memory():
        raise MemoryError("of the host")
    assert not isinstance(caught.value, DeviceMemoryError)


# TF32


def test_tf32_is_off_until_it_is_allowed(simulated_gpu: State) -> None:
    assert not tinygrad_cr.tf32()
    assert not simulated_gpu.waits  # only a simulated cuBLAS says below what it was told
    products = sys.modules["tinygrad_cr.kernels.gpu.products"]
    x = Tensor(np.ones((2, 2), "float32"), device="gpu")
    ops.affine(x, x, x[0])
    assert products._cublas._library.math == 0
    tinygrad_cr.set_tf32(True)
    ops.affine(x, x, x[0])
    assert products._cublas._library.math == 3
    with pytest.raises(OptionError):
        tinygrad_cr.set_tf32("yes")  # type: ignore[arg-type]


# A machine without a GPU says why


class NoDriverError(RuntimeError):
    status = 35


class NoDeviceError(RuntimeError):
    status = 100


def fake_cupy(error: type[Exception] | None, devices: int = 0, driver: int = 0) -> types.ModuleType:
    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")

    def count() -> int:
        if error:
            raise error("cudaErrorNoDevice: no CUDA-capable device is detected")
        return devices

    cuda.runtime = types.SimpleNamespace(  # type: ignore[attr-defined]
        getDeviceCount=count,
        CUDARuntimeError=error or NoDeviceError,
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: driver,
    )
    cupy.__version__, cupy.cuda = "14.2.0", cuda  # type: ignore[attr-defined]
    return cupy


PROBLEMS: dict[str, tuple[Any, str]] = {
    "no CuPy": (None, r"CuPy, which is not installed: pip install 'tinygrad_cr\[gpu\]'"),
    "no driver": (
        fake_cupy(NoDriverError),
        r"no CUDA device: there is no NVIDIA driver \(CuPy 14\.2\.0 is.*: install the driver",
    ),
    "an old driver": (
        fake_cupy(NoDriverError, driver=12040),
        r"built for CUDA 13\.0, the driver supports CUDA 12\.4 at most: update .* \(cupy-cuda12x\)",
    ),
    "no device": (fake_cupy(NoDeviceError), "no CUDA device: cudaErrorNoDevice"),
    "zero devices": (fake_cupy(None), "no CUDA device: the driver sees no GPU"),
}


@pytest.fixture
def asked_anew() -> Any:
    if "gpu" in tinygrad_cr.kernels.available():
        pytest.skip("there is a GPU")
    availability.problem.cache_clear()
    yield
    availability.problem.cache_clear()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_machine_without_a_gpu_says_what_is_missing(
    asked_anew: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cupy, text = PROBLEMS[name]
    for module in [module for module in sys.modules if module.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, module)
    if cupy is None:
        monkeypatch.setattr(sys, "meta_path", [_Missing(), *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupy.cuda", cupy.cuda)
    for ask in (lambda: Tensor([1.0], device="gpu"), lambda: nn.Affine(1, 1).to("gpu"), tinygrad_cr.tf32):
        with pytest.raises(DeviceError, match=text):
            ask()


@pytest.mark.parametrize("device", [None, 3, ["gpu"]])
def test_a_device_is_a_name(device: Any) -> None:
    with pytest.raises(DeviceError, match="a device is named, like 'cpu' or 'gpu', got"):
        Tensor([1.0]).to(device)


class _Missing:
    """Finds no CuPy."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "cupy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_change_of_dtype_asks_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> None:
        raise AssertionError("somebody asked for a GPU")

    monkeypatch.setattr(availability, "problem", asked)
    assert nn.Affine(1, 1).to("float64").dtype == np.float64
