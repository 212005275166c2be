"""Kernels that others call by address: compiled once, where copies in every kernel would take a minute to compile.

Each is compiled, or taken from the cache, when a kernel for its dtype is: who computes in float32 waits for no other.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .board import word_of
from .compiling import before_kernels, prepare_kernels, primitive
from .threads import pool

_I64 = ir.IntType(64)


def publish(function: Any, addresses: dict[Any, int], pointers: int, numbers: int) -> None:
    """Leave the addresses of a kernel, one for each dtype, where kernels look for them, before there are any.

    addresses: for each dtype, a word of the board. The arguments are so many pointers, to numbers of that dtype or, the
    last of four, to words, then so many integers.
    """
    for number, word in addresses.items():
        kinds = [types.CPointer(number)] * min(pointers, 3) + [types.CPointer(types.int64)] * (pointers - 3)
        before_kernels(number, partial(_compile, function, types.void(*kinds, *[types.int64] * numbers), word))


def _compile(function: Any, signature: Any, word: int) -> None:
    function.compile(signature)
    found = function.overloads[signature.args]
    pool.board[word] = found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name)


def caller(addresses: dict[Any, int]) -> Any:
    """The call of what was published there: arrays, the position of the first element of each, and integers."""

    @primitive
    def invoke(typing_context: Any, arrays: Any, starts: Any, numbers: Any) -> Any:
        # A function that is no kernel may call it, too.
        prepare_kernels(arrays.types[0].dtype)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            given, places, rest = (cgutils.unpack_tuple(builder, arg) for arg in args)
            values = [
                builder.gep(context.make_array(kind)(context, builder, array).data, [place])
                for kind, array, place in zip(arrays.types, given, places, strict=True)
            ]
            values += rest
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
            address = builder.load(word_of(builder, _I64(addresses[arrays.types[0].dtype])))
            builder.call(builder.inttoptr(address, kind.as_pointer()), values)
            return context.get_dummy_value()

        integers = (types.UniTuple(types.int64, len(kind)) for kind in (starts, numbers))
        return types.void(arrays, *integers), generate

    return invoke


@primitive
def further(typing_context: Any, pointer: Any, elements: Any) -> Any:
    """A pointer so many elements further."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), generate
