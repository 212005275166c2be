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
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from ..interface import BackendError
from .compiling import helper, kernel, primitive

VARIABLE = "TINYGRAD_CR_NUM_THREADS"
MOST_THREADS = 64
SPINS = 6000

# The board: words of 64 bits, each on cache lines of its own, because each is written by one and watched by others.
LINE = 16
OWNER, TASK, DATA, DONE, THREADS, SLEEPERS, QUIT, GENERATION, MUTEX, CONDITION, FLOAT32, FLOAT64, CLAIMS = (
    LINE * i for i in range(13)
)
WORDS = CLAIMS + LINE * MOST_THREADS

# A claim is one word, so that it is taken in one atomic step: number of the job, end of the share, next chunk.
BITS = 20
MOST_CHUNKS = (1 << BITS) - 1
JOB_NUMBERS = (1 << 22) - 1

_SYMBOL = "tinygrad_cr_board"
_I64 = ir.IntType(64)
_I8_POINTER = ir.IntType(8).as_pointer()
_TASK = ir.FunctionType(ir.VoidType(), [_I8_POINTER, _I64])


# What numba does not offer: atomic words, and calling a function by its address


def word_of(builder: Any, i: Any) -> Any:
    """A pointer to word i of the board. The board is a symbol, so that code cached on disk finds it again."""
    found = builder.module.globals.get(_SYMBOL)
    if found is None:
        found = ir.GlobalVariable(builder.module, ir.ArrayType(_I64, WORDS), _SYMBOL)
        found.linkage = "external"
    return builder.gep(found, [_I64(0), i])


@primitive
def load(typing_context: Any, i: Any) -> Any:
    """Word i of the board; what its writer wrote before is visible after."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(word_of(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), generate


@primitive
def store(typing_context: Any, i: Any, value: Any) -> Any:
    """Write word i of the board."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], word_of(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@primitive
def add(typing_context: Any, i: Any, value: Any) -> Any:
    """Add to word i of the board."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", word_of(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@primitive
def swap(typing_context: Any, i: Any, old: Any, new: Any) -> Any:
    """Replace word i of the board if it still is `old`; whether it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = builder.cmpxchg(word_of(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@primitive
def pause(typing_context: Any) -> Any:
    """Tell the core that this loop waits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        triple = binding.get_process_triple()
        nothing, number = ir.VoidType(), ir.IntType(32)
        if triple.startswith(("x86", "i")):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(nothing, []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        elif triple.startswith(("aarch64", "arm64")):
            kind = ir.FunctionType(nothing, [number])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [number(1)])
        return context.get_dummy_value()

    return types.void(), generate


@primitive
def call(typing_context: Any, task: Any, data: Any, chunk: Any) -> Any:
    """Do one chunk of the job at these addresses."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = builder.inttoptr(args[0], _TASK.as_pointer())
        builder.call(function, [builder.inttoptr(args[1], _I8_POINTER), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _threading_call(name: str, *words: int) -> Any:
    """A function of the C library's threads on objects that live on the board."""

    @primitive
    def invoke(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.IntType(32), [_I8_POINTER] * len(words))
            function = cgutils.get_or_insert_function(builder.module, kind, f"pthread_{name}")
            builder.call(function, [builder.bitcast(word_of(builder, _I64(i)), _I8_POINTER) for i in words])
            return context.get_dummy_value()

        return types.void(), generate

    return invoke


_lock = _threading_call("mutex_lock", MUTEX)
_unlock = _threading_call("mutex_unlock", MUTEX)
_wait = _threading_call("cond_wait", CONDITION, MUTEX)
_wake_all = _threading_call("cond_broadcast", CONDITION)


@primitive
def bind(typing_context: Any, function: Any, args: Any) -> Any:
    """The addresses of a job: a function that takes a chunk's number after these arguments, and the arguments.

    They live in the caller's frame: `launch` is called before it returns.
    """
    signature = function.get_call_type(typing_context, (*args.types, types.int64), {})

    def generate(context: Any, builder: Any, outer: Any, values: Any) -> Any:
        library = function.dispatcher.get_compile_result(signature).library
        context.active_code_library.add_linking_library(library)
        kinds = [context.get_value_type(kind) for kind in args.types]
        frame = ir.LiteralStructType(kinds)
        space = cgutils.alloca_once(builder, frame)
        builder.store(_as_struct(builder, values[1], frame), space)
        task = ir.Function(
            builder.module, _TASK, builder.module.get_unique_name(f"{function.dispatcher.__name__}.task")
        )
        task.linkage = "internal"
        inner = ir.IRBuilder(task.append_basic_block("entry"))
        held = inner.load(inner.bitcast(task.args[0], frame.as_pointer()))
        unpacked = [
            _without_owner(context, inner, kind, inner.extract_value(held, i)) for i, kind in enumerate(args.types)
        ]
        context.call_internal_no_propagate(
            inner,
            function.dispatcher.get_compile_result(signature).fndesc,
            signature,
            [*unpacked, task.args[1]],
        )
        inner.ret_void()
        return context.make_tuple(
            builder, outer.return_type, [builder.ptrtoint(task, _I64), builder.ptrtoint(space, _I64)]
        )

    return types.UniTuple(types.int64, 2)(function, args), generate


def _as_struct(builder: Any, value: Any, frame: Any) -> Any:
    """A numba tuple (a struct, or an array if all its members have one type) as a struct."""
    struct = cgutils.get_null_value(frame)
    for i in range(len(frame.elements)):
        struct = builder.insert_value(struct, builder.extract_value(value, i), i)
    return struct


def _without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An argument whose arrays own nothing: the caller keeps them alive.

    Every slice of an array that has an owner counts references, in one place for all threads: they would wait for
    each other at each row.
    """
    if isinstance(kind, types.Tuple | types.UniTuple):
        parts = [
            _without_owner(context, builder, part, builder.extract_value(value, i)) for i, part in enumerate(kind.types)
        ]
        return context.make_tuple(builder, kind, parts)
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    return value


# The protocol


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
        _lock()
        _wake_all()
        _unlock()
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
            _lock()
            add(SLEEPERS, 1)
            # Looked at again after announcing to sleep: whoever publishes now sees the sleeper and waits for the lock.
            while load(place) >> (2 * BITS) == seen and load(QUIT) == 0:
                _wait()
            add(SLEEPERS, -1)
            _unlock()
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
        binding.add_symbol(_SYMBOL, self.board.ctypes.data)
        self.workers: list[threading.Thread] = []
        self.lock = threading.Lock()
        self.renew()

    def renew(self) -> None:
        """No worker, nothing to do: the state of a new process, and of a child that fork made."""
        kept = [THREADS, FLOAT32, FLOAT64]
        values = self.board[kept]
        self.board[:] = 0
        self.board[kept] = values
        self.workers = []
        self.lock = threading.Lock()
        if portable():
            for name, word in (("mutex", MUTEX), ("cond", CONDITION)):
                getattr(ctypes.CDLL(None), f"pthread_{name}_init")(ctypes.c_void_p(self.board[word:].ctypes.data), None)

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
            library = ctypes.CDLL(None)
            library.pthread_mutex_lock(ctypes.c_void_p(self.board[MUTEX:].ctypes.data))
            library.pthread_cond_broadcast(ctypes.c_void_p(self.board[CONDITION:].ctypes.data))
            library.pthread_mutex_unlock(ctypes.c_void_p(self.board[MUTEX:].ctypes.data))
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


def portable() -> bool:
    """Whether the C library's threads are where the pool looks for them; elsewhere there is one thread."""
    return os.name == "posix"


pool = Pool()
pool.resize(threads_at_start())
atexit.register(pool.end)
os.register_at_fork(after_in_child=pool.renew)
