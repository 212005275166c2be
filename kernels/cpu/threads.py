"""The one pool of threads: kernels cut their work into chunks by shape, and whoever is awake takes the next one.

There is no other pool to fight with: the matrix products of layers are ours as well (`product.py`), no BLAS's thread
runs.

How a parallel kernel runs: the caller writes what is to be done on a board in shared memory, takes part in the work and
returns when every chunk is done. Chunks are claimed one at a time, each thread's own share first, so that a thread
finds in its caches what it left there in the step before; then it helps the others. A worker that sleeps, or that the
operating system has taken off its core, holds nobody up: its share is taken by those who are awake. Workers look out
for work for about `SPINS` pauses after the last (0.1 ms), then sleep until they are called.

Whether a chunk runs here or there changes no bit of a result. A second Python thread that comes while the pool is taken
does its work alone, and so does one in a child process made by fork, until the pool is made anew there.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from typing import Any

import numpy as np
from llvmlite import binding

from ..interface import BackendError
from .board import (
    CLAIMS,
    CONDITION,
    DATA,
    DONE,
    DOTS32,
    DOTS64,
    FLOAT32,
    FLOAT64,
    GENERATION,
    LINE,
    MOST_THREADS,
    MUTEX,
    OWNER,
    QUIT,
    SLEEPERS,
    SPARSE32,
    SPARSE64,
    SYMBOL,
    TASK,
    THREADS,
    WORDS,
    add,
    call,
    load,
    lock,
    pause,
    portable,
    store,
    swap,
    unlock,
    wait,
    wake_all,
)
from .compiling import helper, kernel

VARIABLE = "TINYGRAD_CR_NUM_THREADS"
SPINS = 6000
ELEMENTS_WORTH_SHARING = 1 << 15
"""Elements of a result, each a few operations, from which waking another thread pays."""

# A claim is one word, so that it is taken in one atomic step: number of the job, end of the share, next chunk.
BITS = 20
MOST_CHUNKS = (1 << BITS) - 1
JOB_NUMBERS = (1 << 22) - 1


@helper
def launch(job: Any, chunks: int, shared: bool) -> None:
    """Do chunks 0 .. chunks - 1 of a job that `bind` made; if `shared`, with the help of whoever is awake."""
    task, data = job
    threads = min(load(THREADS), chunks) if shared else 1
    if threads <= 1 or not swap(OWNER, 0, 1):
        for chunk in range(chunks):
            call(task, data, chunk)
        return
    number = (load(GENERATION) + 1) & JOB_NUMBERS
    store(GENERATION, number)
    store(TASK, task)
    store(DATA, data)
    store(DONE, 0)
    for t in range(threads):
        first, end = t * chunks // threads, (t + 1) * chunks // threads
        store(CLAIMS + LINE * t, number << (2 * BITS) | end << BITS | first)
    if load(SLEEPERS) > 0:
        lock()
        wake_all()
        unlock()
    take_part(0, threads)
    while load(DONE) < chunks:
        pause()
    store(OWNER, 0)


@helper
def take_part(me: int, threads: int) -> None:
    """Do chunks until none is left: those of one's own share, then those of the others."""
    for i in range(threads):
        place = CLAIMS + LINE * ((me + i) % threads)
        while True:
            claim = load(place)
            chunk = claim & MOST_CHUNKS
            if chunk >= claim >> BITS & MOST_CHUNKS:
                break
            # Read between the claim and its confirmation: if the claim still stands then, so did these.
            task, data = load(TASK), load(DATA)
            if swap(place, claim, claim + 1):
                call(task, data, chunk)
                add(DONE, 1)


@kernel
def serve(me: int) -> None:
    """The life of worker `me` (1, 2, ...): wait for a job, take part, until the pool ends."""
    place = CLAIMS + LINE * me
    seen = load(place) >> (2 * BITS)
    spins = 0
    while load(QUIT) == 0:
        number = load(place) >> (2 * BITS)
        if number != seen:
            seen, spins = number, 0
            take_part(me, load(THREADS))
        elif spins < SPINS:
            spins += 1
            pause()
        else:
            lock()
            add(SLEEPERS, 1)
            # Looked at again after announcing to sleep: whoever publishes now sees the sleeper and waits for the lock.
            while load(place) >> (2 * BITS) == seen and load(QUIT) == 0:
                wait()
            add(SLEEPERS, -1)
            unlock()
            spins = 0


# The pool, as Python sees it


class Pool:
    """The board and the workers of this process."""

    def __init__(self) -> None:
        # Never freed: a worker may look at it until the process is gone.
        self.memory = np.zeros(WORDS + LINE, np.int64)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.memory))
        skipped = -self.memory.ctypes.data // 8 % LINE
        self.board = self.memory[skipped:]
        binding.add_symbol(SYMBOL, self.board.ctypes.data)
        self.workers: list[threading.Thread] = []
        self.lock = threading.Lock()
        self.renew()

    def renew(self) -> None:
        """No worker, nothing to do: the state of a new process, and of a child that fork made."""
        kept = [THREADS, FLOAT32, FLOAT64, SPARSE32, SPARSE64, DOTS32, DOTS64]
        values = self.board[kept]
        self.board[:] = 0
        self.board[kept] = values
        self.workers = []
        self.lock = threading.Lock()
        if portable():
            for name, word in (("mutex", MUTEX), ("cond", CONDITION)):
                getattr(ctypes.CDLL(None), f"pthread_{name}_init")(self._place(word), None)

    def _place(self, word: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.board[word:].ctypes.data)

    def resize(self, threads: int) -> None:
        """Work with so many threads from now on, the caller's included."""
        with self.lock:
            while len(self.workers) < threads - 1 and portable():
                me = len(self.workers) + 1
                worker = threading.Thread(target=serve, args=(me,), name=f"tinygrad_cr-{me}", daemon=True)
                worker.start()
                self.workers.append(worker)
            self.board[THREADS] = threads

    def end(self) -> None:
        """Workers leave compiled code before it is unloaded."""
        if self.workers:
            self.board[QUIT] = 1
            for name, word in (("mutex_lock", MUTEX), ("cond_broadcast", CONDITION), ("mutex_unlock", MUTEX)):
                getattr(ctypes.CDLL(None), f"pthread_{name}")(self._place(word))
            for worker in self.workers:
                worker.join(1.0)


def usable_cores() -> int:
    """The cores that this process may run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def checked(threads: int, name: str) -> int:
    """The number of threads, if it is one that this machine has."""
    if not 1 <= threads <= usable_cores():
        raise BackendError(f"{name} must be from 1 to {usable_cores()}, the cores this process may use; got {threads}")
    return threads


def threads_at_start() -> int:
    """All cores, or what the environment says."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return usable_cores()
    if not text.isdecimal():
        raise BackendError(f"{VARIABLE} must be a whole number from 1 to {usable_cores()}, got {text!r}")
    return checked(int(text), VARIABLE)


pool = Pool()
pool.resize(threads_at_start())
atexit.register(pool.end)
if portable():
    os.register_at_fork(after_in_child=pool.renew)
