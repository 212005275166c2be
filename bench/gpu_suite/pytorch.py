"""PyTorch at its best: fused SGD, whole steps in CUDA graphs, torch.compile, and torch.func for many networks.

Data lie on the device, minibatches are gathered there, gradients are set to None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from bench.gpu_suite.inputs import arrays
from bench.gpu_suite.workloads import DROPOUT, LEARNING_RATE, MOMENTUM, Case

WARM_STEPS = 3


def allow_tf32(allowed: bool) -> None:
    """For the products from now on."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")


@lru_cache
def on_device(rows: int, features: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The data set there, once for all cases that share it."""
    x, y = arrays(Case("", (features,), 1, rows))
    both = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    if device == "cuda":
        for tensor in both:
            # Else a graph of torch.compile would copy the whole data set in before each replay.
            torch._dynamo.mark_static_address(tensor)
    return both


def network(sizes: tuple[int, ...], device: str) -> nn.Sequential:
    """Linear, ReLU and dropout for each hidden layer, then Linear; weights as He et al. 2015, biases 0."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b, device=device), nn.ReLU(), nn.Dropout(DROPOUT)]
    model = nn.Sequential(*layers[:-2])
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, math.sqrt(2 / layer.in_features))
                layer.bias.zero_()
    return model.train()


def captured(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A function as a CUDA graph, and what it returned while it was captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_STEPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


class Looped:
    """What all ways share: an epoch of steps, replayed from a graph or not.

    A subclass sets `data`, `labels`, and `step`, which takes rows and gives a loss.
    """

    step: Callable[[torch.Tensor], torch.Tensor]
    data: torch.Tensor

    def __init__(self, case: Case, device: str) -> None:
        allow_tf32(case.tf32)
        self.case, self.device = case, device
        self.data, self.labels = on_device(case.rows, case.sizes[0], device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.marks = False

    def capture(self, steps: int) -> None:
        """Let the graph make so many steps."""
        self.rows = self.orders()[:steps].clone()

        def run() -> Any:
            for rows in self.rows.unbind():
                loss = self.step(rows)
            return loss

        self.graph, self.loss = captured(run)

    def orders(self) -> torch.Tensor:
        """The rows of an epoch's minibatches: [steps, batch]."""
        case = self.case
        order = torch.randperm(case.rows, device=self.device)
        return order[: case.steps * case.batch].view(case.steps, case.batch)

    def epoch(self) -> float:
        """One pass over the shuffled data set; the loss of its last step, which waits for the device."""
        allow_tf32(self.case.tf32)
        orders = self.orders()
        if self.graph is not None:
            for part in orders.split(len(self.rows)):
                self.rows.copy_(part)
                self.graph.replay()
            loss = self.loss
        else:
            for rows in orders.unbind():
                if self.marks:
                    torch.compiler.cudagraph_mark_step_begin()
                loss = self.step(rows)
        return float(loss.mean().item())


class Training(Looped):
    """One network: eager, in a graph of some steps, with torch.compile around gather, forward and loss, or both."""

    def __init__(self, case: Case, device: str, variant: str) -> None:
        super().__init__(case, device)
        self.model = network(case.sizes, device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)
        self.loss_of: Callable[[torch.Tensor], torch.Tensor] = self._loss_of
        self.step = self._step
        if variant == "inductor":
            self.loss_of, self.marks = torch.compile(self._loss_of, mode="reduce-overhead", dynamic=False), True
        elif variant == "inductor-graph":
            self.loss_of = torch.compile(self._loss_of, dynamic=False)
        if variant == "torch-graph-10":
            self.capture(next(k for k in (10, 8, 5, 4, 2, 1) if case.steps % k == 0))
        elif variant.endswith("graph"):
            self.capture(1)

    def _loss_of(self, rows: torch.Tensor) -> torch.Tensor:
        x = self.data.index_select(0, rows)
        return nn.functional.cross_entropy(self.model(x), self.labels.index_select(0, rows))

    def _step(self, rows: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(rows)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Vmap(Looped):
    """Many networks: `vmap` over stacked parameters, gradient inside, SGD with momentum by hand."""

    def __init__(self, case: Case, device: str, variant: str) -> None:
        super().__init__(case, device)
        assert case.members is not None
        self.members = case.members
        # Only its structure counts: functional_call puts the stacked parameters in its place.
        self.shape = network(case.sizes, "meta")
        # What torch.func.stack_module_state gives, without making the networks one by one.
        self.params = {name: self._drawn(p.shape) for name, p in self.shape.named_parameters()}
        self.velocity = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.gradients = vmap(grad_and_value(self._loss_of), in_dims=(0, 0, 0), randomness="different")
        self.step = self._step
        if variant == "vmap-compiled":
            self.gradients = torch.compile(self.gradients, dynamic=False)
        if variant != "vmap":
            self.capture(1)

    def _drawn(self, shape: torch.Size) -> torch.Tensor:
        drawn = torch.zeros(self.members, *shape, device=self.device)
        return drawn.normal_(0, math.sqrt(2 / shape[1])) if len(shape) == 2 else drawn

    def _loss_of(self, params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(self.shape, params, (x,)), y)

    @torch.no_grad()
    def _step(self, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1)
        x = self.data.index_select(0, flat).view(*rows.shape, -1)
        gradients, loss = self.gradients(self.params, x, self.labels.index_select(0, flat).view(rows.shape))
        params, velocity = list(self.params.values()), list(self.velocity.values())
        torch._foreach_mul_(velocity, MOMENTUM)
        torch._foreach_add_(velocity, [gradients[name] for name in self.params])
        torch._foreach_add_(params, velocity, alpha=-LEARNING_RATE)
        return loss

    def orders(self) -> torch.Tensor:
        """The rows of an epoch's minibatches, another order for each member: [steps, members, batch]."""
        case = self.case
        order = torch.rand(self.members, case.rows, device=self.device).argsort(dim=1)
        order = order[:, : case.steps * case.batch].view(self.members, case.steps, case.batch)
        return order.transpose(0, 1).contiguous()


class PyTorch:
    """The contestant."""

    def __init__(self, device: str) -> None:
        if device == "gpu" and not torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {torch.__version__} sees no GPU")
        self.device = "cuda" if device == "gpu" else device
        # Every case has shapes of its own, and the limit counts them per source line.
        torch._dynamo.config.recompile_limit = 1000
        torch._dynamo.config.accumulated_recompile_limit = 10_000

    def describe(self) -> dict[str, str]:
        """Versions."""
        return {"torch": torch.__version__, "torch's CUDA": str(torch.version.cuda)}

    def make(self, case: Case, variant: str) -> Looped:
        """Ready to train; compiled and captured."""
        kind = Training if case.members is None else Vmap
        return kind(case, self.device, variant)

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.device == "cuda":
            torch.cuda.synchronize()
