"""The CUDA C++ of the families as text, and how it is compiled. Needs no GPU and no CuPy."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

OPTIONS = ("-std=c++17", "-fmad=false")
"""Without contraction a formula rounds alike wherever the compiler puts it: on 128-bit and on single loads, in the
launch of one network and of many, with norms and without. The kernels wait for memory, not for arithmetic."""


@cache
def source(family: str) -> str:
    """The CUDA C++ of a family, with what it includes.

    CuPy keeps compiled code under a key made of the text it is given: a file included by the compiler could change
    unnoticed.

    >>> '#include "' in source("affine")
    False
    """
    folder = Path(__file__).parent
    included: set[str] = set()

    def expanded(name: str) -> str:
        if name in included:
            return ""
        included.add(name)
        return re.sub(r'#include "(.*)"\n', lambda match: expanded(match[1]), (folder / name).read_text("utf-8"))

    return expanded(f"{family}.cu")
