"""`Updates`: steps of a network or of all members of a population, a block of them by one call of compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr import ops, optim
from tinygrad_cr.compile import compile as capturing
from tinygrad_cr.data import Batches
from tinygrad_cr.errors import CaptureError
from tinygrad_cr.kernels import Array
from tinygrad_cr.options import of_member
from tinygrad_cr.tape import each_member
from tinygrad_cr.tensor import Tensor, wrap
from tinygrad_cr.train import preparation
from tinygrad_cr.train.callbacks import STEPS_BETWEEN_OBSERVATIONS
from tinygrad_cr.train.moment import Moment

if TYPE_CHECKING:
    from tinygrad_cr.train.trainer import Trainer

SHARED_BYTES = 1 << 23
"""Of minibatches that all members see, gathered at a time: as many steps are made before a core turns to the next."""
SHARED_STEPS = 12
"""At least, while that is no more than four times the bytes: with 3,072 features, 6 steps a turn took 2 % longer."""
SHARED_BYTES_ON_GPU = 1 << 26
"""There it saves calls."""


def shared_steps(minibatch: int, *, host: bool = True) -> int:
    """How many steps' minibatches, of so many bytes each, are gathered at a time for all members.

    >>> shared_steps(100 * 784 * 4), shared_steps(100 * 3072 * 4), shared_steps(1 << 30)
    (26, 12, 1)
    """
    most, least = (SHARED_BYTES, SHARED_STEPS) if host else (SHARED_BYTES_ON_GPU, 1)
    fitting = max(most // minibatch, min(least, 4 * most // minibatch))
    return max(1, min(STEPS_BETWEEN_OBSERVATIONS, fitting))


class Updates:
    """Makes updates of the trainer's model on rows of the training part.

    The rows, as they are stored, their labels and the standardisation lie where the model computes; a minibatch is
    gathered there, within its step. What a step finds stays there too, until the block has been made.

    Args:
        trainer: model, optimiser and options.
        batches: the training part, and how large minibatches are.
        shared: of a population: whether all members see the same minibatches.

    Attributes:
        penalty_norms: which norms every step measures because costs hold a penalty: none (False), "parameters", or on a
            GPU, where both cost the same and are one program, all (True).
    """

    def __init__(self, trainer: Trainer, batches: Batches, *, shared: bool = False) -> None:
        self.trainer, self.model, self.optimizer, self.shared = trainer, trainer.model, trainer.optimizer, shared
        flat = self.optimizer.flat
        self.kernels, self.members = flat.backend, flat.members
        xp, dtype = self.kernels.xp, flat.values.dtype
        data, self.labels, self.mean, self.scale = (xp.asarray(array) for array in batches.source())
        self.data, self.size = data, batches.batch_size
        # Of a minibatch for each member, or of a few minibatches for all.
        fitting = shared_steps(self.size * data.shape[1] * dtype.itemsize, host=self.kernels.host)
        self.fitting = fitting if shared else 1
        minibatches = fitting if shared else self.members or 1
        self.x = self.kernels.empty((minibatches * self.size, data.shape[1]), dtype)
        self.y = xp.empty(minibatches * self.size, np.int64)
        self.seed = None if self.members is None else xp.ones(self.members, dtype)
        # np.take with "raise" buffers its output; no row is out of range.
        self.taking = {"mode": "clip"} if self.kernels.host else {}
        reg = trainer.reg
        self.reg: Any = reg if self.members is None else np.array([of_member(reg, m) for m in range(self.members)])
        self.penalty_norms: bool | str = bool(np.any(self.reg)) and ("parameters" if self.kernels.host else True)
        self.regularized = [p.regularized for p in flat.parameters]
        self.step: Callable[..., tuple[Tensor, Any]] = self._update if shared else self._gather_and_update
        self._compiled: capturing | None = preparation.captured(trainer, self.step)

    @property
    def captured(self) -> bool:
        """Whether steps are compiled; False once it has turned out that they cannot be."""
        return self._compiled is not None

    @property
    def together(self) -> bool:
        """Whether steps cost less together: where they are one call, and on a GPU, which is waited for once a block."""
        if not self.kernels.host:
            return True
        return self._compiled is not None and all(program.in_one_table for program in self._compiled.programs)

    def make(
        self, rows: np.ndarray[Any, Any], measure: bool, before: Callable[[int], None]
    ) -> tuple[np.ndarray[Any, Any], Any]:
        """Make one update after another.

        Args:
            rows: int64 [steps, batch], of a population whose members have minibatches of their own
                [steps, members, batch].
            measure: whether norms are wanted.
            before: called with 0, 1, ... before each; sets the learning rate.

        Returns:
            The cost before each update, penalty included: float64 [steps], or [steps, members]. And the norms of the
            last one, as `Optimizer.step` measures them, or None if they are not wanted.
        """
        wanted = measure or self.penalty_norms
        losses, norms = [], []
        most = self.fitting if self.shared else len(rows)
        for start in range(0, len(rows), most):
            part = self.kernels.xp.asarray(rows[start : start + most])
            arrays = self._minibatches(part) if self.shared else (part,)
            loss, norm = self._made(arrays, wanted, lambda k, start=start: before(start + k))  # type: ignore[misc]
            losses.append(loss)
            norms.append(norm)
        costs = self._joined(losses).astype(np.float64)
        if not wanted:
            return costs, None
        measured = self._joined(norms)
        if self.penalty_norms:
            # Contiguous: sums are to be those of one row of norms alone.
            squares = np.ascontiguousarray(measured[..., self.regularized, 0])
            costs += 0.5 * self.reg * squares.sum(axis=-1)
        return costs, measured[-1] if measure else None

    def _joined(self, parts: list[Array]) -> np.ndarray[Any, Any]:
        whole = parts[0] if len(parts) == 1 else self.kernels.xp.concatenate(parts)
        return np.asarray(self.kernels.to_numpy(whole))

    def _made(self, arrays: tuple[Array, ...], wanted: bool | str, before: Callable[[int], None]) -> tuple[Array, Any]:
        """A step with each of the leading parts of the arrays: losses, and norms if they are wanted, of each."""
        if self._compiled is not None:
            moment = self._before_a_capture((*(array[0] for array in arrays), wanted))
            try:
                if len(arrays[0]) > 1:
                    losses, norms = self._compiled.scan(*arrays, wanted, before=before)
                    return losses.data, norms
                before(0)
                losses, norms = self._compiled(*(array[0] for array in arrays), wanted)
                return losses.data[None], None if norms is None else norms[None]
            except CaptureError as error:
                if moment is not None:
                    moment.restore()
                self._compiled = None
                self.trainer.reporter.note(f"training runs eagerly: {error}")
        results = []
        for k in range(len(arrays[0])):
            before(k)
            loss, norms = self.step(*(array[k] for array in arrays), wanted)
            results.append((loss.data, norms))
        xp = self.kernels.xp
        return xp.stack([loss for loss, _ in results]), xp.stack([norms for _, norms in results]) if wanted else None

    def _before_a_capture(self, args: tuple[Any, ...]) -> Moment | None:
        """Where things stand, if the next step is to be captured: where that fails, a part of the step was made."""
        assert self._compiled is not None
        if any(program.fits(args) for program in self._compiled.programs):
            return None
        moment = Moment(self.model, self.optimizer)
        moment.keep()
        return moment

    def _minibatches(self, rows: Array) -> tuple[Array, Array]:
        """Those of several steps, for all members."""
        steps, size = rows.shape
        x, y = self.x[: rows.size], self.y[: rows.size]
        self._gather(rows.reshape(-1), x, y)
        return x.reshape(steps, size, -1), y.reshape(steps, size)

    def _gather(self, rows: Array, x: Array, y: Array) -> None:
        self.kernels.gather(self.data, rows, self.mean, self.scale, x)
        self.kernels.xp.take(self.labels, rows, out=y, **self.taking)

    def _gather_and_update(self, rows: Array, norms: bool | str) -> tuple[Tensor, Any]:
        """One update with these rows, of every member with its own: int64 [batch], or [members, batch]."""
        x, y = self.x[: rows.size], self.y[: rows.size]
        if self.members is None:
            self._gather(rows, x, y)
        else:
            members, size = rows.shape
            x, y = x.reshape(members, size, -1), y.reshape(members, size)
            for m in each_member(members):
                self._gather(rows[m], x[m], y[m])
        return self._update(x, y, norms)

    def _update(self, x: Array, y: Array, norms: bool | str) -> tuple[Tensor, Any]:
        """One update; x: [batch, features], or for members of their own [members, batch, features]; y as it."""
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(wrap(x, self.kernels)), wrap(y, self.kernels))
        loss.backward(self.seed)
        if self.trainer.clip_norm is not None:
            optim.clip_norm(self.optimizer, self.trainer.clip_norm)
        measured = self.optimizer.step(reg=self.trainer.reg, norms=norms)
        # Nobody is to look at gradients afterwards: a replay that has used them need not write them.
        self.optimizer.zero_grad()
        return loss, measured
