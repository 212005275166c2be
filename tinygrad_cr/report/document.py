"""What every page has: a head that lets nothing be loaded, a title, sections, a footer; and the file that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tinygrad_cr.errors import RunError
from tinygrad_cr.report.html import Markup, tag
from tinygrad_cr.train.run import write_atomically

LIMIT = 3_000_000
"""Bytes of a page; a mail with it still arrives."""

FRAME, TEXT = 100_000, 30_000
"""Bytes of it that are kept for what all runs share, and for the tables and texts of each."""

GENERATOR = "tinygrad_cr report"
"""Marks a page as one of ours, which may be replaced."""

# The page says itself that it loads nothing and runs nothing, and the browser holds it to that.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, kind: str, summary: str, content: Markup) -> str:
    """A whole page.

    Args:
        title: its heading.
        kind: what it is a report on, in the title of the window.
        summary: a line below the heading.
        content: its sections.

    >>> "<title>digits-1: training report</title>" in document("digits-1", "training", "", tag("section"))
    True
    """
    header = tag("header", tag("h1", title), tag("p", summary, class_="summary"))
    footer = tag("footer", tag("p", f"Made by tinygrad_cr {_version()}."))
    body = tag("body", header, tag("main", content), footer)
    return f"<!DOCTYPE html>\n{tag('html', _head(f'{title}: {kind} report'), body, lang='en')}\n"


def sections(contents: Mapping[str, Markup], level: int = 2, prefix: str = "") -> list[Markup]:
    """Sections by their titles, each with a heading of this level that links can lead to.

    >>> sections({"The best": tag("p", "so")})
    ['<section aria-labelledby="the-best"><h2 id="the-best">The best</h2><p>so</p></section>']
    """
    found = []
    for title, content in contents.items():
        anchor = prefix + title.lower().replace(" ", "-")
        found.append(tag("section", tag(f"h{level}", title, id=anchor), content, aria_labelledby=anchor))
    return found


def refuse_foreign(path: Path) -> None:
    """Complain if a file that is none of our pages would be replaced.

    Raises:
        RunError: it would, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            ours = GENERATOR.encode() in file.read(1000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; choose another file with out") from None
    if not ours:
        raise RunError(f"{path} exists and is no report; nothing was written, choose another file with out")


def write_page(path: Path, content: str) -> Path:
    """Write a page, whole or not at all; where.

    Raises:
        RunError: it cannot be written.
    """
    try:
        write_atomically(path, content.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; choose another file with out") from None
    return path


def _head(title: str) -> Markup:
    style = resources.files("tinygrad_cr.report").joinpath("style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=GENERATOR),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # Without an icon of its own, a browser would ask the server for one.
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )


def _version() -> str:
    try:
        return version("tinygrad_cr")
    except PackageNotFoundError:
        return "from its source"
