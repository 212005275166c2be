"""`compile`: run a step once, remember every kernel call, and from then on make those calls and nothing else.

Replaying the calls builds no graph, checks no shape and allocates nothing, and gives the numbers of the eager step, bit
for bit; on a GPU, where members of a population are multiplied together, theirs to rounding. See `capture` for how they
are found and `replay` for how they are made again.

What may differ from call to call is asked for anew each time: arguments, random draws, learning rates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tinygrad_cr import tape
from tinygrad_cr.capture import Program, capture, refuse_gradient
from tinygrad_cr.errors import OptionError
from tinygrad_cr.kernels import backend
from tinygrad_cr.structure import arrays_of, is_array, joined, lengthened, on_gpu, rebuilt

PROGRAMS_KEPT = 16
"""Captures kept for one function: shapes times flags; the oldest goes first."""


class compile:
    """A function of tensors that is captured on its first call and replayed afterwards.

    On a GPU the replay is a CUDA graph, which waits for nothing: results lie on the GPU until somebody reads them. What
    a graph cannot hold is repeated call by call, and a warning names it.

    Args:
        fn: takes tensors, arrays and plain values, returns a tensor, a tuple of them, or None. A whole training step
            is such a function: zero_grad, forward, backward and ``optimizer.step()``. If it ends with
            another zero_grad, gradients that an update has used at once are not written, which saves time; the buffer
            ``optimizer.flat.gradients`` then holds nothing in particular.
        in_place: capture tensor and array arguments by reference: the caller passes the same arrays each time, filled
            anew. Otherwise they are copied in.

    The results are new tensors without history. A changed shape, dtype, plain value or flag (training or evaluation,
    recording or not, a gradient that is there or not) captures again. **Python side effects inside `fn` happen at
    capture only**, what it computes with NumPy itself included, and branches on values are frozen; an operation that
    cannot be replayed raises `CaptureError`, which names it. A replay checks no values: a label out of range shows as a
    loss of NaN. Called while another function is captured, a compiled function becomes a part of that capture.

    >>> import numpy as np
    >>> from tinygrad_cr import Tensor, nn, ops, optim
    >>> model = nn.MLP([4, 8, 2], generator=0)
    >>> optimizer = optim.SGD(model, lr=0.1)
    >>> @compile
    ... def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = ops.cross_entropy(model(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> x, y = Tensor(np.ones((3, 4), "float32")), np.array([0, 1, 1])
    >>> bool(step(x, y) > step(x, y))
    True
    """

    def __init__(self, fn: Callable[..., Any], *, in_place: bool = False) -> None:
        self.fn = fn
        self.in_place = in_place
        self.programs: list[Program] = []
        functools.update_wrapper(self, fn)

    def __getstate__(self) -> dict[str, Any]:
        # A copy works on copies of the tensors, and captures them for itself.
        return vars(self) | {"programs": []}

    def __call__(self, *args: Any) -> Any:
        if tape.capturing and tape.mode.program is not None:
            return self._within(args)
        for program in self.programs:
            if program.fits(args):
                return program.replay.once(args)
        leaves = [leaf for program in self.programs for leaf, _ in program.grads.values()]
        program, result = capture(self.fn, args, self.in_place, leaves)
        self.programs = [program, *self.programs][:PROGRAMS_KEPT]
        return result

    def _within(self, args: tuple[Any, ...]) -> Any:
        """A call that becomes a part of another capture: to the caller it is what a call is elsewhere."""
        if not self.in_place:
            for value in args:
                refuse_gradient(value)
        result = self.fn(*args)
        # Copied by a call that is captured, too.
        copies = [backend("gpu" if on_gpu(array) else "cpu").xp.array(array) for array in arrays_of(result)]
        return rebuilt(result, iter(copies))

    def scan(self, *args: Any, before: Callable[[int], None] | None = None) -> Any:
        """Call once for each step: arrays among the arguments have a leading axis of steps, and so have the results.

        Where every call of the capture is one that a table holds, as it is for the networks and optimisers of this
        package, all steps are made by one call of compiled code, and members of a population side by side. Elsewhere
        it is the loop that it stands for. On a GPU a step is one launch of a graph, and what the steps need from the
        host is copied up before the first.

        Args:
            args: arrays [steps, ...], on the host or the GPU; anything else, tensors too, is the same in each step.
            before: called with 0, 1, ... before the step of that number is prepared; the place to set a learning rate.

        Raises:
            OptionError: no array among the arguments, or arrays of different length.
            CaptureError: called while another function is captured.

        >>> import numpy as np
        >>> from tinygrad_cr import Tensor
        >>> total = np.zeros(2)
        >>> add = compile(lambda x: Tensor(total) + x)
        >>> add.scan(np.array([[1.0, 2.0], [3.0, 4.0]])).data
        array([[1., 2.],
               [3., 4.]])
        """
        tape.refuse("scan of a compiled function")
        lengths = {len(arg) for arg in args if is_array(arg)}
        if len(lengths) != 1:
            raise OptionError(f"scan wants arrays with one number of steps, got {sorted(lengths) or 'no array'}")
        (steps,), done = lengths, 0
        # A number of each step, an element of a vector, is a value of the capture: no address tells it.
        addressed = all(arg.ndim > 1 for arg in args if is_array(arg))
        results: list[Any] = []
        while done < steps:
            first = tuple(arg[done] if is_array(arg) else arg for arg in args)
            program = next((program for program in self.programs if program.fits(first)), None)
            if addressed and program is not None and program.in_one_table:
                rest = tuple(arg[done:] if is_array(arg) else arg for arg in args)
                results.append(program.replay.each(rest, steps - done, done, before))
                break
            if before is not None:
                before(done)
            # A capture in place would hold, and later write into, the caller's array.
            own = (value.copy() if self.in_place and is_array(value) else value for value in first)
            results.append(lengthened(self(*own)))
            done += 1
        return joined(results)
