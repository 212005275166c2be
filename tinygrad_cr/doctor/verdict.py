"""What an examination says: `Check`, one finding, and `Report`, all of them."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1
"""Of `Report.to_dict`."""

_WIDTHS = (15, 44, 40)
_COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red", "SKIP": "dim"}


class Status(StrEnum):
    """PASS: as it should be. WARN: probably not what you want. FAIL: will not work. SKIP: could not be checked.

    >>> Status("FAIL").severity
    3
    """

    SKIP = "SKIP"
    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"

    @property
    def severity(self) -> int:
        """0 for SKIP to 3 for FAIL."""
        return list(Status).index(self)


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: of the check, such as "initial loss".
        status: how it ended.
        measured, expected: a short phrase each.
        advice: what to do, or what the next check could do nothing without; empty for most that pass.
        values: the numbers behind `measured` by name, as JSON can hold them: NaN and inf became None.

    >>> Check("inputs", Status.PASS, "mean 0.0", "mean near 0", values={"mean": np.float32(0.0)}).values
    {'mean': 0.0}
    """

    name: str
    status: Status
    measured: str
    expected: str
    advice: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", plain(self.values))


@dataclass(frozen=True)
class Report:
    """The findings of a preflight, in the order of the lecture.

    ``print(report)`` shows a table, and so does rich, in colour. ``report["overfit"]`` is one check.

    >>> report = Report([Check("inputs", Status.PASS, "mean 0", "mean near 0"),
    ...                  Check("labels", Status.FAIL, "labels 1 to 3", "0 to 2", "subtract 1")])
    >>> report.ok, report.worst.value, report["labels"].advice
    (False, 'FAIL', 'subtract 1')
    """

    checks: Sequence[Check]

    def __post_init__(self) -> None:
        object.__setattr__(self, "checks", list(self.checks))

    @property
    def ok(self) -> bool:
        """No check failed."""
        return self.worst is not Status.FAIL

    @property
    def worst(self) -> Status:
        """The most severe status of all."""
        return max((check.status for check in self.checks), key=lambda status: status.severity, default=Status.SKIP)

    @property
    def suggested_lr(self) -> float | None:
        """The learning rate to begin with; None where it could not be found."""
        for check in self.checks:
            if check.values.get("suggestion") is not None:
                return float(check.values["suggestion"])
        return None

    def __getitem__(self, name: str) -> Check:
        """The check of that name; `OptionError` names the nearest if there is none."""
        for check in self.checks:
            if check.name == name:
                return check
        raise unknown_name("check", name, [check.name for check in self.checks])

    def __str__(self) -> str:
        lines = _row("", "check", "measured", "expected")
        for check in self.checks:
            lines += _row(check.status.value, check.name, check.measured, check.expected)
            if check.advice:
                lines += textwrap.wrap(check.advice, sum(_WIDTHS), initial_indent=" " * 6, subsequent_indent=" " * 6)
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """How many checks ended how, and the learning rate to try.

        >>> Report([Check("inputs", Status.PASS, "", "")]).summary()
        '1 PASS'
        """
        counts = {status: sum(check.status is status for check in self.checks) for status in reversed(Status)}
        text = ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)
        return text if self.suggested_lr is None else f"{text}; suggested learning rate {self.suggested_lr:.2g}"

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table("", "check", "measured", "expected", "what to do", caption=self.summary())
        for check in self.checks:
            status = Text(check.status.value, style=_COLOURS[check.status.value])
            table.add_row(status, *map(Text, (check.name, check.measured, check.expected, check.advice)))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and finite numbers.

        >>> Report([]).to_dict()
        {'format': 1, 'ok': True, 'suggested_lr': None, 'checks': []}
        """
        checks = [{**vars(check), "status": check.status.value, "values": dict(check.values)} for check in self.checks]
        return {"format": FORMAT, "ok": self.ok, "suggested_lr": self.suggested_lr, "checks": checks}

    def to_json(self) -> str:
        """The JSON text of `to_dict`."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Report:
        """The report that `to_dict` was called on.

        Raises:
            DataError: something else, or a report in another format.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            given = content.get("format") if isinstance(content, Mapping) else type(content).__name__
            raise DataError(f"no preflight report of format {FORMAT}: got {given!r}; run the preflight again")
        try:
            return cls([Check(**{**check, "status": Status(check["status"])}) for check in content["checks"]])
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"a damaged preflight report ({problem}); run the preflight again") from None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: arrays become lists, NaN and inf become None.

    >>> plain({"a": np.array([1.0, np.inf])})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(status: str, *cells: str) -> list[str]:
    """One row of a plain table, as lines: cells are wrapped inside their columns."""
    columns: Iterable[list[str]] = [textwrap.wrap(cell, width) for cell, width in zip(cells, _WIDTHS, strict=True)]
    padded = [[status], *columns]
    lines = []
    for i in range(max(map(len, padded))):
        parts = [column[i] if i < len(column) else "" for column in padded]
        lines.append("  ".join(part.ljust(width) for part, width in zip(parts, (4, *_WIDTHS), strict=True)).rstrip())
    return lines
