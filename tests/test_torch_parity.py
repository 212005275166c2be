"""Operations and optimisers compute what PyTorch's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from calls import evaluate_case, small_network, weights_for
from tinygrad_cr import Tensor, ops, optim
from tinygrad_cr.op_table import CASES, Case

torch = pytest.importorskip("torch")

LABELS = np.array([0, 2, 1, 2, 0, 1])


def close(found: Any, wanted: Any, dtype: str) -> None:
    limit = 1e-9 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(found, wanted, rtol=limit, atol=limit)


@pytest.mark.parametrize("case", [c for c in CASES if c.peer], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_equal_those_of_torch(case: Case, dtype: str) -> None:
    inputs = [torch.tensor(a, requires_grad=True) for a in case.inputs(dtype=dtype)]
    y = case.peer(torch, *inputs)
    y.backward(torch.tensor(weights_for(y)))
    value, gradients = evaluate_case(case, dtype)
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
def test_ten_steps_of_an_optimizer_equal_those_of_torch(name: str, dtype: str) -> None:
    ours, theirs, options = OPTIMIZERS[name]
    x = np.random.default_rng(3).normal(size=(6, 4)).astype(dtype)
    model = small_network(dtype)
    peers = {key: torch.tensor(value, requires_grad=True) for key, value in model.state_dict().items()}
    biases = {"params": [p for key, p in peers.items() if key.endswith("bias")], "weight_decay": 0.0}
    weights = {"params": [p for key, p in peers.items() if key.endswith("weight")]}
    optimizer, peer_optimizer = ours(model, **options), theirs([weights, biases], **options)
    for _ in range(10):
        optimizer.zero_grad()
        ops.cross_entropy(model(Tensor(x)), LABELS).backward()
        optimizer.step()
        peer_optimizer.zero_grad()
        w1, b1, w2, b2 = peers.values()
        logits = torch.relu(torch.tensor(x) @ w1 + b1) @ w2 + b2
        torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS)).backward()
        peer_optimizer.step()
    for key, found in model.state_dict().items():
        close(found, peers[key].detach().numpy(), dtype)


def test_a_tensor_goes_to_torch_and_back_without_a_copy() -> None:
    x = Tensor([1.0, 2.0])
    there = torch.from_dlpack(x)
    there[0] = 5.0
    assert x.data[0] == 5.0
