"""A member of a population is, bit for bit, the network that trains alone."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from tinygrad_cr import Generator, Tensor, nn, ops, optim
from tinygrad_cr.errors import OptionError, ShapeError
from tinygrad_cr.kernels import backend, num_threads, set_num_threads
from tinygrad_cr.random import member_generators
from tinygrad_cr.tape import computing, each_member

MEMBERS = 5
SIZES = [6, 16, 7, 3]
LR = [0.01, 0.1, 0.02, 0.3, 0.05]
MOMENTUM = [0.0, 0.9, 0.5, 0.9, 0.99]
DROPOUT = [0.0, 0.5, 0.1, 0.5, 0.25]
REG = [0.0, 1e-3, 0.1, 0.0, 1e-2]
INIT = ["he", "xavier", 0.1, "he", "lecun"]
KINDS = ["sgd", "adam", "adamw"]
DATA = Generator(0).normal((200, SIZES[0]))
LABELS = np.arange(200) % 3


class Training:
    """A step with minibatches of its own for each member, or for the one network."""

    def __init__(self, model: Any, optimizer: Any, reg: Any, norms: bool = False) -> None:
        self.model, self.optimizer, self.reg, self.norms = model, optimizer, reg, norms
        self.members, dtype = model.members, model.dtype
        lead = () if self.members is None else (self.members,)
        self.data = DATA.astype(dtype)
        self.mean, self.scale = np.zeros(SIZES[0], dtype), np.ones(SIZES[0], dtype)
        self.x, self.y = np.empty((*lead, 20, SIZES[0]), dtype), np.empty((*lead, 20), np.int64)
        self.seed = np.ones(lead, dtype)

    def step(self, rows: Any) -> Any:
        for m in [...] if self.members is None else each_member(self.members):
            backend("cpu").gather(self.data, rows[m], self.mean, self.scale, self.x[m])
            backend("cpu").xp.take(LABELS, rows[m], out=self.y[m], mode="clip")
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(Tensor(self.x)), self.y)
        loss.backward(self.seed)
        norms = self.optimizer.step(reg=self.reg, norms=self.norms)
        return (loss, norms) if self.norms else loss


def population(kind: str, dtype: str, norms: bool = False) -> Training:
    model = nn.MLP(SIZES, members=MEMBERS, dropout=DROPOUT, init=INIT, generator=7, dtype=dtype)
    return Training(model, optim.make_optimizer(kind, model, LR, MOMENTUM), REG, norms)


def solo(m: int, kind: str, dtype: str, norms: bool = False) -> Training:
    model = nn.MLP(SIZES, dropout=DROPOUT[m], init=INIT[m], generator=Generator(7, stream=m), dtype=dtype)
    return Training(model, optim.make_optimizer(kind, model, LR[m], MOMENTUM[m]), REG[m], norms)


def batches(steps: int, m: int) -> Any:
    """Rows of each step, int64 [steps, 20], of one member."""
    return np.stack([Generator(3, stream=m, draw=k).permutation(200)[:20] for k in range(steps)])


def everybody(steps: int) -> Any:
    return np.stack([batches(steps, m) for m in range(MEMBERS)], axis=1)


def values(training: Training, m: int) -> Any:
    flat = training.model.flat()
    return flat.values if flat.members is None else flat.values[m]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["eager", "compiled", "scan"])
def test_members_with_hyperparameters_of_their_own_equal_their_solo_runs(way: str, kind: str, dtype: str) -> None:
    steps = 50
    together = population(kind, dtype)
    run = together.step if way == "eager" else tinygrad_cr.compile(together.step)
    if way == "scan":
        losses = tinygrad_cr.compile(together.step).scan(everybody(steps)).numpy()
    else:
        losses = np.stack([run(rows).numpy() for rows in everybody(steps)])
    for m in range(MEMBERS):
        alone = solo(m, kind, dtype)
        expected = np.array([alone.step(rows).item() for rows in batches(steps, m)])
        assert losses[:, m].tolist() == expected.tolist()
        np.testing.assert_array_equal(values(together, m), values(alone, m))


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_measured_for_each_member(kind: str) -> None:
    together = population(kind, "float32", norms=True)
    _, norms = tinygrad_cr.compile(together.step).scan(everybody(8))
    assert norms.shape == (8, MEMBERS, 6, 2)
    for m in range(MEMBERS):
        alone = solo(m, kind, "float32", norms=True)
        np.testing.assert_array_equal(norms[:, m], [alone.step(rows)[1] for rows in batches(8, m)])


def test_a_scan_is_the_loop_that_it_stands_for() -> None:
    for make in (lambda: population("sgd", "float32"), lambda: solo(1, "adam", "float32")):
        looped, scanned = make(), make()
        rows = everybody(30) if looped.members else batches(30, 1)
        rates = 0.1 / np.arange(1, 31)
        step = tinygrad_cr.compile(looped.step)
        expected = []
        for k in range(30):
            looped.optimizer.lr = rates[k]
            expected.append(step(rows[k]).numpy())

        def before(k: int, scanned: Training = scanned, rates: Any = rates) -> None:
            scanned.optimizer.lr = rates[k]

        compiled = tinygrad_cr.compile(scanned.step)
        first = compiled.scan(rows[:10], before=before).numpy()
        second = compiled.scan(rows[10:], before=lambda k: before(k + 10)).numpy()
        assert compiled.programs[0].in_one_table
        np.testing.assert_array_equal(np.concatenate([first, second]), expected)
        np.testing.assert_array_equal(looped.model.flat().values, scanned.model.flat().values)
        # A replay alone works on its own arrays again.
        np.testing.assert_array_equal(step(rows[0]).numpy(), compiled(rows[0]).numpy())


def test_a_scan_that_no_table_holds_runs_as_a_loop() -> None:
    total = Tensor(np.zeros(3))

    def step(x: Any) -> Tensor:
        return (total + x).sum()

    compiled = tinygrad_cr.compile(step)
    x = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(compiled.scan(x).numpy(), x.sum(axis=1))
    assert not compiled.programs[0].in_one_table


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("delay", [1e-4, 3e-3, 1e-2], ids=["at once", "later", "within the block"])
def test_a_scan_that_is_interrupted_leaves_a_program_that_works(delay: float, second: bool) -> None:
    training, twin = population("sgd", "float32"), population("sgd", "float32")
    compiled = tinygrad_cr.compile(training.step)
    rows = everybody(400)
    compiled.scan(rows[:3])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def scan_for_ever() -> None:
        signal.setitimer(signal.ITIMER_REAL, delay)
        while True:
            compiled.scan(rows)

    outer = signal.signal(signal.SIGALRM, interrupt)
    # Hypothesis listens to the garbage collector, and what is raised while that calls back is dropped.
    gc.disable()
    try:
        with pytest.raises(KeyboardInterrupt):
            scan_for_ever()
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer)
    # What was made of the block does not matter here: from the same state, the same step follows.
    twin.model.load_state_dict(training.model.state_dict())
    twin.optimizer.load_state_dict(training.optimizer.state_dict())
    for own, other in zip(twin.model.generator, training.model.generator, strict=True):
        own.restore(other.state())
    again = compiled.scan(rows[:2]).numpy() if second else np.stack([compiled(row).numpy() for row in rows[:2]])
    np.testing.assert_array_equal(again, np.stack([twin.step(row).numpy() for row in rows[:2]]))
    np.testing.assert_array_equal(training.model.flat().values, twin.model.flat().values)


def test_where_a_step_cannot_be_prepared_those_before_it_are_made() -> None:
    scanned, looped = population("adam", "float32"), population("adam", "float32")
    rows = everybody(12)

    def before(k: int) -> None:
        if k == 9:
            raise ZeroDivisionError

    compiled = tinygrad_cr.compile(scanned.step)
    compiled.scan(rows[:2])
    with pytest.raises(ZeroDivisionError):
        compiled.scan(rows[2:], before=before)
    for k in range(11):
        looped.step(rows[k])
    np.testing.assert_array_equal(scanned.model.flat().values, looped.model.flat().values)
    assert scanned.optimizer.steps == looped.optimizer.steps
    assert scanned.model.generator[1].state() == looped.model.generator[1].state()


def test_a_scan_may_have_a_tensor_that_is_the_same_in_each_step() -> None:
    model = nn.MLP(SIZES, generator=0)
    compiled = tinygrad_cr.compile(lambda y, x: ops.cross_entropy(model(x), y))
    x, labels = Tensor(DATA[:4].astype("f")), np.arange(12).reshape(3, 4) % 3
    expected = [compiled.fn(y, x).item() for y in labels]
    for _ in range(2):
        assert compiled.scan(labels, x).numpy().tolist() == expected


def test_a_scan_in_place_leaves_the_callers_arrays_alone() -> None:
    total = Tensor(np.zeros(3))
    x = np.arange(12.0).reshape(4, 3)
    kept = x.copy()
    tinygrad_cr.compile(lambda row: (total + row).sum(), in_place=True).scan(x)
    np.testing.assert_array_equal(x, kept)


def test_a_list_of_penalties_may_change_between_steps() -> None:
    model = nn.Affine(1, 1, members=2, init=1.0, generator=0, dtype="float64")
    optimizer = optim.SGD(model, lr=0.1)
    reg = [0.0, 0.0]
    for strength in (0.0, 1.0):
        reg[1] = strength
        before = model.weight.data[:, 0, 0].copy()
        model(np.zeros((1, 1))).sum().backward()
        optimizer.step(reg=reg)
        optimizer.zero_grad()
        np.testing.assert_allclose(model.weight.data[:, 0, 0], before * [1, 1 - 0.1 * strength])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [optim.SGD, optim.AdamW])
def test_weight_decay_may_be_a_vector(make: Any, dtype: str) -> None:
    def trained(model: nn.MLP, decay: Any) -> Any:
        optimizer = make(model, 0.01, weight_decay=decay)
        for k in range(50):
            optimizer.zero_grad()
            loss = ops.cross_entropy(model(DATA[k : k + 9].astype(dtype)), LABELS[k : k + 9])
            loss.backward(np.ones(loss.shape, dtype))
            optimizer.step()
        return model.flat().values

    decay = [0.0, 0.1, 0.5]
    together = trained(nn.MLP(SIZES, members=3, generator=1, dtype=dtype), decay)
    for m in range(3):
        alone = nn.MLP(SIZES, generator=Generator(1, stream=m), dtype=dtype)
        np.testing.assert_array_equal(together[m], trained(alone, decay[m]))


def test_a_scan_without_steps_to_scan_says_so() -> None:
    compiled = tinygrad_cr.compile(lambda x, y: x)
    with pytest.raises(OptionError, match="one number of steps"):
        compiled.scan(1.0, 2.0)
    with pytest.raises(OptionError, match=r"\[2, 3\]"):
        compiled.scan(np.zeros((2, 1)), np.zeros((3, 1)))


@pytest.mark.parametrize("way", ["eager", "compiled", "scan"])
def test_a_retired_member_stands_still_and_changes_no_other_by_a_bit(way: str) -> None:
    whole, thinned = population("sgd", "float32"), population("sgd", "float32")
    active = np.array([True, False, True, True, False])
    whole_step, thinned_step = tinygrad_cr.compile(whole.step), tinygrad_cr.compile(thinned.step)
    # The first step captures: both blocks have ten.
    rows = everybody(21)
    whole_step.scan(rows[:11])
    thinned_step.scan(rows[:11])
    whole_step.scan(rows[11:])
    left, minibatches = thinned.model.flat().values[1].copy(), thinned.x.copy()
    with computing(active):
        if way == "scan":
            thinned_step.scan(rows[11:])
        else:
            for k in range(11, 21):
                (thinned.step if way == "eager" else thinned_step)(rows[k])
    for m in range(MEMBERS):
        if active[m]:
            np.testing.assert_array_equal(values(whole, m), values(thinned, m))
    np.testing.assert_array_equal(thinned.model.flat().values[1], left)
    if way != "scan":  # which has arrays of its own
        gathered = [(thinned.x[m] != minibatches[m]).any() for m in range(MEMBERS)]
        assert gathered == active.tolist(), "not even the minibatch of a retired member may be gathered"
    # Nobody was lost for good: computed again, a member goes on.
    thinned_step(rows[0])
    assert (thinned.model.flat().values[1] != left).any()


def test_the_number_of_threads_changes_no_bit() -> None:
    found = []
    threads = num_threads()
    try:
        for n in {1, threads}:
            set_num_threads(n)
            training = population("sgd", "float32")
            compiled = tinygrad_cr.compile(training.step)
            # 7 steps of 5 members on 2 threads: one member is cut in two.
            for begin in range(0, 21, 7):
                compiled.scan(everybody(21)[begin : begin + 7])
            found.append(training.model.flat().values.copy())
    finally:
        set_num_threads(threads)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_threads_may_change_between_blocks_of_one_program() -> None:
    threads, rows = num_threads(), everybody(22)
    trainings = population("sgd", "float32"), population("sgd", "float32")
    steps = [tinygrad_cr.compile(training.step) for training in trainings]
    try:
        for begin, end, n in ((0, 8, threads), (8, 15, 1), (15, 22, threads)):
            steps[0].scan(rows[begin:end])
            set_num_threads(n)
            steps[1].scan(rows[begin:end])
            set_num_threads(threads)
    finally:
        set_num_threads(threads)
    np.testing.assert_array_equal(*(training.model.flat().values for training in trainings))


@pytest.mark.parametrize("last", [0.5, 0.7])
def test_a_scan_takes_the_elements_of_a_vector_as_the_numbers_of_its_steps(last: float) -> None:
    def make() -> tuple[Any, Any]:
        model = nn.MLP(SIZES, generator=0)
        optimizer = optim.SGD(model, lr=0.1)

        def step(reg: float, x: Any) -> Tensor:
            optimizer.zero_grad()
            loss = ops.cross_entropy(model(Tensor(x)), LABELS[:4])
            loss.backward()
            optimizer.step(reg=float(reg))
            return loss

        return model, step

    (looped, step), (scanned, captured) = make(), make()
    strengths, x = np.array([0.5, 0.5, 0.5, last]), np.stack([DATA[4 * k : 4 * k + 4] for k in range(4)]).astype("f")
    kept = x.copy()
    expected = [step(reg, rows).item() for reg, rows in zip(strengths, x, strict=True)]
    assert tinygrad_cr.compile(captured).scan(strengths, x).numpy().tolist() == expected
    np.testing.assert_array_equal(looped.flat().values, scanned.flat().values)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("members", [1, 2, 3, 5, 8])
def test_work_is_shared_evenly_and_a_member_that_is_cut_keeps_its_order(
    members: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinygrad_cr.kernels.cpu import program

    tables = object.__new__(program.Tables)
    tables.chosen = list(range(members))
    board = program.pool.board.copy()
    board[program.THREADS] = threads
    monkeypatch.setattr(program.pool, "board", board)
    for steps in (1, 7, 50):
        pieces = tables._pieces(steps)
        workers = min(members, threads)
        shares = pieces.reshape(workers, -1, program.PIECE)
        lengths = [(share[:, program.END] - share[:, program.BEGIN]).sum() for share in shares]
        assert max(lengths) - min(lengths) <= 1
        done: dict[int, int] = dict.fromkeys(range(members), 0)
        halves: set[int] = set()
        for m, begin, end, split, after in pieces.tolist():
            if m >= 0:
                assert done[m] == begin
                assert after < 0 or after in halves
                done[m] = end
                halves.add(split)
        assert set(done.values()) == {steps}


def test_a_shared_input_is_everybodys_and_its_gradient_the_sum() -> None:
    model = nn.MLP(SIZES, members=3, generator=1, dtype="float64")
    x = Tensor(DATA[:4], requires_grad=True)
    ops.cross_entropy(model(x), LABELS[:4]).backward(np.ones(3))
    total = np.zeros(x.shape)
    for m in range(3):
        own = Tensor(DATA[:4], requires_grad=True)
        ops.cross_entropy(model[m](own), LABELS[:4]).backward()
        total += own.grad
    np.testing.assert_allclose(x.grad, total, rtol=1e-12)


def test_a_view_of_a_member_is_a_working_network_in_the_same_memory() -> None:
    model = nn.MLP(SIZES, members=3, dropout=[0.1, 0.2, 0.3], generator=1)
    others = model.flat().values[[0, 2]].copy()
    view = model[1]
    assert (view.members, view.dropout, view.generator.stream) == (None, 0.2, 1)
    masks = copy.deepcopy(model)
    np.testing.assert_array_equal(view(DATA[:5].astype("f")).numpy(), masks(DATA[:5].astype("f")).numpy()[1])
    optimizer = optim.SGD(view, 0.5)
    before = view.state_dict()
    ops.cross_entropy(view(DATA[:5].astype("f")), LABELS[:5]).backward()
    optimizer.step()
    assert (model.layers[0].weight.data[1] != before["layers.0.weight"]).any()
    np.testing.assert_array_equal(model.flat().values[[0, 2]], others)
    view.load_state_dict(before)
    np.testing.assert_array_equal(model.layers[0].weight.data[1], before["layers.0.weight"])
    np.testing.assert_array_equal(model[-2].layers[0].weight.data, before["layers.0.weight"])
    twin = copy.deepcopy(view)
    twin.layers[0].weight.data[...] = 0
    np.testing.assert_array_equal(model.layers[0].weight.data[1], before["layers.0.weight"])


def test_stacked_networks_are_the_members_and_come_back_as_views() -> None:
    networks = [nn.MLP(SIZES, dropout=p, generator=seed) for p, seed in ((0.0, 3), (0.5, 4))]
    model = nn.stack(networks)
    assert (model.members, model.dropout, model.layers[0].generator[1].seed) == (2, (0.0, 0.5), 4)
    for m, network in enumerate(networks):
        for name, array in network.state_dict().items():
            np.testing.assert_array_equal(model[m].state_dict()[name], array)
    model.layers[0].weight.data[...] = 0
    assert networks[0].layers[0].weight.data.any()


def test_a_layer_that_is_used_twice_is_one_layer_of_the_population() -> None:
    def tied(seed: int) -> nn.Sequential:
        layer = nn.Affine(4, 4, generator=seed)
        return nn.Sequential(layer, nn.ReLU(), layer)

    model = nn.stack([tied(1), tied(2)])
    assert len(model.parameters()) == len(tied(1).parameters()) == len(model[0].parameters())
    apart = nn.Sequential(nn.Affine(4, 4), nn.ReLU(), nn.Affine(4, 4))
    with pytest.raises(ShapeError, match="share parts differently"):
        nn.stack([tied(1), apart])


class Table(nn.Module):
    """Layers by name, and an array that is no parameter."""

    def __init__(self, shift: float = 0.0) -> None:
        self.layers = {"first": nn.Affine(2, 2, generator=0)}
        self.shift = np.array([shift, 1.0])


def test_modules_in_a_dict_and_arrays_that_agree_are_stacked_too() -> None:
    assert nn.stack([Table(), Table()]).layers["first"].members == 2
    with pytest.raises(OptionError, match="cannot differ in shift"):
        nn.stack([Table(), Table(1.0)])


def test_layers_outside_an_mlp_make_populations_too() -> None:
    generators = member_generators(2, 3)
    model = nn.Sequential(
        nn.Affine(6, 4, members=3, generator=generators),
        nn.ReLU(),
        nn.Dropout([0.0, 0.5, 0.9], members=3, generator=generators),
        nn.Affine(4, 3, members=3, generator=generators),
    )
    assert model.members == 3
    alone = [Generator(2, stream=m) for m in range(3)]
    x = DATA[:8].astype("f")
    y = model(x).numpy()
    for m, generator in enumerate(alone):
        solo = nn.Sequential(
            nn.Affine(6, 4, generator=generator),
            nn.ReLU(),
            nn.Dropout([0.0, 0.5, 0.9][m], generator=generator),
        )
        last = nn.Affine(4, 3, generator=generator)
        np.testing.assert_array_equal(y[m], last(solo(x)).numpy())


@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
def test_evaluation_drops_nothing(mode: str) -> None:
    model = nn.MLP(SIZES, members=2, dropout=[0.2, 0.7], dropout_mode=mode, generator=0).eval()
    for m in range(2):
        np.testing.assert_array_equal(model(DATA[:3].astype("f")).numpy()[m], model[m](DATA[:3].astype("f")).numpy())


def test_a_population_survives_copies_pickles_and_state_dicts() -> None:
    model = nn.MLP(SIZES, members=3, dropout=0.5, generator=1)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), nn.MLP(**model.config(), generator=9)):
        twin.load_state_dict(model.state_dict())
        np.testing.assert_array_equal(twin.flat().values, model.flat().values)
        assert twin.members == 3
    state = model.state_dict()
    assert all(array.flags.c_contiguous for array in state.values())


def test_gradients_are_clipped_for_each_member() -> None:
    together = population("sgd", "float64")
    for training in (together, *(alone := [solo(m, "sgd", "float64") for m in range(MEMBERS)])):
        rows = everybody(1)[0] if training is together else batches(1, alone.index(training))[0]
        x, y = training.data[rows], LABELS[rows]
        ops.cross_entropy(training.model(Tensor(x)), y).backward(training.seed)
        optim.clip_norm(training.optimizer, 0.05)
    for m in range(MEMBERS):
        np.testing.assert_array_equal(together.model.flat().gradients[m], alone[m].model.flat().gradients)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.MLP(SIZES, members=0), OptionError, "members must be an integer of at least 1"),
        (lambda: nn.MLP(SIZES, members=3, dropout=[0.1]), OptionError, "dropout has 1 values for 3 members"),
        (lambda: nn.MLP(SIZES, members=2, init=["he", "hee"]), OptionError, "did you mean 'he'"),
        (lambda: nn.MLP(SIZES, members=2, generator=[Generator(0)]), OptionError, "2 members want as many generators"),
        (lambda: optim.SGD(nn.MLP(SIZES, members=2), [0.1, 0.2, 0.3]), OptionError, "lr has 3 values for 2 members"),
        (lambda: optim.SGD(nn.MLP(SIZES, members=2), [0.1, -0.2]), OptionError, r"lr\[1\] must be a finite number"),
        (lambda: optim.SGD(nn.MLP(SIZES), [0.1, 0.2]), OptionError, "lr must be a finite number"),
        (lambda: nn.MLP(SIZES)[0], ShapeError, "one network, not a population"),
        (lambda: nn.MLP(SIZES, members=2)[2], IndexError, "member 2 of 2"),
        (lambda: nn.MLP(SIZES, members=2)[0:1], OptionError, "a member is taken by its number"),
        (lambda: nn.stack([]), OptionError, "at least one network"),
        (lambda: nn.stack([nn.MLP([4, 2]), nn.MLP([4, 3])]), ShapeError, r"sizes.1 are \[2, 3\]"),
        (lambda: nn.stack([nn.MLP([4, 2]), nn.MLP([4, 4, 2])]), ShapeError, "as many layers"),
        (lambda: nn.stack([nn.Affine(4, 2), nn.Affine(4, 3)]), ShapeError, r"weight are float32 \(4, 2\)"),
        (lambda: nn.stack([nn.Affine(4, 2), nn.ReLU()]), ShapeError, "built alike"),
        (lambda: nn.stack([nn.MLP([4, 2], members=2)]), OptionError, "networks of their own"),
        (lambda: nn.MLP([4, 2], members=2)(np.zeros((3, 5, 4), "f")), ShapeError, r"\[members, n, in\]"),
        (lambda: nn.Sequential(nn.Affine(4, 2, members=2), nn.Affine(2, 2)).flat(), ShapeError, "as many members each"),
        (
            lambda: nn.stack([nn.MLP([4, 2, 2], dropout_mode=mode) for mode in ("inverted", "vanilla")]),
            OptionError,
            "cannot differ in dropout_mode",
        ),
    ],
)
def test_what_does_not_fit_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
