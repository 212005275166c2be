"""The README's Python runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.split("\n", 1)[0])
def test_a_program_of_the_readme_runs(program):
    exec(compile(program, str(README), "exec"), {})


def test_the_readme_has_programs():
    assert len(PROGRAMS) == 4
