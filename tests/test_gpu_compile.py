"""A compiled function on a GPU makes the eager numbers, bit for bit, by launches of a graph and without waiting."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from simulated_gpu import State
from tinygrad_cr import Generator, Tensor, nn, ops, optim
from tinygrad_cr.errors import CaptureError
from tinygrad_cr.kernels import available, backend
from tinygrad_cr.op_table import CASES, Case
from tinygrad_cr.tape import computing, each_member

REAL_GPU = "gpu" in available()
SIZES = [6, 16, 7, 3]
DATA = Generator(0).normal((60, SIZES[0])).astype("f")
LABELS = np.arange(60) % 3
STEPS = 6


@pytest.fixture(autouse=True)
def strict(gpu: State) -> Iterator[None]:
    """On a GPU; a step that is not captured is an error unless a test expects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def bits(value: Any) -> tuple[Any, ...]:
    array = value.data if isinstance(value, Tensor) else value
    array = array.get() if hasattr(array, "get") else np.asarray(array)
    return array.shape, array.dtype, array.tobytes()


def same(found: tuple[Any, ...], expected: tuple[Any, ...], joined: Any = True) -> bool:
    """Whether these `bits` agree. A real cuBLAS multiplies for members together in another order than for each."""
    if not (joined and REAL_GPU):
        return found == expected
    (shape, dtype, own), (other_shape, other_dtype, theirs) = found, expected
    near = np.isclose(np.frombuffer(own, dtype), np.frombuffer(theirs, other_dtype), rtol=1e-3, atol=1e-4)
    # Adam makes a whole step of a gradient that is all rounding.
    return (shape, dtype) == (other_shape, other_dtype) and near.mean() > 0.98


def on_gpu(array: Any) -> Any:
    return backend("gpu").xp.asarray(array)


def tensor(array: Any) -> Tensor:
    return Tensor(on_gpu(array), device="gpu")


class Training:
    """A step with minibatches gathered on the GPU: of one network, or of each member its own."""

    def __init__(self, kind: str = "sgd", members: int | None = None, norms: bool = False) -> None:
        options: dict[str, Any] = (
            {"dropout": 0.5} if members is None else {"dropout": [0.5, 0.0, 0.25, 0.5, 0.1][:members]}
        )
        self.model = nn.MLP(SIZES, members=members, generator=7, **options).to("gpu")
        lr = 0.1 if members is None else [0.1 / (m + 1) for m in range(members)]
        self.optimizer = optim.make_optimizer(kind, self.model, lr, 0.9 if kind == "sgd" else 0.0)
        self.members, self.norms = members, norms
        lead = () if members is None else (members,)
        xp = backend("gpu").xp
        self.data, self.labels = on_gpu(DATA), on_gpu(LABELS)
        self.mean, self.scale = xp.zeros(SIZES[0], "f"), xp.ones(SIZES[0], "f")
        self.x, self.y = xp.empty((*lead, 8, SIZES[0]), "f"), xp.empty((*lead, 8), np.int64)
        self.seed = xp.ones(lead, "f")

    def step(self, rows: Any) -> Any:
        kernels = backend("gpu")
        for m in [...] if self.members is None else each_member(self.members):
            kernels.gather(self.data, rows[m], self.mean, self.scale, self.x[m])
            kernels.xp.take(self.labels, rows[m], out=self.y[m])
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(Tensor(self.x, device="gpu")), Tensor(self.y, device="gpu"))
        loss.backward(Tensor(self.seed, device="gpu"))
        norms = self.optimizer.step(norms=self.norms)
        return (loss, norms) if self.norms else loss

    def values(self) -> tuple[Any, ...]:
        return bits(self.model.flat().values)


def rows(steps: int, members: int | None = None) -> Any:
    shape = (steps, 8) if members is None else (steps, members, 8)
    return np.random.default_rng(1).integers(0, 60, shape)


KINDS = ["sgd", "adam", "adamw"]


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_replays_and_scans_train_to_the_eager_bits(kind: str, members: int | None) -> None:
    eager, looped, scanned = (Training(kind, members) for _ in range(3))
    order = on_gpu(rows(STEPS, members))

    def rate(training: Training, k: int) -> None:
        own = 0.1 / (k + 1)
        training.optimizer.lr = own if members is None else [own / (m + 1) for m in range(members)]

    losses = []
    step = tinygrad_cr.compile(looped.step)
    for k in range(STEPS):
        rate(eager, k)
        rate(looped, k)
        losses.append(bits(eager.step(order[k])))
        assert same(bits(step(order[k])), losses[-1], members)
    found = tinygrad_cr.compile(scanned.step).scan(order, before=lambda k: rate(scanned, k))
    assert all(same(bits(found.data[k]), losses[k], members) for k in range(STEPS))
    assert looped.values() == scanned.values()
    assert same(looped.values(), eager.values(), members)
    assert eager.optimizer.steps == scanned.optimizer.steps
    assert eager.model.generator.state() == scanned.model.generator.state()


@pytest.mark.parametrize("members", [None, 2])
def test_replays_and_scans_wait_for_nothing(members: int | None, simulated_gpu: State) -> None:
    training = Training("sgd", members)
    order = rows(STEPS, members)
    step = tinygrad_cr.compile(training.step)
    for k in range(2):
        step(on_gpu(order[k]))
    with simulated_gpu.no_waits():
        step(on_gpu(order[2]))
        step.scan(on_gpu(order[3:]))


def test_a_step_of_a_scan_is_one_launch(simulated_gpu: State) -> None:
    training = Training()
    step = tinygrad_cr.compile(training.step)
    order = on_gpu(rows(20))
    step.scan(order[:3])
    before = simulated_gpu.launches, simulated_gpu.uploads
    step.scan(order)
    assert (simulated_gpu.launches - before[0], simulated_gpu.uploads - before[1]) == (1 + 20, 1)


def test_a_population_is_launched_as_one() -> None:
    counts = []
    for members in (2, 5):
        training = Training("sgd", members)
        step = tinygrad_cr.compile(training.step)
        step(on_gpu(rows(1, members)[0]))
        counts.append(step.programs[0].replay.launches.launches)
    assert counts[0] == counts[1]
    assert {"gather", "take", "scale"} <= set(counts[0])
    assert not any(name.startswith(("xp.take", "xp.multiply")) for name in counts[0])


@pytest.mark.parametrize("way", ["replay", "scan"])
def test_a_retired_member_stands_still_and_changes_no_other_by_a_bit(way: str) -> None:
    whole, thinned = Training("sgd", 5), Training("sgd", 5)
    active = np.array([False, True, True, False, True])
    order = on_gpu(rows(8, 5))
    steps = [tinygrad_cr.compile(training.step) for training in (whole, thinned)]
    for step in steps:
        step.scan(order[:4])
    left = bits(thinned.model.flat().values[0])
    steps[0].scan(order[4:])
    with computing(active):
        if way == "scan":
            steps[1].scan(order[4:])
        else:
            for k in range(4, 8):
                steps[1](order[k])
    for m in np.flatnonzero(active).tolist():
        assert same(bits(whole.model.flat().values[m]), bits(thinned.model.flat().values[m]))
    assert bits(thinned.model.flat().values[0]) == left
    steps[1](order[0])
    assert bits(thinned.model.flat().values[0]) != left


def test_a_program_captured_without_the_first_member_joins_the_others() -> None:
    eager, compiled = Training("sgd", 5), Training("sgd", 5)
    order = on_gpu(rows(4, 5))
    step = tinygrad_cr.compile(compiled.step)
    with computing(np.array([False, True, True, False, True])):
        for k in range(4):
            eager.step(order[k])
            step(order[k])
    assert same(compiled.values(), eager.values())
    names = step.programs[0].replay.launches.launches
    assert names.count("gather") == 1


def test_results_read_late_are_those_of_their_step() -> None:
    eager, compiled = Training(), Training()
    order = on_gpu(rows(5))
    step = tinygrad_cr.compile(compiled.step)
    late = [step(order[k]) for k in range(5)]
    assert list(map(bits, late)) == [bits(eager.step(order[k])) for k in range(5)]


def test_norms_are_handed_out_for_each_step() -> None:
    eager, compiled = Training(norms=True), Training(norms=True)
    order = on_gpu(rows(5))
    _, norms = tinygrad_cr.compile(compiled.step).scan(order)
    for k in range(5):
        assert bits(norms[k]) == bits(eager.step(order[k])[1])


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_arguments_of_the_host_are_copied_up_for_each_step(dtype: str) -> None:
    model = nn.MLP(SIZES, generator=0).to("gpu")

    def loss(x: Any, y: Any) -> Tensor:
        return ops.cross_entropy(model(tensor(x)), y)

    compiled = tinygrad_cr.compile(loss)
    x, y = DATA[:40].reshape(5, 8, -1), LABELS[:40].reshape(5, 8).astype(dtype)
    expected = [bits(loss(x[k], y[k])) for k in range(5)]
    for way in ("replay", "scan"):
        found = [compiled(x[k], y[k]) for k in range(5)] if way == "replay" else compiled.scan(x, y).data
        assert [bits(found[k]) for k in range(5)] == expected
    assert compiled.programs[0].in_one_table


def test_a_scan_may_have_a_tensor_that_is_the_same_in_each_step() -> None:
    model = nn.MLP(SIZES, generator=0).to("gpu")
    compiled = tinygrad_cr.compile(lambda y, x: ops.cross_entropy(model(x), y))
    x, labels = tensor(DATA[:8]), LABELS[:40].reshape(5, 8)
    expected = [bits(compiled.fn(y, x)) for y in labels]
    assert [bits(loss) for loss in compiled.scan(labels, x).data] == expected


def test_an_index_of_the_host_picks_anew_in_each_replay() -> None:
    x = tensor(DATA)
    pick = tinygrad_cr.compile(lambda rows: x[rows])
    for rows in ([0, 1], [5, 3], [7, 7]):
        assert bits(pick(np.array(rows))) == bits(DATA[rows])


def test_a_program_may_compute_on_the_host_beside_the_gpu() -> None:
    def both(x: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        doubled = Tensor(x) * 2.0
        return doubled, y * doubled.to("gpu")

    compiled = tinygrad_cr.compile(both)
    for k in range(4):
        ours, theirs = compiled(DATA[k], tensor(DATA[k + 1]))
        assert bits(ours) == bits(2 * DATA[k])
        assert bits(theirs) == bits(DATA[k + 1] * (2 * DATA[k]))
    results = compiled.scan(DATA[:5], tensor(DATA[5]))
    assert bits(results[0]) == bits(2 * DATA[:5])
    assert bits(results[1]) == bits(DATA[5] * (2 * DATA[:5]))


def test_what_changes_after_the_capture_is_seen() -> None:
    double = tinygrad_cr.compile(lambda x: x * 2.0)
    for x in (DATA, DATA[:5], DATA[:5].astype("f8"), DATA + 1):
        for _ in range(2):
            assert bits(double(tensor(x))) == bits(2 * x)
    assert len(double.programs) == 3
    assert bits(double(Tensor(DATA))) == bits(2 * DATA)


def test_arguments_in_place_are_read_where_they_are() -> None:
    x = on_gpu(DATA)
    double = tinygrad_cr.compile(lambda x: x * 2.0, in_place=True)
    double(tensor(x))
    x[...] = 3.0
    assert bits(double(tensor(x))) == bits(np.full_like(DATA, 6.0))


def test_a_result_in_another_layout_comes_out_right() -> None:
    flip = tinygrad_cr.compile(lambda x: (x * 2.0).T)
    for shift in range(3):
        assert bits(flip(tensor(DATA + shift))) == bits(np.ascontiguousarray((2 * (DATA + shift)).T))


def test_a_graph_multiplies_as_is_allowed_at_the_time(gpu: State) -> None:
    x = tensor(np.ones((8, 8), "f"))
    step = tinygrad_cr.compile(lambda: ops.affine(x, x, x[0]))
    for _ in range(3):
        step()
    made = []
    for allowed in (True, True, False):
        tinygrad_cr.set_tf32(allowed)
        before = gpu.launches
        step()
        made.append(gpu.launches - before)
    assert made[0] == made[2] > made[1] == 2


def test_what_a_graph_cannot_hold_is_repeated_call_by_call() -> None:
    def step(x: Tensor) -> Tensor:
        return tinygrad_cr.tensor.record(x.backend.xp.matmul(x.data, x.data.T), (x,), lambda g: (g,))

    compiled = tinygrad_cr.compile(step)
    x = tensor(DATA)
    compiled(x)
    with pytest.warns(RuntimeWarning, match=r"call by call.*matmul"):
        second = compiled(x)
    third = compiled(tensor(DATA + 1))
    assert bits(second) == bits(step(x))
    assert bits(third) == bits(step(tensor(DATA + 1)))


def test_a_step_that_is_not_captured_is_made_once() -> None:
    total = on_gpu(np.zeros(3, "f"))

    def step(x: Tensor) -> Tensor:
        xp = x.backend.xp
        xp.add(total, x.data, out=total)
        return tinygrad_cr.tensor.record(xp.matmul(total[None], total[:, None]), (x,), lambda g: (g,))

    compiled = tinygrad_cr.compile(step)
    one = tensor(np.ones(3, "f"))
    compiled(one)
    with pytest.warns(RuntimeWarning):
        compiled(one)
    compiled(one)
    assert total.get().tolist() == [3.0] * 3


def test_an_argument_of_the_host_that_no_call_reads_is_refused() -> None:
    def step(x: Any) -> Tensor:
        return tensor(x.astype("f")) * 2.0

    with pytest.raises(CaptureError, match=r"argument 0.*on the host"):
        tinygrad_cr.compile(step)(np.arange(3))


@pytest.mark.parametrize("case", [case for case in CASES if str(case) != "getitem-mask"], ids=str)
def test_a_replay_of_an_operation_and_its_gradient_equals_the_eager_bits(case: Case) -> None:
    leaves = [Tensor(on_gpu(a), device="gpu", requires_grad=True) for a in case.inputs(0, "float32")]

    def step() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        y = case.fn(*leaves)
        (y * y).sum().backward()
        return y

    compiled = tinygrad_cr.compile(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # products of CuPy's own are repeated call by call
        compiled()
        compiled()
        captures = len(compiled.programs)
        for seed in (1, 2):
            for leaf, values in zip(leaves, case.inputs(seed, "float32"), strict=True):
                leaf.data[...] = on_gpu(values)
            replayed = [bits(compiled()), *[bits(leaf.grad) for leaf in leaves]]
            grads = [leaf.grad for leaf in leaves]
            assert replayed == [bits(step()), *[bits(leaf.grad) for leaf in leaves]]
            for leaf, grad in zip(leaves, grads, strict=True):
                leaf.grad = grad
    assert len(compiled.programs) == captures
