"""The Python of the README and of some other pages runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/populations.md")
PROGRAMS = [
    (page, program)
    for page in PAGES
    for program in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_a_program_runs(page, program):
    exec(compile(program, page, "exec"), {})


def test_the_pages_have_programs():
    pages = [page for page, _ in PROGRAMS]
    assert [pages.count(page) for page in PAGES] == [4, 1]
