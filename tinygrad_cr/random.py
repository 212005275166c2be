"""Random numbers that are a pure function of where they are asked for.

A `Generator` holds three integers, (seed, draw, stream), and nothing else: every call is one *draw* of the Philox
counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so the same state gives the same numbers
on every backend and for any number of threads, and a checkpoint is three integers.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from tinygrad_cr.errors import OptionError
from tinygrad_cr.kernels import backend, permutations
from tinygrad_cr.options import integer, number
from tinygrad_cr.tape import mode

SEED_LIMIT = 2**63
STREAM_LIMIT = 2**31
_LANES = 65536


class Generator:
    """A counter-based source of randomness.

    Args:
        seed: 0 <= seed < 2**63; None takes one from the operating system (read it back from `seed`).
        stream: 0 <= stream < 2**31; generators that differ only here are independent.
        draw: how many draws were already taken.

    Raises:
        OptionError: one of them is no integer, or outside its range.

    >>> Generator(7).uniform((2,)) == Generator(7).uniform((2,))
    array([ True,  True])
    """

    __slots__ = ("capture", "draw", "seed", "stream")

    def __init__(self, seed: int | None = None, stream: int = 0, draw: int = 0) -> None:
        if seed is None:
            seed = secrets.randbelow(SEED_LIMIT)
        self.seed = integer("seed", seed, below=SEED_LIMIT)
        self.stream = integer("stream", stream, below=STREAM_LIMIT)
        self.draw = integer("draw", draw, below=SEED_LIMIT)
        # Made inside a captured function, it is made anew in each call, and its draws are always the same.
        self.capture = mode.program

    def next_draw(self) -> int:
        """Claim the next draw: its number, for a kernel that makes the random bits itself."""
        self.draw += 1
        return self.draw - 1

    def words(self, n: int) -> Any:
        """The next draw: uint32 [n, 4], one Philox block a row."""
        draw = self.next_draw()
        counters = np.empty((n, 4), np.uint32)
        counters[:, 0] = np.arange(n, dtype=np.uint32)
        # Column by column: a row that is broadcast takes three times as long.
        counters[:, 1], counters[:, 2], counters[:, 3] = draw % 2**32, draw >> 32, self.stream
        return _philox(counters, self.seed)

    def uniform(self, shape: tuple[int, ...]) -> Any:
        """Uniform numbers, float64 [shape], strictly between 0 and 1, 52 random bits each.

        >>> bool((0 < Generator(0).uniform((1000,))).all())
        True
        """
        size = math.prod(shape)
        halves = self.words(-(-size // 2)).reshape(-1, 2)[:size].astype(np.uint64)
        bits = (halves[:, 0] << np.uint64(32) | halves[:, 1]) >> np.uint64(12)
        # 52 bits and a half: with 53, the largest would round up to 1.
        return ((bits + 0.5) * 2.0**-52).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> Any:
        """Standard normal numbers, float64 [shape] (Box and Muller 1958).

        >>> round(float(Generator(0).normal((10000,)).std()), 1)
        1.0
        """
        size = math.prod(shape)
        u = self.uniform((-(-size // 2), 2))
        radius = np.sqrt(-2.0 * np.log(u[:, 0]))
        angle = 2.0 * np.pi * u[:, 1]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(-1)[:size].reshape(shape)

    def permutation(self, n: int) -> Any:
        """A shuffled ``arange(n)``: int64 [n].

        The order of random keys; see `kernels.permutations`.

        >>> sorted(Generator(3).permutation(4).tolist())
        [0, 1, 2, 3]
        """
        return permutations(np.array([[self.seed, self.next_draw(), self.stream]], np.int64), n)[0]

    def state(self) -> dict[str, int]:
        """Everything there is to save: ``Generator(**state)`` goes on from here.

        >>> Generator(5, stream=2).state()
        {'seed': 5, 'stream': 2, 'draw': 0}
        """
        return {"seed": self.seed, "stream": self.stream, "draw": self.draw}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what `state` gave.

        >>> generator = Generator(5)
        >>> generator.restore({"seed": 1, "stream": 2, "draw": 3})
        >>> generator
        Generator(seed=1, stream=2, draw=3)
        """
        self.seed, self.stream, self.draw = state["seed"], state["stream"], state["draw"]

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, stream={self.stream}, draw={self.draw})"


def _philox(counters: Any, seed: int) -> Any:
    out = np.empty(counters.shape, np.uint32)
    backend("cpu").philox(counters, np.array([seed % 2**32, seed >> 32], np.uint32), out)
    return out


class Generators(Sequence[Generator]):
    """One generator for each member of a population.

    Args:
        generators: those of the members, in order.

    >>> [generator.stream for generator in member_generators(Generator(7, stream=3), 2)]
    [3, 4]
    """

    __slots__ = ("capture", "generators")

    def __init__(self, generators: Iterable[Generator]) -> None:
        self.generators = tuple(generators)
        self.capture = mode.program

    @overload
    def __getitem__(self, index: int) -> Generator: ...
    @overload
    def __getitem__(self, index: slice) -> Generators: ...
    def __getitem__(self, index: int | slice) -> Generator | Generators:
        chosen = self.generators[index]
        return chosen if isinstance(chosen, Generator) else Generators(chosen)

    def __len__(self) -> int:
        return len(self.generators)

    def permutations(self, n: int) -> Any:
        """The next `Generator.permutation` of each: int64 [members, n], side by side.

        >>> both = member_generators(3, 2)
        >>> bool((both.permutations(9)[1] == Generator(3, stream=1).permutation(9)).all())
        True
        """
        return permutations(np.array([(g.seed, g.next_draw(), g.stream) for g in self.generators], np.int64), n)

    def state(self) -> dict[str, Any]:
        """Everything there is to save."""
        return {"members": [generator.state() for generator in self.generators]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for generator, own in zip(self.generators, state["members"], strict=True):
            generator.restore(own)

    def __repr__(self) -> str:
        return f"Generators({list(self.generators)})"


def member_generators(source: Generators | Sequence[Generator] | Generator | int | None, members: int) -> Generators:
    """A generator for each member: those given, or the streams that follow the one of a generator or a seed.

    A single generator is left where it stands: asked twice, it gives the same members twice.

    >>> member_generators(7, 2)[1]
    Generator(seed=7, stream=1, draw=0)

    Raises:
        OptionError: not as many generators as members.
    """
    if isinstance(source, Generators) and len(source) == members:
        return source
    if isinstance(source, Sequence):
        if len(source) != members or not all(isinstance(generator, Generator) for generator in source):
            raise OptionError(
                f"{members} members want as many generators, or one whose streams they take; got {source!r}"
            )
        return Generators(source)
    first = as_generator(source)
    return Generators(Generator(first.seed, first.stream + m, first.draw) for m in range(members))


def as_generator(source: Generator | int | None) -> Generator:
    """A generator from a generator, a seed, or None (a fresh seed from the operating system)."""
    return source if isinstance(source, Generator) else Generator(source)


def keep_threshold(dropout: float) -> int:
    """How many of the 65,536 values of a lane keep an element: the probability of keeping, quantised.

    >>> keep_threshold(0.5)
    32768

    Raises:
        OptionError: `dropout` is not in [0, 1).
    """
    number("dropout", dropout, below=1, hint="it is the probability of dropping a unit, and 0 switches it off")
    return max(1, round((1 - float(dropout)) * _LANES))


def keep_probability(threshold: int) -> float:
    """The exact probability of keeping that a threshold stands for."""
    return threshold / _LANES
