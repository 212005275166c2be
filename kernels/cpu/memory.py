"""Memory that begins on a cache line, and memory that is asked for before it is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..interface import Array
from .compiling import helper, primitive

LINE_BYTES = 64


@helper
def scratch(size: int, like: Array) -> Array:
    """An uninitialised vector that begins on a cache line."""
    per_line = LINE_BYTES // like.itemsize
    space = np.empty(size + per_line, like.dtype)
    skipped = -(space.ctypes.data // like.itemsize) % per_line
    return space[skipped : skipped + size]


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
