"""Squares: as many rows as a vector has elements, transposed in registers, and what is done to them on the way."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..interface import NEGLIGIBLE
from .compiling import primitive
from .vectors import Vector

_I64 = ir.IntType(64)


class _Square(Vector):
    """Reads and writes rows of a square in the code of a primitive.

    masked: beyond `rows` and `columns` what is read is 0 and nothing is written; otherwise squares are whole, and
    neither is asked for.
    """

    def __init__(self, context: Any, builder: Any, dtype: Any, masked: bool, rows: Any, columns: Any) -> None:
        super().__init__(context, builder, dtype)
        self._masked, self._rows, self._inside = masked, rows, self.first(columns)

    def place(self, kind: Any, array: Any, start: Any) -> Any:
        """Of element `start` of an array."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return self.builder.gep(data, [start])

    def places(self, kind: Any, array: Any, start: Any, pitch: Any) -> list[Any]:
        """Of the first elements of all rows, `pitch` elements apart."""
        steps = [self.builder.add(start, self.builder.mul(pitch, _I64(k))) for k in range(self.lanes)]
        return [self.place(kind, array, step) for step in steps]

    def places_there(self, kind: Any, array: Any, start: Any, pitch: Any) -> list[Any]:
        """The same for `read` and `write`: rows that are not there have the place of the first one.

        A load of nothing takes 0.1 us where there is no memory, or where nobody has written to it yet.
        """
        first, *others = self.places(kind, array, start, pitch)
        if not self._masked:
            return [first, *others]
        return [first, *(self.builder.select(self._there(k), place, first) for k, place in enumerate(others, 1))]

    def read(self, place: Any, k: int) -> Any:
        """What is there of row k."""
        return self.load(place, self._mask(k))

    def write(self, value: Any, place: Any, k: int) -> None:
        """To what is there of row k."""
        self.store(value, place, self._mask(k))

    def _mask(self, k: int) -> Any:
        if not self._masked:
            return None
        return self.builder.select(self._there(k), self._inside, ir.Constant(self._inside.type, [0] * self.lanes))

    def _there(self, k: int) -> Any:
        return self.builder.icmp_signed("<", _I64(k), self._rows)


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
            read = [square.read(place, k) for k, place in enumerate(square.places_there(b, *args[:3]))]
            for value, place in zip(square.transposed(read), square.places(panel, *args[5:]), strict=True):
                square.store(value, place)
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
            scale = square.spread(factor)
            total_place = square.place(sums, total_data, total_start)
            total, gated = square.load(total_place), []
            places = zip(*(square.places_there(*own, start, row) for own in ((dy, above), (y, output))), strict=True)
            for k, (given, active) in enumerate(places):
                kept = builder.fcmp_ordered(">", square.read(active, k), square.zero)
                gated.append(builder.select(kept, builder.fmul(square.read(given, k), scale), square.zero))
                total = builder.fadd(total, gated[k])
            square.store(total, total_place)
            for value, place in zip(square.transposed(gated), square.places(panel, *target), strict=True):
                square.store(value, place)
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
            penalty, rate, momentum = (square.spread(value) for value in (penalty, rate, momentum))
            nesterov = builder.trunc(nesterov, ir.IntType(1))
            least = ir.Constant(square.type, [NEGLIGIBLE] * square.lanes)
            read = [square.load(place) for place in square.places(gradient, found, found_start, found_row)]
            own = square.places_there(weights, weights_data, start, row)
            speeds = square.places_there(velocity, velocity_data, start, row)
            for k, g in enumerate(square.transposed(read)):
                p = square.read(own[k], k)
                d = builder.fadd(g, builder.fmul(penalty, p))
                speed = builder.fadd(builder.fmul(momentum, square.read(speeds[k], k)), d)
                small = builder.fcmp_ordered("<=", square.absolute(speed), least)
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
