"""Memory of kernels: views, room on the stack, and cache lines that are asked for before they are needed.

In a step of a small network a tenth of the time went into calls of the allocator and of numba's own library for
arrays of a few kilobytes. Up to `STACK_BYTES` these take neither. Another tenth went into counting references.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed
from numba.np.arrayobj import populate_array

from ..aligned import LINE_BYTES
from ..interface import Array
from .compiling import helper, primitive

STACK_BYTES = 1 << 13
"""How large an array is that `on_stack` makes: enough for panels of ten columns, and for masks of up to 4,088."""


def _contiguous(context: Any, builder: Any, kind: Any, data: Any, shape: list[Any], owner: Any = None) -> Any:
    """An array, contiguous in C's order, of memory that belongs to another array, or to none."""
    array, item = context.make_array(kind)(context, builder), context.get_data_type(kind.dtype)
    strides = [context.get_constant(types.intp, context.get_abi_sizeof(item))]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(array, data, shape, strides, strides[-1], owner)
    return array._getvalue()


@primitive
def shaped(typing_context: Any, a: Any, shape: Any) -> Any:
    """A contiguous array in another shape, of as many elements or fewer; `reshape` calls a library to do it."""
    if a.layout != "C":
        raise TypingError(f"a view of another shape wants an array that is contiguous in C's order, got {a}")
    kind = types.Array(a.dtype, len(shape), "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, args[0])
        lengths = cgutils.unpack_tuple(builder, args[1])
        array = _contiguous(context, builder, kind, source.data, lengths, source.meminfo)
        return impl_ret_borrowed(context, builder, kind, array)

    return kind(a, types.UniTuple(types.int64, len(shape))), generate


@helper
def flat(a: Array) -> Array:
    """A contiguous array as a vector."""
    return shaped(a, (a.size,))


@primitive
def borrowed(typing_context: Any, a: Any) -> Any:
    """The array that a kernel was given, without its owner: the caller holds it, and views of it count no references.

    Each count is an atomic instruction; there were about 350 in a step of a small network, a tenth of its time.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()

    return a(a), generate


@primitive
def on_stack(typing_context: Any, like: Any) -> Any:
    """`STACK_BYTES` of the calling function's own frame, a vector that begins on a cache line; like: array or dtype."""
    kind = types.Array(like.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        item = context.get_data_type(kind.dtype)
        size = STACK_BYTES // context.get_abi_sizeof(item)
        # Not `alloca_once`: it fills the memory with zeros each time.
        with builder.goto_entry_block():
            space = builder.alloca(item, ir.Constant(ir.IntType(64), size))
            space.align = LINE_BYTES
        return _contiguous(context, builder, kind, space, [context.get_constant(types.intp, size)])

    return kind(like), generate


@helper
def scratch(size: int, room: Array) -> Array:
    """An uninitialised vector that begins on a cache line: of `room`, which `on_stack` made, if that is enough."""
    if size <= room.size:
        return room[:size]
    per_line = LINE_BYTES // room.itemsize
    space = np.empty(size + per_line, room.dtype)
    skipped = -(space.ctypes.data // room.itemsize) % per_line
    return space[skipped : skipped + size]


@primitive
def keep(typing_context: Any, a: Any) -> Any:
    """Do nothing. An array lives until its last use; a job that `bind` made knows it by address, and is no use."""
    return types.void(a), lambda context, builder, signature, args: context.get_dummy_value()


@primitive
def prefetch(typing_context: Any, a: Any, i: Any, offset: Any) -> Any:
    """Ask for the cache line so many bytes behind element i of an array, and do not wait for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        element = builder.bitcast(builder.gep(data, [args[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, into_every_cache, data_not_code = number(0), number(3), number(1)
        builder.call(hint, [builder.gep(element, [args[2]]), read, into_every_cache, data_not_code])
        return context.get_dummy_value()

    return types.void(a, types.int64, types.int64), generate
