"""The board that threads share, and what numba does not offer for it: atomic words, and jobs that have an address.

The board is memory of this process under a symbol: code that another process compiled and kept on disk finds it.
"""

from __future__ import annotations

import os
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from .compiling import primitive

MOST_THREADS = 64

# The board: words of 64 bits, each on cache lines of its own, because each is written by one and watched by others.
LINE = 16
(
    OWNER,
    TASK,
    DATA,
    DONE,
    THREADS,
    SLEEPERS,
    QUIT,
    GENERATION,
    MUTEX,
    CONDITION,
    FLOAT32,
    FLOAT64,
    SPARSE32,
    SPARSE64,
    DOTS32,
    DOTS64,
    CLAIMS,
) = (LINE * i for i in range(17))
WORDS = CLAIMS + LINE * MOST_THREADS

SYMBOL = "tinygrad_cr_board"
_I64 = ir.IntType(64)
_I8_POINTER = ir.IntType(8).as_pointer()
_TASK = ir.FunctionType(ir.VoidType(), [_I8_POINTER, _I64])


def portable() -> bool:
    """Whether the C library has the threads that the pool is made of; elsewhere the caller does all work itself."""
    return os.name == "posix"


def word_of(builder: Any, i: Any) -> Any:
    """A pointer to word i of the board."""
    found = builder.module.globals.get(SYMBOL)
    if found is None:
        found = ir.GlobalVariable(builder.module, ir.ArrayType(_I64, WORDS), SYMBOL)
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
def load_at(typing_context: Any, address: Any) -> Any:
    """As `load`, the word at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), generate


@primitive
def store_at(typing_context: Any, address: Any, value: Any) -> Any:
    """As `store`, the word at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], _I64.as_pointer()), "seq_cst", 8)
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
            if portable():
                kind = ir.FunctionType(ir.IntType(32), [_I8_POINTER] * len(words))
                function = cgutils.get_or_insert_function(builder.module, kind, f"pthread_{name}")
                builder.call(function, [builder.bitcast(word_of(builder, _I64(i)), _I8_POINTER) for i in words])
            return context.get_dummy_value()

        return types.void(), generate

    return invoke


lock = _threading_call("mutex_lock", MUTEX)
unlock = _threading_call("mutex_unlock", MUTEX)
wait = _threading_call("cond_wait", CONDITION, MUTEX)
wake_all = _threading_call("cond_broadcast", CONDITION)


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
