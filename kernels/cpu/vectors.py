"""Vectors: as many elements as a register holds, and the LLVM instructions on them that primitives are written in."""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from .compiling import primitive

_FEATURES = binding.get_host_cpu_features()
_X86 = binding.get_process_triple().startswith(("x86", "i"))

AVX512 = bool(_FEATURES.get("avx512f"))
VECTOR_BYTES = 64 if AVX512 else 32 if _FEATURES.get("avx") else 16
FUSED = bool(_FEATURES.get("fma")) or not _X86
"""Whether the processor multiplies and adds in one instruction, which rounds once."""
REGISTERS = 32 if AVX512 or not _X86 else 16

_I32, _I64, _FLAG = ir.IntType(32), ir.IntType(64), ir.IntType(1)


@primitive
def lanes_of(typing_context: Any, like: Any) -> Any:
    """How many elements of an array's dtype a vector holds. The compiler knows it; it does not know an itemsize."""
    lanes = VECTOR_BYTES * 8 // like.dtype.bitwidth
    return types.int64(like), lambda context, builder, signature, args: _I64(lanes)


class Vector:
    """A type of vectors, `size` bytes of elements of one dtype, and a writer of instructions on them.

    Places in memory are pointers of any type, aligned as an element is.
    """

    def __init__(self, context: Any, builder: Any, dtype: Any, size: int = VECTOR_BYTES) -> None:
        self.context, self.builder, self.bits = context, builder, dtype.bitwidth
        self.lanes = size * 8 // self.bits
        self.type = ir.VectorType(context.get_value_type(dtype), self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)

    def spread(self, value: Any) -> Any:
        """A vector whose elements are all the same."""
        nothing = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        one = self.builder.insert_element(nothing, value, _I32(0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes))

    def first(self, count: Any) -> Any:
        """A mask of the first `count` elements, all if there are no more."""
        numbers = ir.Constant(ir.VectorType(_I32, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.spread(self.builder.trunc(count, _I32)))

    def at(self, base: Any, j: int) -> Any:
        """The place of vector j, counted from `base`, a pointer to an element."""
        return self.builder.gep(base, [_I64(self.lanes * j)])

    def load(self, place: Any, mask: Any = None) -> Any:
        """A vector from memory; where a mask is not set, nothing is read, and there is 0."""
        place = self.builder.bitcast(place, self.type.as_pointer())
        if mask is None:
            return self.builder.load(place, align=self.bits // 8)
        return self._call("masked.load", ".p0", self.type, place, _I32(self.bits // 8), mask, self.zero)

    def store(self, value: Any, place: Any, mask: Any = None) -> None:
        """A vector to memory; where a mask is not set, nothing is written."""
        place = self.builder.bitcast(place, self.type.as_pointer())
        if mask is None:
            self.builder.store(value, place, align=self.bits // 8)
        else:
            self._call("masked.store", ".p0", ir.VoidType(), value, place, _I32(self.bits // 8), mask)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        """``total + a * b``, in one instruction where the processor has it."""
        if FUSED:
            return self._call("fma", "", self.type, a, b, total)
        return self.builder.fadd(total, self.builder.fmul(a, b))

    def absolute(self, value: Any) -> Any:
        """Without the sign."""
        return self._call("fabs", "", self.type, value)

    def transposed(self, rows: list[Any]) -> list[Any]:
        """The columns of a square of as many vectors as a vector has elements, in registers.

        In step d = 1, 2, 4, ... rows i and i + d exchange the elements in which their positions differ by bit d.
        """
        rows, d = list(rows), 1
        while d < self.lanes:
            upper = [k if not k & d else self.lanes + k - d for k in range(self.lanes)]
            lower = [k + d if not k & d else self.lanes + k for k in range(self.lanes)]
            for i in range(self.lanes):
                if not i & d:
                    pair = rows[i], rows[i + d]
                    for target, order in ((i, upper), (i + d, lower)):
                        numbers = ir.Constant(ir.VectorType(_I32, self.lanes), order)
                        rows[target] = self.builder.shuffle_vector(*pair, numbers)
            d *= 2
        return rows

    def _call(self, name: str, suffix: str, result: Any, *args: Any) -> Any:
        """One of LLVM's own functions on these vectors."""
        kind = ir.FunctionType(result, [value.type for value in args])
        name = f"llvm.{name}.v{self.lanes}f{self.bits}{suffix}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)
