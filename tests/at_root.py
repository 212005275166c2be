"""Makes `bench` importable, which is no part of the package: import this before it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    # Behind everything else, so that an installed package is what is tested.
    sys.path.append(str(ROOT))
