"""Draws every schedule of docs/schedules.md.

python examples/schedules.py            # into docs/schedules/
python examples/schedules.py FOLDER
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tinygrad_cr import plots
from tinygrad_cr.schedules import (
    chain,
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    milestones,
    one_cycle,
    step_decay,
    warm_up,
)

STEPS = 300
PICTURES: dict[str, dict[str, Any]] = {
    "constant": {"constant(0.1)": constant(0.1)},
    "exponential": {
        "exponential(0.1, 0.8, steps_per_epoch=30)": exponential(0.1, 0.8, steps_per_epoch=30),
        "smooth=True": exponential(0.1, 0.8, steps_per_epoch=30, smooth=True),
    },
    "step_decay": {"step_decay(0.1, 0.5, every=100)": step_decay(0.1, 0.5, every=100)},
    "milestones": {"milestones(0.1, 0.2, at=[150, 225])": milestones(0.1, 0.2, at=[150, 225])},
    "cosine": {
        "cosine(0.1, steps=300)": cosine(0.1, steps=300),
        "cosine(0.1, steps=200, low=0.02)": cosine(0.1, steps=200, low=0.02),
    },
    "cosine_restarts": {
        "cosine_restarts(0.1, t_0=60)": cosine_restarts(0.1, t_0=60),
        "cosine_restarts(0.1, t_0=20, t_mult=2)": cosine_restarts(0.1, t_0=20, t_mult=2),
    },
    "cyclic": {
        "cyclic(0.1, up=30, low=0.01)": cyclic(0.1, up=30, low=0.01),
        'mode="triangular2"': cyclic(0.1, up=30, low=0.01, mode="triangular2"),
        'mode="exp_range", gamma=0.99': cyclic(0.1, up=30, low=0.01, mode="exp_range", gamma=0.99),
    },
    "one_cycle": {
        "one_cycle(0.1, steps=300)": one_cycle(0.1, steps=300),
        'anneal="linear"': one_cycle(0.1, steps=300, anneal="linear"),
        'anneal="linear", three_phase=True': one_cycle(0.1, steps=300, anneal="linear", three_phase=True),
    },
    "warm_up": {
        "warm_up(cosine(0.1, steps=260), steps=40)": warm_up(cosine(0.1, steps=260), steps=40),
        "warm_up(constant(0.05), steps=100)": warm_up(constant(0.05), steps=100),
    },
    "chain": {
        "chain([cosine_restarts(0.1, 50), cosine(0.03, 150)], [150])": chain(
            [cosine_restarts(0.1, t_0=50), cosine(0.03, steps=150)], starts=[150]
        )
    },
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, schedules in PICTURES.items():
        drawn = BytesIO()
        plots.schedules(schedules, STEPS).figure.savefig(drawn, format="png", dpi=100)
        # A few colours are all that a picture has; a palette makes the file a third as large.
        Image.open(drawn).convert("RGB").quantize(48).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "schedules")
