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
    """An element. Attributes that are None or False are left out; ``class_`` and ``http_equiv`` are what they look like.

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


def table(caption: str, head: Sequence[Cell], rows: Iterable[Sequence[Cell]], **attributes: str | None) -> Markup:
    """A table whose first column names its rows, in a box of its own that scrolls where it is too narrow.

    >>> table("ages", ["who", "age"], [["Ada", "36"]]).count("scope=")
    3
    """
    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    whole = tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", *body), **attributes)
    return scroll(caption, whole)


def scroll(label: str, content: Markup) -> Markup:
    """A box that scrolls by itself, by mouse and by keyboard, so that the page never has to.

    >>> scroll("ages", tag("table"))
    '<div class="scroll" role="region" aria-label="ages" tabindex="0"><table></table></div>'
    """
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)
