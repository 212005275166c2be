"""Dropout's masks are independent coins, and its two modes agree in expectation exactly where theory says so.

**Exactly** means over all 2^n masks of n units, each weighted by its probability; the probability of keeping is the
quantised one, threshold / 65536. The engine itself applies every one of these masks: either the cpu kernel is asked for
draws until it has made each of them, or the reference kernel's lanes are prescribed.

**Statistically** means within a bound that a correct implementation breaks with probability below `ALPHA`. Every such
check is also shown masks that are slightly wrong, and must refuse them.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from calls import EVERY
from strategies import dropout_rates, seeds, states
from tinygrad_cr import ops
from tinygrad_cr.kernels import backend, reference
from tinygrad_cr.random import Generator, keep_probability, keep_threshold
from tinygrad_cr.tensor import Tensor

ALPHA = 1e-9
"""How often a correct implementation may break a statistical bound, all comparisons of one check together."""

SEEDS = seeds()


def kept_share(dropout: float) -> float:
    """The quantised probability of keeping that the engine works with."""
    return keep_probability(keep_threshold(dropout))


def all_masks(n: int) -> np.ndarray:
    """Every mask of n units: bool [2^n, n]."""
    return (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1


# (a) All masks of x -> affine (-> relu) -> dropout -> affine, whose output and gradients are affine in the mask.


class Network(NamedTuple):
    """Numbers of a two-layer network with `n` dropped units a batch, and a direction to differentiate along."""

    x: np.ndarray
    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    direction: np.ndarray
    rectified: bool

    @property
    def units(self) -> int:
        return self.x.shape[0] * self.w1.shape[1]


@st.composite
def networks(draw: Any) -> Network:
    """At most 8 dropped units, spread over one or more rows."""
    rows, units = draw(st.sampled_from([(r, u) for r in range(1, 9) for u in range(1, 9) if r * u <= 8]))
    inputs, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = (rows, inputs), (inputs, units), (units,), (units, outputs), (outputs,), (rows, outputs)
    return Network(*(values.standard_normal(shape) for shape in shapes), rectified=draw(st.booleans()))


Results = dict[str, np.ndarray]


def run(
    net: Network,
    dropout: float,
    generator: Generator | None,
    mode: str,
    *,
    device: str,
    weight_factor: float = 1.0,
    relu_after: bool = False,
) -> Results:
    """Output and gradients of the network, in training with a generator and at test time without one."""
    leaves = {
        name: Tensor(getattr(net, name), requires_grad=True, device=device) for name in ("x", "w1", "b1", "w2", "b2")
    }
    x, w1, b1, w2, b2 = leaves.values()
    options: dict[str, Any] = {"generator": generator, "mode": mode, "training": generator is not None}
    if net.rectified:
        hidden = ops.affine_relu_dropout(x, w1, b1, dropout, **options)
    else:
        hidden = ops.dropout(ops.affine(x, w1, b1), dropout, **options)
    output = ops.affine(hidden, w2 * weight_factor, b2)
    if relu_after:
        output = ops.relu(output)
    output.backward(net.direction)
    return {"output": output.data} | {name: leaf.grad for name, leaf in leaves.items()}


@contextmanager
def prescribed(mask: np.ndarray) -> Iterator[None]:
    """The reference kernels keep exactly these elements, whatever the seed."""

    def lanes(n: int, threshold: int, seed: int, draw: int, stream: int, xp: Any) -> np.ndarray:
        assert n == mask.size
        return mask

    with patch.object(reference, "_kept", lanes):
        yield


def expectation(net: Network, dropout: float, masked: Callable[[np.ndarray], Results]) -> Results:
    """The mean of everything `masked` returns over all masks, weighted by their probability."""
    keep = kept_share(dropout)
    total: Results = {}
    weights = []
    for mask in all_masks(net.units):
        kept = int(mask.sum())
        weights.append(keep**kept * (1 - keep) ** (net.units - kept))
        for name, value in masked(mask).items():
            total[name] = total.get(name, 0) + weights[-1] * value
    assert math.isclose(sum(weights), 1, rel_tol=1e-12)
    return total


def assert_equal(got: Results, wanted: Results) -> None:
    assert got.keys() == wanted.keys()
    for name in wanted:
        scale = max(1.0, float(np.abs(wanted[name]).max()))
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=1e-12 * scale, err_msg=name)


def mean_over_prescribed_masks(net: Network, dropout: float, mode: str, **options: Any) -> Results:
    def masked(mask: np.ndarray) -> Results:
        with prescribed(mask):
            return run(net, dropout, Generator(0), mode, device="reference", **options)

    return expectation(net, dropout, masked)


@settings(max_examples=25)
@given(networks(), dropout_rates())
def test_the_mean_of_inverted_dropout_over_all_masks_is_vanillas_test_time_network(net, dropout):
    # Vanilla multiplies activations by keep at test time, inverted never does: the same function needs the weights
    # after the dropped layer to be keep times as large.
    mean = mean_over_prescribed_masks(net, dropout, "inverted", weight_factor=kept_share(dropout))
    assert_equal(mean, run(net, dropout, None, "vanilla", device="reference"))


@settings(max_examples=25)
@given(networks(), dropout_rates(), st.sampled_from(["inverted", "vanilla"]))
def test_the_mean_over_all_masks_is_the_test_time_network_of_the_same_mode(net, dropout, mode):
    mean = mean_over_prescribed_masks(net, dropout, mode)
    assert_equal(mean, run(net, dropout, None, mode, device="reference"))


def draws_of_all_masks(n: int, dropout: float, generator: Generator, device: str) -> dict[bytes, int]:
    """For each mask of n units a draw at which the backend's own kernel makes it."""
    ones = Tensor(np.ones(n), device=device)
    found: dict[bytes, int] = {}
    for _ in range(200_000):
        draw = generator.draw
        mask = ops.dropout(ones, dropout, generator=generator).data > 0
        found.setdefault(mask.tobytes(), draw)
        if len(found) == 2**n:
            return found
    raise AssertionError(f"only {len(found)} of {2**n} masks in {generator.draw} draws")


@settings(max_examples=8)
@given(networks(), st.floats(0.35, 0.65), SEEDS, st.sampled_from(["inverted", "vanilla"]))
def test_the_same_holds_for_the_masks_that_the_cpu_kernel_draws_itself(net, dropout, seed, mode):
    draws = draws_of_all_masks(net.units, dropout, Generator(seed, stream=3), "cpu")
    factor = kept_share(dropout) if mode == "inverted" else 1.0

    def masked(mask: np.ndarray) -> Results:
        generator = Generator(seed, stream=3, draw=draws[mask.tobytes()])
        return run(net, dropout, generator, mode, device="cpu", weight_factor=factor)

    assert_equal(expectation(net, dropout, masked), run(net, dropout, None, "vanilla", device="cpu"))


def test_scaling_by_the_probability_asked_for_instead_of_the_quantised_one_is_noticed():
    dropout = 0.3  # keep 0.7 is 45875.2 / 65536
    net = Network(*(np.ones(s) for s in ((1, 2), (2, 4), (4,), (4, 1), (1,), (1, 1))), rectified=False)
    mean = mean_over_prescribed_masks(net, dropout, "inverted", weight_factor=0.7)
    with pytest.raises(AssertionError):
        assert_equal(mean, run(net, dropout, None, "vanilla", device="reference"))


def kinked() -> Network:
    """Four hidden units that push one output to either side of 0, depending on which are kept."""
    w2 = np.array([[1.0], [-1.0], [2.0], [-2.0]])
    return Network(
        np.ones((1, 1)), np.ones((1, 4)), np.zeros(4), w2, np.zeros(1), direction=np.ones((1, 1)), rectified=True
    )


@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
def test_behind_a_relu_the_mean_over_all_masks_is_above_the_test_time_output(mode):
    # Jensen: the mean of a convex function is above the function of the mean, strictly if masks reach both sides.
    mean = mean_over_prescribed_masks(kinked(), 0.5, mode, relu_after=True)
    at_test_time = run(kinked(), 0.5, None, mode, device="reference", relu_after=True)
    assert mean["output"].item() > at_test_time["output"].item() + 0.1


def test_behind_a_relu_inverted_and_vanilla_dropout_agree_only_approximately():
    mean = mean_over_prescribed_masks(kinked(), 0.3, "inverted", weight_factor=kept_share(0.3), relu_after=True)
    at_test_time = run(kinked(), 0.3, None, "vanilla", device="reference", relu_after=True)
    assert not np.allclose(mean["output"], at_test_time["output"], atol=0.05)


# (b) Many draws.


def mean_error_in_bounds(values: np.ndarray, weights: np.ndarray, dropout: float, seed: int) -> float:
    """How far the sample mean of inverted dropout after an affine map is from vanilla's expectation; 1 is the bound.

    Output row i is sum_j h_j w_j s_ij with s_ij = mask_ij / keep, independent and in [0, 1 / keep]. The mean over N
    rows is a sum of N * n independent terms with ranges |h_j w_j| / (keep N), so Hoeffding (1963) gives
    P(|mean - expectation| >= t) <= 2 exp(-2 t^2 N keep^2 / sum_j (h_j w_j)^2), which is ALPHA for
    t = sqrt(log(2 / ALPHA) sum_j (h_j w_j)^2 / (2 N)) / keep.

    N is the least with 2 t <= 1% of the expectation: then a mask that keeps 1% too many units moves the mean by
    2 t or more and ends within t of the expectation with probability below ALPHA.
    """
    keep = kept_share(dropout)
    terms = values * weights
    unit_bound = math.sqrt(math.log(2 / ALPHA) * (terms**2).sum() / 2) / keep
    rows = math.ceil((2 * unit_bound / (0.01 * terms.sum())) ** 2)
    bound = unit_bound / math.sqrt(rows)
    generator, w, b = Generator(seed), Tensor(weights[:, None]), Tensor(np.zeros(1))
    draws = 8
    total = 0.0
    for part in np.array_split(np.arange(rows), draws):
        hidden = np.broadcast_to(values, (len(part), len(values)))
        total += ops.affine(ops.dropout(hidden, dropout, generator=generator), w * keep, b).sum().item()
    wanted = ops.affine(ops.dropout(Tensor(values[None]), dropout, mode="vanilla", training=False), w, b).item()
    return abs(total / rows - wanted) / (keep * bound)


VALUES = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=8).map(np.array)


@settings(max_examples=20)
@given(VALUES, st.floats(0.05, 0.6), SEEDS)
def test_the_mean_of_inverted_dropout_over_many_draws_is_vanillas_expectation(values, dropout, seed):
    weights = values[::-1]
    assert mean_error_in_bounds(values, weights, dropout, seed) <= 1


@settings(max_examples=10)
@given(VALUES, st.floats(0.05, 0.6), SEEDS, st.sampled_from([0.99, 1.01]))
def test_a_mask_that_keeps_one_percent_too_many_or_too_few_is_caught(values, dropout, seed, bias):
    honest = backend("cpu").dropout
    planted = lambda x, threshold, *rest: honest(x, round(bias * threshold), *rest)  # noqa: E731
    with patch.object(backend("cpu"), "dropout", planted):
        error = mean_error_in_bounds(values, values[::-1], dropout, seed)
    # Rounding the biased threshold may take a few thousandths from the planted 1%.
    assert error > 0.99


# (c) Independent coins.

DRAWS, ROWS, COLUMNS = 256, 32, 128
"""Masks of one stream; the row length is a multiple of the 8 lanes of a block, where a repetition would hide best."""


def engine_masks(dropout: float, seed: int, stream: int = 0, columns: int = COLUMNS) -> np.ndarray:
    """What the engine keeps: bool [draw, row, column]."""
    generator, ones = Generator(seed, stream=stream), np.ones((ROWS, columns), np.float32)
    return np.stack([ops.dropout(ones, dropout, generator=generator).data > 0 for _ in range(DRAWS)])


def outside(count: np.ndarray | int, n: int, p: float, comparisons: int) -> np.ndarray:
    """Where counts of n coins of probability p are too rare: beyond the exact binomial quantiles at ALPHA."""
    tail = ALPHA / comparisons / 2
    return (count < binom.ppf(tail, n, p)) | (count > binom.isf(tail, n, p))


def halves(masks: np.ndarray, axis: int, distance: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The two partners of disjoint pairs of elements that lie `distance` apart along an axis."""
    moved = np.moveaxis(masks, axis, 0)
    usable = len(moved) // (2 * distance) * 2 * distance
    blocks = moved[:usable].reshape(-1, 2, distance, *moved.shape[1:])
    return blocks[:, 0], blocks[:, 1]


def dependent(first: np.ndarray, second: np.ndarray, keep: float) -> bool:
    """Whether partners differ more or less often than independent coins do: with probability 2 keep (1 - keep).

    No element is in two pairs, so the number of pairs that differ is binomial; a covariance c takes 2 c from the
    probability.
    """
    return bool(outside(np.count_nonzero(first != second), first.size, 2 * keep * (1 - keep), 1))


RELATIONS: dict[str, Callable[[float, int], tuple[np.ndarray, np.ndarray]]] = {
    **{
        f"units {distance} apart": lambda dropout, seed, d=distance: halves(engine_masks(dropout, seed), 2, d)
        for distance in (1, 2, 4, 8, 16, 64)
    },
    "rows": lambda dropout, seed: halves(engine_masks(dropout, seed), 1),
    "rows of a width that is no multiple of 8": lambda dropout, seed: halves(engine_masks(dropout, seed, 0, 101), 1),
    "draws": lambda dropout, seed: halves(engine_masks(dropout, seed), 0),
    "streams": lambda dropout, seed: (engine_masks(dropout, seed), engine_masks(dropout, seed, stream=1)),
    "seeds": lambda dropout, seed: (engine_masks(dropout, seed), engine_masks(dropout, seed ^ 1)),
    "high halves of seeds": lambda dropout, seed: (engine_masks(dropout, seed), engine_masks(dropout, seed ^ 1 << 40)),
}


@settings(max_examples=10)
@given(st.floats(0.01, 0.99), SEEDS)
def test_every_element_is_kept_as_often_as_the_probability_says(dropout, seed):
    keep = kept_share(dropout)
    counts = np.concatenate([engine_masks(dropout, seed, stream) for stream in range(4)]).sum(axis=0)
    assert not outside(counts, 4 * DRAWS, keep, counts.size).any()


@settings(max_examples=10)
@given(st.floats(0.01, 0.99), SEEDS)
def test_every_lane_of_a_block_is_kept_as_often_as_the_probability_says(dropout, seed):
    counts = engine_masks(dropout, seed).reshape(-1, 16).sum(axis=0)
    assert not outside(counts, DRAWS * ROWS * COLUMNS // 16, kept_share(dropout), counts.size).any()


def test_an_element_that_is_kept_too_often_is_caught():
    masks = np.concatenate([engine_masks(0.5, 1, stream) for stream in range(4)])
    masks[:, 3, 5] |= np.random.default_rng(0).random(len(masks)) < 0.5
    assert outside(masks.sum(axis=0), len(masks), 0.5, masks[0].size).sum() == 1


@pytest.mark.parametrize("relation", RELATIONS)
@settings(max_examples=5)
@given(dropout=st.floats(0.05, 0.95), seed=SEEDS)
def test_coins_are_independent_between(relation, dropout, seed):
    first, second = RELATIONS[relation](dropout, seed)
    assert not dependent(first, second, kept_share(dropout))


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_one_coin_in_fifty_copied_is_caught_between(relation, dropout):
    first, second = RELATIONS[relation](dropout, 9)
    copied = np.random.default_rng(0).random(first.shape) < 0.02
    assert dependent(first, np.where(copied, first, second), kept_share(dropout))


def ignoring(*positions: int) -> Callable[..., None]:
    """The cpu kernel, deaf to some of (threshold, scale, seed, draw, stream)."""
    honest = backend("cpu").dropout

    def planted(x: Any, *arguments: Any) -> None:
        honest(x, *(0 if i in positions else a for i, a in enumerate(arguments[:-1])), arguments[-1])

    return planted


def repeating(period: int) -> Callable[..., None]:
    """The cpu kernel, with the same mask for each `period` elements."""
    honest = backend("cpu").dropout

    def planted(x: Any, *arguments: Any) -> None:
        for start in range(0, x.size, period):
            honest(x[start : start + period], *arguments[:-1], arguments[-1][start : start + period])

    return planted


@pytest.mark.parametrize(
    ("relation", "wrong"),
    [
        ("draws", ignoring(3)),
        ("streams", ignoring(4)),
        ("seeds", ignoring(2)),
        ("rows", repeating(COLUMNS)),
        ("rows of a width that is no multiple of 8", repeating(101)),
        ("units 8 apart", repeating(8)),
        ("units 1 apart", repeating(1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_kernel_that_repeats_its_masks_is_caught_between(relation, wrong):
    with patch.object(backend("cpu"), "dropout", wrong):
        first, second = RELATIONS[relation](0.5, 7)
    assert dependent(first, second, 0.5)


# (d) Same seed, same mask.


def at(state: tuple[int, int, int]) -> Generator:
    seed, draw, stream = state
    return Generator(seed, stream, draw)


SHAPES = st.tuples(st.integers(0, 40), st.integers(0, 40))
DTYPES = st.sampled_from(["float32", "float64"])


@pytest.mark.parametrize("device", EVERY)
@settings(max_examples=40)
@given(shape=SHAPES, dropout=dropout_rates(), state=states(), dtype=DTYPES)
def test_the_mask_is_the_references_on_every_backend(device, shape, dropout, state, dtype):
    made = [
        ops.dropout(Tensor(np.ones(shape), dtype=dtype, device=name), dropout, generator=at(state))
        for name in (device, "reference")
    ]
    np.testing.assert_array_equal(made[0].numpy(), made[1].numpy())


@pytest.mark.parametrize("device", EVERY)
@settings(max_examples=40)
@given(shape=SHAPES, dropout=dropout_rates(), state=states(), dtype=DTYPES)
def test_the_fused_layer_takes_the_mask_of_dropout_itself(device, shape, dropout, state, dtype):
    rows, columns = shape
    x, w, b = (
        Tensor(a, dtype=dtype, device=device) for a in (np.ones((rows, 1)), np.ones((1, columns)), np.zeros(columns))
    )
    fused = ops.affine_relu_dropout(x, w, b, dropout, generator=at(state))
    plain = ops.dropout(Tensor(np.ones(shape), dtype=dtype, device=device), dropout, generator=at(state))
    np.testing.assert_array_equal(fused.numpy(), plain.numpy())


@pytest.mark.parametrize("elements", [7, 511, 512, 513, 4095, 4097, 100_000])
def test_a_longer_array_begins_with_the_mask_of_a_shorter_one(kernels, elements):
    generator = {"seed": 5, "draw": 3, "stream": 1}
    long, short = (
        ops.dropout(Tensor(np.ones(n, np.float32), device=kernels.name), 0.5, generator=Generator(**generator)).numpy()
        for n in (elements + 1000, elements)
    )
    np.testing.assert_array_equal(long[:elements], short)


def test_two_python_threads_at_once_draw_the_masks_of_one(kernels):
    arrays = [np.ones(50_000 + 8 * i, np.float32) for i in range(2)]
    barrier = threading.Barrier(2)

    def masks(i: int, wait: bool) -> list[np.ndarray]:
        generator = Generator(11, stream=i)
        if wait:
            barrier.wait()
        x = Tensor(arrays[i], device=kernels.name)
        return [ops.dropout(x, 0.4, generator=generator).numpy() for _ in range(20)]

    alone = [masks(i, wait=False) for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(masks, range(2), [True, True]))
    np.testing.assert_equal(together, alone)


FINGERPRINTS = """
import hashlib, sys
import numpy as np
from tinygrad_cr import Generator, Tensor, ops
from tinygrad_cr.data import Dataset
from tinygrad_cr.nn import MLP
from tinygrad_cr.train import Trainer

mask = ops.dropout(Tensor(np.ones((513, 257), "float32")), 0.5, generator=Generator(2**40 + 5, stream=2, draw=7))
print(hashlib.sha256(mask.numpy().tobytes()).hexdigest())
values = Generator(1).normal((64, 64)).astype("float32")
model = MLP([64, 200, 10], dropout=0.5, generator=1)
data = Dataset(values, np.arange(64) % 10)
Trainer(model, epochs=1, batch_size=32, generator=2, lr=0.01, reporter=False).fit(data)
print(hashlib.sha256(model.flat().values.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def fingerprints() -> list[list[str]]:
    """Hashes of a mask and of a trained network, from a process with one thread and one with two."""
    found = []
    for threads in ("1", "2"):
        limits = {f"{library}_NUM_THREADS": threads for library in ("OPENBLAS", "NUMBA", "OMP", "MKL")}
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINTS], env=os.environ | limits, capture_output=True, text=True, check=True
        )
        found.append(done.stdout.split())
    return found


def test_a_mask_is_the_same_in_processes_with_one_and_two_threads(fingerprints):
    ones = Tensor(np.ones((513, 257), "float32"), device="reference")
    mask = ops.dropout(ones, 0.5, generator=Generator(2**40 + 5, stream=2, draw=7)).numpy()
    assert [found[0] for found in fingerprints] == [hashlib.sha256(mask.tobytes()).hexdigest()] * 2


def test_a_small_network_trains_to_the_same_bits_with_one_and_two_threads(fingerprints):
    assert fingerprints[0][1] == fingerprints[1][1]
