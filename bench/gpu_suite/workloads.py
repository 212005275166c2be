"""What is measured on a GPU: networks, populations, and who computes them in which way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

DROPOUT, MOMENTUM, LEARNING_RATE, CLASSES = 0.5, 0.9, 0.01, 10


@dataclass(frozen=True)
class Case:
    """A network to train.

    Attributes:
        sizes: widths from input to output.
        batch, rows: of a minibatch, and of the data set, which holds whole minibatches.
        tf32: whether products may be computed in TF32; so on all sides.
        members: how many are trained together; None for a network alone.
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    rows: int
    tf32: bool = False
    members: int | None = None

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self.rows // self.batch

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Case:
        """The case that `to_json` described."""
        return cls(**{**record, "sizes": tuple(record["sizes"])})


@dataclass(frozen=True)
class Variant:
    """A way to compute a case.

    Attributes:
        name: unique.
        process: the process that it lives in, of `peer.CONTESTANTS`.
        title: what tables call it.
        ours: whether it is what the benchmark is about.
        needs_gpu: whether there is nothing like it on a CPU.
    """

    name: str
    process: str
    title: str
    ours: bool = False
    needs_gpu: bool = False


SOLO = (
    Variant("eager", "ours", "ours, eager", ours=True),
    Variant("compiled", "ours", "ours, compiled", ours=True),
    Variant("torch", "torch", "PyTorch eager"),
    Variant("torch-graph", "torch", "PyTorch, graph of a step", needs_gpu=True),
    Variant("torch-graph-10", "torch", "PyTorch, graph of 10 steps", needs_gpu=True),
    Variant("inductor", "inductor", "torch.compile, reduce-overhead", needs_gpu=True),
    Variant("inductor-graph", "inductor", "torch.compile in a graph of a step", needs_gpu=True),
    Variant("jax", "jax", "JAX jit"),
    Variant("jax-scan", "jax", "JAX, epoch in one scan"),
)
TOGETHER = (
    Variant("population", "ours", "ours, compiled", ours=True),
    Variant("vmap", "vmap", "torch.func vmap"),
    Variant("vmap-graph", "vmap", "vmap in a graph of a step", needs_gpu=True),
    Variant("vmap-compiled", "vmap-compiled", "vmap, torch.compile, in a graph", needs_gpu=True),
)
BY_NAME = {variant.name: variant for variant in (*SOLO, *TOGETHER)}

# In order of importance: where time runs short, what comes last is not prepared.
NETWORKS = (
    Case("B", (3072, 50, 10), 100, 10_000),
    Case("C", (784, 256, 10), 128, 12_800),
    Case("E", (784, 4096, 4096, 10), 4096, 65_536, tf32=True),
    Case("D", (784, 1024, 1024, 10), 256, 25_600),
    Case("E without TF32", (784, 4096, 4096, 10), 4096, 65_536),
)
MEMBERS = (256, 1024, 32, 1)


def networks(dry: bool) -> tuple[Case, ...]:
    """The networks; in a dry run tiny ones of the same depth."""
    return tuple(_tiny(case) if dry else case for case in NETWORKS)


def populations(dry: bool) -> tuple[Case, ...]:
    """Populations of B, the one that a bar is about first."""
    base = networks(dry)[0]
    return tuple(replace(base, name=f"{members} x B", members=members) for members in ((2, 1) if dry else MEMBERS))


def _tiny(case: Case) -> Case:
    hidden = [8] * (len(case.sizes) - 2)
    return replace(case, sizes=(12, *hidden, CLASSES), batch=8, rows=32)


def title(case: Case) -> str:
    """``C: 784-256-10, batch 128``."""
    tf32 = ", TF32" if case.tf32 else ""
    return f"{case.name}: {'-'.join(map(str, case.sizes))}, batch {case.batch}{tf32}"
