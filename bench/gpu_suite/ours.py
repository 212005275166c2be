"""tinygrad_cr: eager, compiled, and a population in one compiled scan. Rows are gathered on the device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import tinygrad_cr
from bench.gpu_suite.inputs import arrays
from bench.gpu_suite.workloads import DROPOUT, LEARNING_RATE, MOMENTUM, Case
from tinygrad_cr import Tensor, nn, ops, optim
from tinygrad_cr.kernels import backend


@lru_cache
def on_device(rows: int, features: int, device: str) -> tuple[Any, Any]:
    """The data set there, once for all cases that share it."""
    xp = backend(device).xp
    x, y = arrays(Case("", (features,), 1, rows))
    return xp.asarray(x), xp.asarray(y)


def allow_tf32(allowed: bool, device: str) -> None:
    """For the products from now on; a CPU has no TF32."""
    if device == "gpu":
        tinygrad_cr.set_tf32(allowed)


class Training:
    """A network or a population, its optimiser and its data on the device."""

    def __init__(self, case: Case, device: str, compiled: bool) -> None:
        self.case, self.device, self.kernels = case, device, backend(device)
        allow_tf32(case.tf32, device)
        xp, batch, features, members = self.kernels.xp, case.batch, case.sizes[0], case.members
        self.data, self.labels = on_device(case.rows, features, device)
        self.mean, self.scale = xp.zeros(features, "float32"), xp.ones(features, "float32")
        model = nn.MLP(case.sizes, dropout=DROPOUT, generator=0, members=members)
        self.model = model.to(device) if device != "cpu" else model
        self.optimizer = optim.SGD(self.model, lr=LEARNING_RATE, momentum=MOMENTUM)
        lead = () if members is None else (members,)
        self.x = xp.empty((*lead, batch, features), "float32")
        self.y = xp.empty((*lead, batch), "int64")
        # NumPy's "raise" buffers its output; CuPy's take has no modes.
        self.taking = {"mode": "clip"} if self.kernels.host else {}
        self.ones = None if members is None else xp.ones(members, "float32")
        self.step = tinygrad_cr.compile(self._step, in_place=True) if compiled else None

    def _step(self, rows: Any) -> Tensor:
        # One gather for all members: their rows lie one after another.
        k = self.kernels
        k.gather(self.data, rows.reshape(-1), self.mean, self.scale, self.x.reshape(-1, self.x.shape[-1]))
        k.xp.take(self.labels, rows, out=self.y, **self.taking)
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(Tensor(self.x)), Tensor(self.y))
        loss.backward(self.ones)
        self.optimizer.step()
        return loss

    def orders(self) -> Any:
        """The rows of shuffled minibatches, made on the device: int64 [steps, batch], or [steps, members, batch]."""
        xp, case = self.kernels.xp, self.case
        lead = () if case.members is None else (case.members,)
        order = xp.argsort(xp.random.random((*lead, case.rows)), axis=-1)
        order = order[..., : case.steps * case.batch].reshape(*lead, case.steps, case.batch)
        return order if case.members is None else xp.ascontiguousarray(order.transpose(1, 0, 2))

    def epoch(self) -> float:
        """One pass over the shuffled data set; the loss of its last step, which waits for the device."""
        allow_tf32(self.case.tf32, self.device)
        orders = self.orders()
        if self.step is not None:
            losses = self.step.scan(orders)
            last = losses.data[-1]
        else:
            for rows in orders:
                last = self._step(rows).data
        return float(self.kernels.to_numpy(last).mean())


class Ours:
    """The contestant."""

    def __init__(self, device: str) -> None:
        self.device = device
        backend(device)

    def describe(self) -> dict[str, str]:
        """Versions."""
        found = {"numpy": __import__("numpy").__version__}
        if self.device == "gpu":
            found["cupy"] = self.xp.__version__
        return found

    @property
    def xp(self) -> Any:
        """CuPy, or NumPy."""
        return backend(self.device).xp

    def make(self, case: Case, variant: str) -> Training:
        """Ready to train."""
        return Training(case, self.device, variant != "eager")

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.device == "gpu":
            self.xp.cuda.Device().synchronize()
