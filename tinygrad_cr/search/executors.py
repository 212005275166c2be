"""`run_tasks`: the work of a search, done in this process or on any `concurrent.futures.Executor`.

Whatever the executor and the number of its workers, each task's rows come back exactly once:

- A worker that dies loses the task it had. It is submitted again, at most `ATTEMPTS` times in all: a task that kills
  every worker ends in an error that names it. The same holds for whatever else an executor may say of a task, since
  errors inside tasks come back as values, never this way.
- Dask submits lost tasks again by itself, and when it gives one up, that one may have been no more than a neighbour.
  It waits until all others are done and is tried alone: who fails then is guilty.
- An executor that dies as a whole ends in an error that says how much is finished; what had finished was handed over
  before it, so a search with a ledger goes on from there.
- An error inside a task is the caller's: it keeps its type, and a note says which task it was and where.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from tinygrad_cr.errors import ExecutorError, OptionError, TaskError
from tinygrad_cr.options import integer
from tinygrad_cr.search import sharing
from tinygrad_cr.search.process_pool import ProcessPool, StartError, use_one_thread
from tinygrad_cr.train.history import Row

ATTEMPTS = 3
"""So many workers may die under one task: once is chance, twice bad luck."""

AHEAD = 512
"""Tasks submitted but not finished: enough for the workers of a large cluster."""

CARRIERS = 4
"""Tasks under way with data in them: each worker needs it once, and all tasks could be waiting for it."""

SECONDS_FOR_THE_REST = 10.0
"""The futures of an executor that broke end within moments; those that do not are given up."""


class Task(Protocol):
    """A part of a search that one worker does at a stretch; picklable."""

    @property
    def key(self) -> Hashable:
        """What messages call it, the same in each run of the same search."""


T = TypeVar("T", bound=Task)
Run = Callable[[T], list[Row]]
Results = Generator[tuple[T, list[Row]], None, None]


def run_tasks(
    tasks: Iterable[T], run: Run[T], executor: Executor | None = None, *, window: int | None = None
) -> Results[T]:
    """Each task with its rows, as it finishes.

    Args:
        tasks: taken one at a time, when there is room for another.
        run: what gives a task's rows. For an executor in other processes it has to be picklable, and small: large
            arrays travel as `SharedData`.
        executor: None does one task after another in this process, in order.
        window: so many tasks may be submitted and not finished; left out, twice the workers of a `process_pool`, and
            512 for any other executor.

    Closing the iterator, or an error on the way, cancels what has not begun. Workers in other processes compute with
    one thread unless ``TINYGRAD_CR_NUM_THREADS`` is set there: one worker a core is meant.

    Raises:
        OptionError: not an executor.
        TaskError: a task was lost with its worker 3 times, or as often as Dask allows.
        ExecutorError: the executor ended, or could not run a task at all.
        Exception: what `run` raised, with a note that names the task.

    >>> from collections import namedtuple
    >>> Square = namedtuple("Square", "key side")
    >>> list(run_tasks([Square("a", 3)], lambda task: [{"area": task.side**2}]))
    [(Square(key='a', side=3), [{'area': 9}])]
    """
    if window is None:
        window = 2 * executor.workers if isinstance(executor, ProcessPool) else AHEAD
    integer("window", window, least=1)
    if executor is None:
        return _one_after_another(tasks, run)
    if not isinstance(executor, Executor):
        raise OptionError(f"executor must be a concurrent.futures.Executor or None, got {executor!r}{_hint(executor)}")
    return _Foreman(tasks, run, executor, window).results()


def _hint(given: object) -> str:
    if hasattr(given, "get_executor"):
        return "; of a Dask client, pass client.get_executor()"
    if isinstance(given, int):
        return f"; process_pool({given}) is one with {given} processes"
    return "; search.process_pool() is one"


def _one_after_another(tasks: Iterable[T], run: Run[T]) -> Results[T]:
    for task in tasks:
        try:
            rows = run(task)
        except Exception as error:
            error.add_note(f"in task {task.key!r}")
            raise
        yield task, rows


# In the process that has the results


@dataclass(eq=False)
class _Order(Generic[T]):
    """A task on its way: how often it was lost, whether Dask gave it up, and what data its worker could not find."""

    task: T
    lost: int = 0
    suspect: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)


def _hopeless(error: BaseException) -> bool:
    """Whether a task that ended like this would end so again."""
    return isinstance(error, StartError) or not isinstance(error, Exception)


@contextmanager
def _large() -> Iterator[None]:
    """Dask advises against large arguments; here they are sent on purpose, and once to a worker."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
        yield


class _Foreman(Generic[T]):
    """Keeps the window full, and takes back what was lost."""

    def __init__(self, tasks: Iterable[T], run: Run[T], executor: Executor, window: int) -> None:
        self.tasks, self.run, self.executor, self.window = iter(tasks), run, executor, window
        self.again: deque[_Order[T]] = deque()
        self.parked: list[_Order[T]] = []
        self.suspects: deque[_Order[T]] = deque()
        self.flying: dict[Future[Any], _Order[T]] = {}
        self.guilty: _Order[T] | None = None
        self.broken: Exception | None = None
        self.finished = self.rows = 0

    def results(self) -> Results[T]:
        try:
            self._fill()
            while self.flying:
                patience = SECONDS_FOR_THE_REST if self.broken else None
                landed, _ = wait(self.flying, timeout=patience, return_when=FIRST_COMPLETED)
                if not landed:
                    break
                troubles = []
                for future in landed:
                    order = self._land(future)
                    try:
                        rows = self._rows(order, future)
                    except Exception as trouble:
                        troubles.append(trouble)
                        continue
                    if rows is not None:
                        self.finished, self.rows = self.finished + 1, self.rows + len(rows)
                        # Before the caller writes them down, so that no worker waits for that.
                        if not troubles:
                            self._fill()
                        yield order.task, rows
                if troubles:
                    raise troubles[0]
                self._fill()
            if self.broken:
                raise self._dead() from self.broken
            if self.guilty:
                raise self._guilty(self.guilty)
        finally:
            for future in self.flying:
                future.cancel()

    def _land(self, future: Future[Any]) -> _Order[T]:
        order = self.flying.pop(future)
        if order.sent:
            # One more worker has the data now: those that wait for it may come to that one.
            self.again.extend(self.parked)
            self.parked.clear()
        return order

    def _fill(self) -> None:
        while self.broken is None and len(self.flying) < self.window:
            order = self._next()
            if order is None:
                return
            self._submit(order)

    def _next(self) -> _Order[T] | None:
        if self.again:
            return self.again.popleft()
        for task in self.tasks:
            return _Order(task)
        return self.suspects.popleft() if self.suspects and not self.flying else None

    def _submit(self, order: _Order[T]) -> None:
        attempt = _Attempt(self.run, order.task, order.sent, _process())
        try:
            with _large() if order.sent else nullcontext():
                self.flying[self.executor.submit(_work, attempt)] = order
        except Exception as error:
            self.broken = error

    def _rows(self, order: _Order[T], future: Future[Any]) -> list[Row] | None:
        """What a future brought; None if its task has to be submitted again."""
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            answer = future.result()
            if isinstance(answer, _Failed):
                raise answer.error
            if isinstance(answer, _Missing):
                self._send_along(order, answer.digest)
                return None
            rows: list[Row] = answer
            return rows
        if isinstance(error, BrokenExecutor) and not isinstance(self.executor, ProcessPool):
            self.broken = error
            return None
        if type(error).__name__ == "KilledWorker" and not order.suspect:
            order.suspect = True
            self.suspects.append(order)
            return None
        order.lost += 1
        if order.lost < ATTEMPTS and not order.suspect and not _hopeless(error):
            self.again.append(order)
            return None
        if order.suspect and self.suspects:
            self.guilty = self.guilty or order
            return None
        if order.suspect or isinstance(error, BrokenExecutor):
            raise self._guilty(order) from error
        what = f"task {order.task.key!r} could not be run: {type(error).__name__}: {error}"
        raise ExecutorError(f"{what}. {self._so_far()}") from error

    def _send_along(self, order: _Order[T], digest: str) -> None:
        """A worker does not see the file that holds shared data: submit the task again with the data in it."""
        if sum(bool(each.sent) for each in [*self.again, *self.flying.values()]) >= CARRIERS:
            self.parked.append(order)
            return
        content = sharing.content(digest)
        if content is None or digest in order.sent:
            raise ExecutorError(f"task {order.task.key!r} has no way to its shared data. {self._so_far()}")
        order.sent[digest] = content
        self.again.appendleft(order)

    def _guilty(self, order: _Order[T]) -> TaskError:
        return TaskError(
            f"task {order.task.key!r} was lost with its worker again and again, so it probably kills it: "
            f"is there memory enough? {self._so_far()}"
        )

    def _dead(self) -> ExecutorError:
        error = self.broken
        return ExecutorError(
            f"the executor has ended ({type(error).__name__}: {error}): its workers were killed, ran out of memory or "
            f"could not start, or it was shut down. {self._so_far()}"
        )

    def _so_far(self) -> str:
        return (
            f"Before that, {self.finished} tasks ({self.rows} trials) finished; with a ledger they are safe, "
            "and the same call with a working executor goes on after them"
        )


# In the worker


@dataclass(frozen=True)
class _Attempt(Generic[T]):
    """What goes to a worker: the task, the data that it lacked the last time, and where all this comes from."""

    run: Run[T]
    task: T
    sent: Mapping[str, bytes]
    submitter: tuple[str, int]

    def __dask_tokenize__(self) -> str:
        """A name of its own: by their content, Dask would hash the data, and take a second attempt for the first."""
        return uuid.uuid4().hex


@dataclass(frozen=True)
class _Failed:
    """The task raised this."""

    error: Exception


@dataclass(frozen=True)
class _Missing:
    """The worker does not have this shared data."""

    digest: str


_IMPORTED = uuid.uuid4().hex


def _process() -> tuple[str, int]:
    """This process, told from those on other machines, those that were started like it, and copies that fork made."""
    return _IMPORTED, os.getpid()


def _work(attempt: _Attempt[T]) -> list[Row] | _Failed | _Missing:
    """Do a task: its rows, or what went wrong as a value, so that an exception always speaks of the executor."""
    away = attempt.submitter != _process()
    if away:
        use_one_thread(unless_told=True)
    for digest, content in attempt.sent.items():
        sharing.receive(digest, content)
    try:
        return attempt.run(attempt.task)
    except sharing.MissingData as missing:
        return _Missing(missing.digest)
    except Exception as error:
        trace = "".join(traceback.format_exception(error)).rstrip()
        error.add_note(f"in task {attempt.task.key!r}")
        if away:
            error.add_note(f"process {os.getpid()} on {socket.gethostname()}:\n{trace}")
        return _Failed(_portable(error) if away else error)


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same, as another process can take it."""
    try:
        whole = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        whole = False
    if whole:
        return error
    stand_in = RuntimeError(f"{type(error).__name__}: {error}")
    for each in error.__notes__:
        stand_in.add_note(each)
    return stand_in
