"""This checkout on the path of a process and of all that it starts: what is measured is what stands beside the script.

`tinygrad_cr` finds the kernels beside itself where it is not installed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def path() -> str:
    """What $PYTHONPATH is to be for a process that imports `tinygrad_cr` and `bench` from here."""
    inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(ROOT)]
    return os.pathsep.join([str(ROOT), *inherited])


def use() -> None:
    """Let this process and its children import `tinygrad_cr` and `bench` from here, installed or not."""
    if sys.path[:1] != [str(ROOT)]:
        sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = path()
