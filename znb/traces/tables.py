"""What a trace tells, as tables that can be read where they are typed: lists whose ``repr`` is a table.

Invariants: at most ``ROWS_MAX`` rows are shown, and it is said how many are not; control characters are taken out.
Pure.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["ROWS_MAX", "Listing", "clean", "duration", "html_table", "signed", "text_table"]

T = TypeVar("T")

#: Rows of a table.
ROWS_MAX = 40
#: Characters of one cell of a table.
CELL_MAX = 80


def duration(nanoseconds: float) -> str:
    """Return a duration as people write it: ``1.23 s``, ``45.6 ms``, ``789 µs``."""
    for limit, unit in ((1e3, "ns"), (1e6, "µs"), (1e9, "ms")):
        if abs(nanoseconds) < limit * 0.9995:
            return f"{nanoseconds / limit * 1e3:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s" if abs(nanoseconds) < 999.5e9 else f"{nanoseconds / 1e9:.0f} s"


def signed(nanoseconds: float) -> str:
    """Return a difference of durations: ``+1.23 s``, ``-45.6 ms``."""
    return f"{'+' if nanoseconds > 0 else ''}{duration(nanoseconds)}"


def clean(text: str) -> str:
    """Return a text on one line, without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)


def _cell(text: str) -> str:
    text = clean(text)
    return text if len(text) <= CELL_MAX else text[: CELL_MAX - 1] + "…"


def text_table(heads: Sequence[str], rows: Iterable[Sequence[str]], count: int) -> str:
    """Return a table as text; heads that begin with ``>`` stand above columns of figures.

    Args:
        heads: Names of the columns.
        rows: Those that are shown.
        count: How many there are.
    """
    shown = [[_cell(text) for text in row] for row in rows]
    names = [head.lstrip(">") for head in heads]
    widths = [max(map(len, column)) for column in zip(names, *shown, strict=True)]
    lines = [
        "  ".join(
            f"{text:>{width}}" if head.startswith(">") else f"{text:{width}}"
            for text, head, width in zip(row, heads, widths, strict=True)
        ).rstrip()
        for row in (names, *shown)
    ]
    return "\n".join([*lines, *_left_out(count - len(shown))])


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]], count: int) -> str:
    """Return the same as HTML."""
    shown = list(rows)

    def line(tag: str, texts: Iterable[str]) -> str:
        sides = ("right" if head.startswith(">") else "left" for head in heads)
        cells = (
            f'<{tag} style="text-align:{side}">{html.escape(_cell(text))}</{tag}>'
            for side, text in zip(sides, texts, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line("td", row) for row in shown)
    more = "".join(f"<p>{text}</p>" for text in _left_out(count - len(shown)))
    top = line("th", (head.lstrip(">") for head in heads))
    return f"<table><thead>{top}</thead><tbody>{body}</tbody></table>{more}"


def _left_out(hidden: int) -> list[str]:
    return [f"… and {hidden:,} more"] if hidden > 0 else []


class Listing(list[T]):
    """A list that shows as a table.

    Subclasses say how: ``HEADS`` names the columns, ``row`` returns the texts of an item, ``EMPTY`` is shown for none,
    ``ROWS`` is how many are shown.
    """

    HEADS: tuple[str, ...] = ()
    EMPTY = "nothing"
    ROWS = ROWS_MAX

    def row(self, item: T) -> Sequence[str]:
        """Return the texts of a row."""
        raise NotImplementedError

    def text(self) -> str:
        """Return all of it as a table."""
        return text_table(self.HEADS, map(self.row, self), len(self))

    def __repr__(self) -> str:
        if not self:
            return self.EMPTY
        return text_table(self.HEADS, map(self.row, self[: self.ROWS]), len(self))

    def _repr_html_(self) -> str:
        if not self:
            return html.escape(self.EMPTY)
        return html_table(self.HEADS, map(self.row, self[: self.ROWS]), len(self))
