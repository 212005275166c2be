"""`process_pool`: worker processes on this machine, each replaced by a new one when it dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ParamSpec, TypeVar

from tinygrad_cr.options import integer
from tinygrad_cr.threads import set_num_threads

P = ParamSpec("P")
R = TypeVar("R")

VARIABLE = "TINYGRAD_CR_NUM_THREADS"


def process_pool(workers: int | None = None) -> ProcessPool:
    """An executor with so many processes on this machine, each of which computes with one thread.

    A program that makes one guards its own start with ``if __name__ == "__main__":``, as each worker imports it.

    Args:
        workers: left out, one for each core that this process may use.

    Raises:
        OptionError: not an integer, or less than 1.

    >>> with process_pool(2) as pool:
    ...     print(pool.submit(pow, 2, 10).result())
    1024
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ProcessPool(cores if workers is None else integer("workers", workers, least=1))


class ProcessPool(Executor):
    """What `process_pool` makes: one thread here for each worker, which starts it, waits for it and replaces it.

    Where a worker dies, `concurrent.futures.ProcessPoolExecutor` ends all others and every task. Here only the task
    that the worker had ends in `BrokenProcessPool`; the others never notice.

    Workers start by "spawn", when there is work for them. They end with this process, however it ends, and
    on leaving a ``with`` block by an error they do not finish what they have.

    Attributes:
        workers: how many there are at most.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tinygrad_cr-worker")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._processes: set[ProcessPoolExecutor] = set()
        self._killed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As every executor does; fn, arguments and result have to be picklable."""
        return self._threads.submit(self._delegate, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As every executor does."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            with self._lock:
                processes = list(self._processes)
            for process in processes:
                process.shutdown()

    def kill(self) -> None:
        """End every worker now, whatever it does."""
        with self._lock:
            self._killed = True
            processes = list(self._processes)
        for process in processes:
            # There is no public way to reach the process before Python 3.14.
            for each in list((process._processes or {}).values()):
                each.kill()
        self.shutdown(cancel_futures=True)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.kill()

    def _delegate(self, fn: Callable[..., R], args: Any, kwargs: Any) -> R:
        process = self._own()
        if self._killed:
            raise StartError("the pool has ended")
        try:
            return process.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            self._drop(process)
            raise

    def _own(self) -> ProcessPoolExecutor:
        """The worker of this thread."""
        process: ProcessPoolExecutor | None = getattr(self._local, "process", None)
        if process is None:
            process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start)
            with self._lock:
                self._processes.add(process)
            try:
                process.submit(os.getpid).result()
            except BrokenProcessPool as error:
                self._drop(process)
                raise StartError(_why(error)) from error
            self._local.process = process
        return process

    def _drop(self, process: ProcessPoolExecutor) -> None:
        self._local.process = None
        with self._lock:
            self._processes.discard(process)
        process.shutdown(wait=False)


class StartError(RuntimeError):
    """A worker process that ended before it could do anything."""


def _why(error: BrokenProcessPool) -> str:
    program = getattr(sys.modules["__main__"], "__file__", None) or "the program"
    return (
        f"a worker process ended as it started; each imports {program}, which must be a file whose own work stands "
        f'under if __name__ == "__main__" ({error})'
    )


def _start() -> None:
    """The first thing a worker does."""
    use_one_thread()
    # Ctrl-C reaches every process of a terminal: workers go quietly, and the one who has the results speaks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker that waits for work would not notice that the process it should come from was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_told = False


def use_one_thread(*, unless_told: bool = False) -> None:
    """Let this process, a worker, compute with one thread from now on; workers beside it use the other cores.

    Args:
        unless_told: leave it alone where ``TINYGRAD_CR_NUM_THREADS`` says how many, or if this was called before.
    """
    global _told
    if unless_told and (_told or os.environ.get(VARIABLE, "").strip()):
        return
    _told = True
    os.environ[VARIABLE] = "1"
    if "tinygrad_cr.kernels.cpu.threads" in sys.modules:
        set_num_threads(1)
