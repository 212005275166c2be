"""A search that is killed at any moment goes on to the result of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

PROGRAM = """
import sys
import numpy as np
from tinygrad_cr.data import Dataset
from tinygrad_cr.search import Choice, LogUniform, coarse_to_fine

def blobs(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 5)) + 1.2 * np.eye(3, 5)[y], y)

space = {"lr": LogUniform(1e-4, 1e3), "reg": LogUniform(1e-5, 1e-1), "hidden": Choice([4, 6]), "batch_size": 8}
print("ready", flush=True)
stages = [(40, 3), (40, 3)]
coarse_to_fine(blobs(240, 0), blobs(90, 1), space, stages=stages, test=blobs(90, 2), repeats=2, group_size=3,
               out=sys.argv[1], reporter=False)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, text=True)


def finish(folder: Path) -> None:
    """Run the program to its end, in this process."""
    exec(PROGRAM.replace("sys.argv[1]", repr(str(folder))), {})


def kill(folder: Path, lines: int, delay: float) -> bool:
    """Kill a search once its ledger has so many lines and some time has passed; whether it came to that."""
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()
    while process.poll() is None and len(ledger(folder)) < lines:
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.wait()
    process.stdout.close()
    return process.returncode == -signal.SIGKILL


def ledger(folder: Path) -> list[str]:
    path = folder / "trials.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def contents(folder: Path) -> dict[str, Any]:
    """Everything that a search left, but the time that it took; the ledger in order of stage and trial."""
    rows = [json.loads(line) for line in ledger(folder)]
    state = json.loads((folder / "search.json").read_text())
    for row in [*rows, state["winner"]["row"]]:
        del row["seconds"]
    arrays = {name: value.tobytes() for name, value in load_file(folder / "winner.safetensors").items()}
    files = sorted(path.name for path in folder.iterdir())
    rows.sort(key=lambda row: (row["stage"], row["trial"]))
    return {
        "rows": rows,
        "state": state,
        "arrays": arrays,
        "files": files,
    }


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_search_that_is_killed_again_and_again_loses_and_repeats_nothing(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    kills, kept = 0, 0
    for goal in sorted(chance.sample(range(80), 4)):
        kills += kill(killed, goal, chance.random() * 0.02)
        # What was written before the kill stays, line by line.
        assert len(ledger(killed)) >= kept
        kept = len(ledger(killed))
    finish(killed)
    assert kills >= 2, f"seed {seed}: the search was over before it could be killed"
    assert contents(killed) == contents(whole), f"seed {seed}"
