"""HTML from functions: whatever is not markup already is escaped, so no name or path can become a tag."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = {"img", "link", "meta"}
"""Elements that have no end."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = Markup | str | int | float | None
Cell = Markup | str


def tag(element: str, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """An element. Attributes that are None or False are left out; ``class_`` means class, ``http_equiv`` http-equiv.

    >>> tag("p", "1 < 2 ", tag("b", "and"), class_="sum")
    '<p class="sum">1 &lt; 2 <b>and</b></p>'
    """
    words = [element]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        words.append(name if value is True else f'{name}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if element in VOID else f"{start}{join(children)}</{element}>")


def join(children: Iterable[Child]) -> Markup:
    """Pieces one after another.

    >>> join(["<", tag("i", "x"), None])
    '&lt;<i>x</i>'
    """
    return Markup(
        "".join(c if isinstance(c, Markup) else html.escape(str(c), quote=False) for c in children if c is not None)
    )


def table(caption: str, head: Sequence[Cell], rows: Iterable[Sequence[Cell]], *, class_: str | None = None) -> Markup:
    """A table that on a narrow screen becomes a list: the name of a column then stands before each of its cells.

    The roles say that it is a table, which browsers forget of one that is displayed as a list.

    >>> table("ages", ["who", "age"], [["Ada", "36"]]).count('role="cell"')
    2
    """
    names = tag("tr", *(tag("th", cell, scope="col", role="columnheader") for cell in head), role="row")
    body = (
        tag("tr", *(tag("td", c, role="cell", data_label=h) for h, c in zip(head, row, strict=True)), role="row")
        for row in rows
    )
    parts = (tag("thead", names, role="rowgroup"), tag("tbody", *body, role="rowgroup"))
    return tag("table", tag("caption", caption), *parts, role="table", class_=f"list {class_ or ''}".strip())


def numbers(caption: str, head: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> Markup:
    """A table of numbers that are compared down a column: on a narrow screen it scrolls, and stays a table.

    >>> numbers("ages", ["who", "age"], [["Ada", "36"]]).count('scope="row"')
    1
    """
    names = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = (tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    parts = (tag("thead", names), tag("tbody", *body))
    return scroll(caption, tag("table", tag("caption", caption), *parts, class_="numbers"))


def scroll(label: str, content: Markup) -> Markup:
    """A box that scrolls by itself, by mouse and by keyboard, so that the page never has to.

    >>> scroll("ages", tag("table"))
    '<div class="scroll" role="region" aria-label="ages" tabindex="0"><table></table></div>'
    """
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)
