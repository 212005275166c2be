"""`SharedData`: a value that many tasks need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True)
class SharedData(Generic[V]):
    """Holds a value.

    >>> SharedData(3).value
    3
    """

    value: V
