"""Squares: as many rows as a vector has elements, transposed in registers, and what is done to them on the way."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..interface import NEGLIGIBLE
from .compiling import primitive
from .tile import VECTOR_BYTES

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """A vector whose elements are all the same."""
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(nothing, value, _I32(0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def masked_load(builder: Any, vector: Any, bits: int, place: Any, mask: Any) -> Any:
    """A vector from memory; where the mask is not set, nothing is read, and there is 0."""
    lanes, pointer = vector.count, vector.as_pointer()
    kind = ir.FunctionType(vector, [pointer, _I32, ir.VectorType(ir.IntType(1), lanes), vector])
    load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{lanes}f{bits}.p0")
    zero = ir.Constant(vector, [0.0] * lanes)
    return builder.call(load, [builder.bitcast(place, pointer), _I32(bits // 8), mask, zero])


def first_lanes(builder: Any, lanes: int, count: Any) -> Any:
    """A mask of the first `count` elements of a vector, all if it has no more."""
    numbers = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, spread(builder, builder.trunc(count, _I32), lanes))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of a square of as many vectors as a vector has elements, in registers.

    In step d = 1, 2, 4, ... rows i and i + d exchange the elements in which their positions differ by bit d.
    """
    lanes, rows, d = len(rows), list(rows), 1
    while d < lanes:
        upper = [k if not k & d else lanes + k - d for k in range(lanes)]
        lower = [k + d if not k & d else lanes + k for k in range(lanes)]
        for i in range(lanes):
            if not i & d:
                pair = rows[i], rows[i + d]
                for target, order in ((i, upper), (i + d, lower)):
                    rows[target] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_I32, lanes), order))
        d *= 2
    return rows


class _Square:
    """Reads and writes squares in the code of a primitive.

    masked: beyond `rows` and `columns` what is read is 0 and nothing is written; otherwise squares are whole, and
    neither is asked for.
    """

    def __init__(self, context: Any, builder: Any, dtype: Any, masked: bool, rows: Any, columns: Any) -> None:
        self.context, self.builder, self.bits, self.masked = context, builder, dtype.bitwidth, masked
        self.lanes = VECTOR_BYTES * 8 // self.bits
        self.vector = ir.VectorType(context.get_value_type(dtype), self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)
        self.rows, self.inside = rows, first_lanes(builder, self.lanes, columns)

    def place(self, kind: Any, array: Any, start: Any) -> Any:
        """A pointer to the vector that begins with element `start`."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return self.builder.bitcast(self.builder.gep(data, [start]), self.vector.as_pointer())

    def places(self, kind: Any, array: Any, start: Any, pitch: Any) -> list[Any]:
        """Pointers to the first elements of all rows, `pitch` elements apart."""
        steps = [self.builder.add(start, self.builder.mul(pitch, _I64(k))) for k in range(self.lanes)]
        return [self.place(kind, array, step) for step in steps]

    def read_all(self, place: Any) -> Any:
        """A whole row, in memory that is there whatever is in it."""
        return self.builder.load(place, align=self.bits // 8)

    def write_all(self, value: Any, place: Any) -> None:
        """A whole row, to memory that is there."""
        self.builder.store(value, place, align=self.bits // 8)

    def read(self, place: Any, k: int) -> Any:
        """What is there of row k."""
        if self.masked:
            return masked_load(self.builder, self.vector, self.bits, place, self._mask(k))
        return self.read_all(place)

    def write(self, value: Any, place: Any, k: int) -> None:
        """To what is there of row k."""
        if not self.masked:
            self.write_all(value, place)
            return
        mask, name = self._mask(k), f"llvm.masked.store.v{self.lanes}f{self.bits}.p0"
        kind = ir.FunctionType(ir.VoidType(), [self.vector, place.type, _I32, mask.type])
        store = cgutils.get_or_insert_function(self.builder.module, kind, name)
        self.builder.call(store, [value, place, _I32(self.bits // 8), mask])

    def _mask(self, k: int) -> Any:
        there = self.builder.icmp_signed("<", _I64(k), self.rows)
        return self.builder.select(there, self.inside, ir.Constant(self.inside.type, [0] * self.lanes))


def _make_transposition(masked: bool) -> Any:
    """The function that transposes a square, see `_Square`, and writes a whole one."""

    @primitive
    def transpose(
        typing_context: Any,
        b: Any,
        b_start: Any,
        b_row: Any,
        rows: Any,
        columns: Any,
        panel: Any,
        panel_start: Any,
        pitch: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            square = _Square(context, builder, b.dtype, masked, args[3], args[4])
            read = [square.read(place, k) for k, place in enumerate(square.places(b, *args[:3]))]
            for value, place in zip(_transposed(builder, read), square.places(panel, *args[5:]), strict=True):
                square.write_all(value, place)
            return context.get_dummy_value()

        n = types.int64
        return types.void(b, n, n, n, n, panel, n, n), generate

    return transpose


def _make_gate(masked: bool) -> Any:
    """The function that transposes a square of ``dy * factor where y > 0`` and adds its rows to `sums`, one by one."""

    @primitive
    def gate(
        typing_context: Any,
        dy: Any,
        y: Any,
        factor: Any,
        start: Any,
        row: Any,
        rows: Any,
        columns: Any,
        sums: Any,
        sums_start: Any,
        panel: Any,
        panel_start: Any,
        pitch: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            above, output, factor, start, row, rows, columns, total_data, total_start, *target = args
            square = _Square(context, builder, dy.dtype, masked, rows, columns)
            scale = spread(builder, factor, square.lanes)
            total_place = square.place(sums, total_data, total_start)
            total, gated = square.read_all(total_place), []
            places = zip(square.places(dy, above, start, row), square.places(y, output, start, row), strict=True)
            for k, (given, active) in enumerate(places):
                kept = builder.fcmp_ordered(">", square.read(active, k), square.zero)
                gated.append(builder.select(kept, builder.fmul(square.read(given, k), scale), square.zero))
                total = builder.fadd(total, gated[k])
            square.write_all(total, total_place)
            for value, place in zip(_transposed(builder, gated), square.places(panel, *target), strict=True):
                square.write_all(value, place)
            return context.get_dummy_value()

        n = types.int64
        return types.void(dy, y, dy.dtype, n, n, n, n, sums, n, panel, n, n), generate

    return gate


def _make_update(masked: bool) -> Any:
    """The function that updates a square of weights by its transposed gradient, as `updates.step` does with momentum.

    The gradient is read whole, whatever is in the memory beyond what is there of the square.
    """

    @primitive
    def update(
        typing_context: Any,
        gradient: Any,
        gradient_start: Any,
        gradient_row: Any,
        weights: Any,
        velocity: Any,
        start: Any,
        row: Any,
        rows: Any,
        columns: Any,
        rates: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found, found_start, found_row, weights_data, velocity_data, start, row, rows, columns, rates = args
            square = _Square(context, builder, weights.dtype, masked, rows, columns)
            penalty, rate, momentum, nesterov = cgutils.unpack_tuple(builder, rates)
            penalty, rate, momentum = (spread(builder, value, square.lanes) for value in (penalty, rate, momentum))
            nesterov = builder.trunc(nesterov, ir.IntType(1))
            least = ir.Constant(square.vector, [NEGLIGIBLE] * square.lanes)
            absolute = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(square.vector, [square.vector]),
                f"llvm.fabs.v{square.lanes}f{square.bits}",
            )
            read = [square.read_all(place) for place in square.places(gradient, found, found_start, found_row)]
            own = square.places(weights, weights_data, start, row)
            speeds = square.places(velocity, velocity_data, start, row)
            for k, g in enumerate(_transposed(builder, read)):
                p = square.read(own[k], k)
                d = builder.fadd(g, builder.fmul(penalty, p))
                speed = builder.fadd(builder.fmul(momentum, square.read(speeds[k], k)), d)
                small = builder.fcmp_ordered("<=", builder.call(absolute, [speed]), least)
                speed = builder.select(small, square.zero, speed)
                square.write(speed, speeds[k], k)
                ahead = builder.fadd(d, builder.fmul(momentum, speed))
                move = builder.select(nesterov, ahead, speed)
                square.write(builder.fsub(p, builder.fmul(rate, move)), own[k], k)
            return context.get_dummy_value()

        n, number = types.int64, weights.dtype
        numbers = types.Tuple((number, number, number, types.boolean))
        return types.void(gradient, n, n, weights, velocity, n, n, n, n, numbers), generate

    return update


transpose_square, transpose_some = _make_transposition(masked=False), _make_transposition(masked=True)
gate_square, gate_some = _make_gate(masked=False), _make_gate(masked=True)
update_square, update_some = _make_update(masked=False), _make_update(masked=True)
