"""Operations and optimisers compute what PyTorch's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from calls import GPU, evaluate_case, small_network, training_step, weights_for
from tinygrad_cr import Tensor, data, nn, ops, optim
from tinygrad_cr.op_table import CASES, Case

torch = pytest.importorskip("torch")

LABELS = np.array([0, 2, 1, 2, 0, 1])


def close(found: Any, wanted: Any, dtype: str) -> None:
    limit = 1e-9 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(found, wanted, rtol=limit, atol=limit)


@pytest.mark.parametrize("case", [c for c in CASES if c.peer], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_value_and_gradient_equal_those_of_torch(case: Case, dtype: str, device: str) -> None:
    inputs = [torch.tensor(a, requires_grad=True) for a in case.inputs(dtype=dtype)]
    y = case.peer(torch, *inputs)
    y.backward(torch.tensor(weights_for(y)))
    value, gradients = evaluate_case(case, dtype, device)
    peers = [y.detach().numpy(), *(t.grad.numpy() for t in inputs)]
    for found, wanted in zip([value, *gradients], peers, strict=True):
        close(found, wanted, dtype)


OPTIMIZERS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd with weight decay": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}),
    "nesterov": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    "adam": (optim.Adam, torch.optim.Adam, {"lr": 0.01}),
    "adam with weight decay": (optim.Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adam with other betas": (optim.Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_ten_steps_of_an_optimizer_equal_those_of_torch(name: str, dtype: str, device: str) -> None:
    ours, theirs, options = OPTIMIZERS[name]
    x = np.random.default_rng(3).normal(size=(6, 4)).astype(dtype)
    model = small_network(dtype).to(device)
    peers = {key: torch.tensor(value, requires_grad=True) for key, value in model.state_dict().items()}
    biases = {"params": [p for key, p in peers.items() if key.endswith("bias")], "weight_decay": 0.0}
    weights = {"params": [p for key, p in peers.items() if key.endswith("weight")]}
    optimizer, peer_optimizer = ours(model, **options), theirs([weights, biases], **options)
    for _ in range(10):
        optimizer.zero_grad()
        ops.cross_entropy(model(Tensor(x, device=device)), LABELS).backward()
        optimizer.step()
        peer_optimizer.zero_grad()
        w1, b1, w2, b2 = peers.values()
        logits = torch.relu(torch.tensor(x) @ w1 + b1) @ w2 + b2
        torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS)).backward()
        peer_optimizer.step()
    for key, found in model.state_dict().items():
        close(found, peers[key].detach().numpy(), dtype)


SMALL = (64, 100, 10), 32
LARGE = (768, 300, 10), 256
"""Shared by threads, with sums in two halves and both factors of dense gradients packed."""


def digits(steps: int, width: int, size: int) -> tuple[Any, Any, Any]:
    """Standardised digits, repeated to so many features, their labels, and the rows of each minibatch."""
    dataset = data.load("digits")
    x = data.Standardizer("per-feature").fit(dataset.x).transform(dataset.x)
    x = np.tile(x, width // x.shape[1]) / np.float32(width / x.shape[1]) ** 0.5
    return x, dataset.y, np.random.default_rng(5).integers(0, len(x), (steps, size))


def our_curve(network: Any, steps: int, dropout: float, seed: int, compiled: bool) -> Any:
    """The loss of each step of SGD with momentum."""
    widths, size = network
    x, y, rows = digits(steps, widths[0], size)
    model = nn.MLP(widths, dropout=dropout, generator=seed)
    model.load_state_dict(nn.MLP(widths, generator=0).state_dict())
    optimizer = optim.SGD(model, lr=0.02, momentum=0.9)

    step = training_step(model, optimizer)
    run = tinygrad_cr.compile(step) if compiled else step
    return np.array([run(Tensor(x[batch]), y[batch]).item() for batch in rows])


def peer_curve(network: Any, steps: int, dropout: float, seed: int) -> Any:
    """The same with PyTorch, from the same initial weights on the same minibatches."""
    widths, size = network
    x, y, rows = digits(steps, widths[0], size)
    torch.manual_seed(seed)
    state = nn.MLP(widths, generator=0).state_dict()
    w1, b1, w2, b2 = (torch.tensor(value, requires_grad=True) for value in state.values())
    optimizer = torch.optim.SGD([w1, b1, w2, b2], lr=0.02, momentum=0.9)
    losses = []
    for batch in rows:
        optimizer.zero_grad()
        hidden = torch.nn.functional.dropout(torch.relu(torch.from_numpy(x[batch]) @ w1 + b1), dropout)
        loss = torch.nn.functional.cross_entropy(hidden @ w2 + b2, torch.from_numpy(y[batch]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


@pytest.mark.parametrize("network", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_two_hundred_steps_without_masks_follow_the_curve_of_torch(network: Any, compiled: bool) -> None:
    ours, theirs = our_curve(network, 200, 0.0, 0, compiled), peer_curve(network, 200, 0.0, 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_training_with_dropout_has_the_statistics_of_torch() -> None:
    """Losses averaged over the end of a run: mean and spread over seeds agree within what so many seeds can tell."""
    seeds, last = range(20), slice(60, None)
    ours = np.array([our_curve(SMALL, 100, 0.5, seed, compiled=True)[last].mean() for seed in seeds])
    theirs = np.array([peer_curve(SMALL, 100, 0.5, seed)[last].mean() for seed in seeds])
    error = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / len(seeds))
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    # 4.5 is the ratio of variances that 20 against 20 exceed, either way, once in 500 times.
    assert 1 / 4.5 < ours.var(ddof=1) / theirs.var(ddof=1) < 4.5


def test_a_tensor_goes_to_torch_and_back_without_a_copy() -> None:
    x = Tensor([1.0, 2.0])
    there = torch.from_dlpack(x)
    there[0] = 5.0
    assert x.data[0] == 5.0
