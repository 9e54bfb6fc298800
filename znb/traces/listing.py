"""What is asked of a trace, as people read it: lists that show themselves as tables, and durations in words.

Pure.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import ClassVar, TypeVar

__all__ = ["Listing", "as_html", "duration", "in_columns", "printable"]

T = TypeVar("T")

#: Lines of a list that are shown.
LINES_MAX = 30


def duration(nanoseconds: float) -> str:
    """Return a duration as people write it: ``1.23 s``, ``45.6 ms``, ``789 µs``."""
    for limit, unit in ((1e3, "ns"), (1e6, "µs"), (1e9, "ms")):
        if abs(nanoseconds) < limit * 0.9995:
            return f"{nanoseconds / limit * 1e3:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s" if abs(nanoseconds) < 999.5e9 else f"{nanoseconds / 1e9:.0f} s"


def printable(text: str) -> str:
    """Return a text without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)


def in_columns(head: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> str:
    """Return rows below a head: the first column to the left, the others to the right; says what is left out.

    Example:
        >>> print(in_columns(("name", "self"), [("load", "1 ms"), ("parse", "20 ms")], 3))
        name    self
        load    1 ms
        parse  20 ms
        … 1 more
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "  ".join(
            f"{cell:<{width}}" if number == 0 else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*shown, *([f"… {total - len(rows)} more"] if total > len(rows) else [])])


def as_html(head: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> str:
    """Return the same as HTML, for notebooks."""

    def line(tag: str, texts: Sequence[str]) -> str:
        sides = ("left", *["right"] * (len(head) - 1))
        cells = (
            f'<{tag} style="text-align:{side}">{html.escape(text)}</{tag}>'
            for side, text in zip(sides, texts, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    more = f"<p>… {total - len(rows)} more</p>" if total > len(rows) else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>{more}"


class Listing(list[T]):
    """A list that shows itself as a table."""

    head: ClassVar[tuple[str, ...]] = ()
    none: ClassVar[str] = "(none)"
    lines: ClassVar[int] = LINES_MAX

    def cells(self, item: T) -> tuple[str, ...]:
        """Return an item's line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return (
            in_columns(self.head, [self.cells(item) for item in self[: self.lines]], len(self)) if self else self.none
        )

    def _repr_html_(self) -> str | None:
        if not self or not self.head:
            return None  # notebooks show the text then
        return as_html(self.head, [self.cells(item) for item in self[: self.lines]], len(self))
