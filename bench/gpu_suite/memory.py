"""Peak memory of training: a fresh process for each figure, so that neither holds what the other asked for."""

from __future__ import annotations

from typing import Any

from bench.gpu_suite.workloads import Case

EPOCHS = 2


class Ours:
    """What CuPy's pools gave out at most, those of graphs included."""

    def __init__(self, device: str) -> None:
        from bench.gpu_suite import ours

        self.ours = ours.Ours(device)
        self.device = device

    def describe(self) -> dict[str, str]:
        """Versions."""
        return self.ours.describe()

    def peak(self, case: dict[str, Any], variant: str) -> dict[str, Any]:
        """Bytes in use at most, and by how much the device's free memory shrank beyond an empty context."""
        if self.device != "gpu":
            return _of_host(self.ours, case, variant)
        xp = self.ours.xp
        xp.cuda.Device().synchronize()
        free = xp.cuda.runtime.memGetInfo()[0]
        in_use = most = 0

        class Watch(xp.cuda.MemoryHook):  # type: ignore[misc, name-defined]
            """Adds up what pools of any kind give out and take back."""

            name = "bench"

            def malloc_postprocess(self, **given: Any) -> None:
                nonlocal in_use, most
                in_use += given["mem_size"]
                most = max(most, in_use)

            def free_postprocess(self, **given: Any) -> None:
                nonlocal in_use
                in_use -= given["mem_size"]

        with Watch():
            work = self.ours.make(Case.from_json(case), variant)
            for _ in range(EPOCHS):
                work.epoch()
            self.ours.synchronize()
            return {"in_use": most, "device": free - xp.cuda.runtime.memGetInfo()[0]}


class PyTorch:
    """What PyTorch's allocator gave out at most."""

    def __init__(self, device: str) -> None:
        from bench.gpu_suite import pytorch

        self.torch = pytorch.PyTorch(device)
        self.device = device

    def describe(self) -> dict[str, str]:
        """Versions."""
        return self.torch.describe()

    def peak(self, case: dict[str, Any], variant: str) -> dict[str, Any]:
        """As `Ours.peak`."""
        if self.device != "gpu":
            return _of_host(self.torch, case, variant)
        import torch

        torch.cuda.synchronize()
        free = torch.cuda.mem_get_info()[0]
        work = self.torch.make(Case.from_json(case), variant)
        for _ in range(EPOCHS):
            work.epoch()
        torch.cuda.synchronize()
        return {"in_use": torch.cuda.max_memory_allocated(), "device": free - torch.cuda.mem_get_info()[0]}


def _of_host(contestant: Any, case: dict[str, Any], variant: str) -> dict[str, Any]:
    """The process's own peak, on a CPU."""
    from bench.worker import peak_memory

    before = peak_memory()
    work = contestant.make(Case.from_json(case), variant)
    for _ in range(EPOCHS):
        work.epoch()
    return {"in_use": peak_memory() - before, "device": peak_memory()}
