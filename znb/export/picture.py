"""A flame graph as SVG: time from left to right, callers above callees, a colour for each process.

What saved notebooks show on GitHub and nbviewer, so: no script, no style sheet, no font but the reader's. Spans
narrower than a third of a pixel are drawn together. Invariants: the picture is well-formed XML whatever the names hold;
it has at most
``RECTS_MAX`` rectangles and ``ROWS_MAX`` rows, and says what it left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from znb.spans.table import CANCELLED, ERROR, LOST
from znb.traces.analysis import failures
from znb.traces.listing import duration
from znb.traces.model import TraceData

__all__ = ["flame_svg", "write_svg"]

#: Pixels: the picture's width, a row's height, the margin.
WIDTH, ROW, MARGIN = 960, 18, 8
#: Rectangles of one picture, about 300 kB.
RECTS_MAX = 2000
#: Rows of one picture.
ROWS_MAX = 60
#: Pixels below which neighbours are drawn together.
MERGE_BELOW = 0.34
#: Pixels of a letter, nearly.
LETTER = 6.3
#: A colour for each process in turn: light enough for black text, told apart by the colour blind (after Okabe and Ito).
COLOURS: Final = ("#f6c177", "#9ccfd8", "#c4e3a5", "#e0b8e6", "#ffd6a5", "#a8c5f0", "#f2b8b5", "#d3d3a4")
#: Failed spans.
FAILED_FILL: Final = "#e5534b"
#: Cancelled ones, with a dashed edge.
CANCELLED_FILL: Final = "#d8d8d8"
#: Characters that XML 1.0 has not.
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _Rect(NamedTuple):
    row: int
    level: int
    x: float
    width: float
    merged: int


def flame_svg(data: TraceData, title: str = "") -> str:
    """Return the picture."""
    rects, levels, hidden = _layout(data)
    height = 2 * MARGIN + ROW * (levels + 3)
    legend = _legend(data, MARGIN + ROW * (levels + 2))
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" style="max-width:100%;height:auto"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui,sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 11}" font-weight="bold">{_text(_headline(data, title, hidden))}</text>',
        *_scale(data, levels),
        *(_draw(data, rect) for rect in rects),
        *legend,
        "</svg>",
    ]
    return "".join(parts)


def write_svg(data: TraceData, title: str) -> Iterator[bytes]:
    """Yield the file."""
    yield b'<?xml version="1.0" encoding="UTF-8"?>\n'
    yield flame_svg(data, title).encode()


def _layout(data: TraceData) -> tuple[list[_Rect], int, int]:
    """Return rectangles, the number of levels, and how many spans found no room."""
    table = data.table
    scale = (WIDTH - 2 * MARGIN) / max(1, data.end_ns - data.start_ns)
    taken: list[int] = []  # by level: until when it is taken
    level_of: dict[int, int] = {}
    rects: list[_Rect] = []
    last: dict[int, int] = {}  # by level: its last rectangle
    hidden = 0
    for row in sorted(range(len(data)), key=lambda row: (table.start_ns[row], -data.end(row))):
        start, end = table.start_ns[row], data.end(row)
        level = level_of.get(data.parent[row], -1) + 1
        while level < len(taken) and taken[level] > start:
            level += 1
        if level >= ROWS_MAX:
            hidden += 1
            continue
        taken += [0] * (level + 1 - len(taken))
        level_of[row], taken[level] = level, end
        x, width = MARGIN + (start - data.start_ns) * scale, (end - start) * scale
        before = last.get(level)
        if before is not None and width < MERGE_BELOW and x - (rects[before].x + rects[before].width) < MERGE_BELOW:
            known = rects[before]
            if known.merged or known.width < MERGE_BELOW:
                rects[before] = known._replace(width=max(known.width, x + width - known.x), merged=known.merged + 1)
                continue
        if len(rects) >= RECTS_MAX:
            hidden += 1
            continue
        last[level] = len(rects)
        rects.append(_Rect(row, level, x, width, 0))
    return rects, len(taken), hidden


def _draw(data: TraceData, rect: _Rect) -> str:
    table, row = data.table, rect.row
    failed = table.status[row] in {ERROR, LOST}
    process = table.threads[table.thread[row]][0]
    cancelled = table.status[row] == CANCELLED
    fill = FAILED_FILL if failed else CANCELLED_FILL if cancelled else COLOURS[process % len(COLOURS)]
    name = _text(data.name(row))
    took = duration(data.end(row) - table.start_ns[row])
    tip = f"{name} · {took} · {_text(table.processes[process].label)}"
    if rect.merged:
        tip = f"{rect.merged + 1} spans, the first: {tip}"
    if table.status[row]:
        tip += f" · {data.status(row)}"
    y = MARGIN + ROW * (rect.level + 2)
    width = max(rect.width, MERGE_BELOW)
    dashes = "" if table.end_ns[row] and not cancelled else ' stroke="#555" stroke-dasharray="3 2"'
    shape = f'<rect x="{rect.x:.2f}" y="{y}" width="{width:.2f}" height="{ROW - 1}" fill="{fill}"{dashes}>'
    found = f"{shape}<title>{tip}</title></rect>"
    letters = int((rect.width - 6) / LETTER)
    if letters > 2:
        full = data.name(row)
        if table.status[row] in {CANCELLED, LOST}:
            full += f" ({data.status(row)})"
        shown = full if len(full) <= letters else full[: letters - 1] + "…"
        colour = ' fill="#fff"' if failed else ""
        found += f'<text x="{rect.x + 3:.2f}" y="{y + 12}" pointer-events="none"{colour}>{_text(shown)}</text>'
    return found


def _scale(data: TraceData, levels: int) -> Iterator[str]:
    """Yield the time scale."""
    for tenth in range(0, 11, 2):
        x = MARGIN + (WIDTH - 2 * MARGIN) * tenth / 10
        anchor = "start" if tenth == 0 else "end" if tenth == 10 else "middle"
        text = duration((data.end_ns - data.start_ns) * tenth / 10)
        bottom = MARGIN + ROW * (levels + 2)
        yield f'<path d="M{x:.1f} {MARGIN + 2 * ROW - 4}V{bottom}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{MARGIN + ROW + 11}" fill="#666" text-anchor="{anchor}">{text}</text>'


def _legend(data: TraceData, y: int) -> Iterator[str]:
    x = float(MARGIN)
    for number, process in enumerate(data.table.processes):
        label = process.label
        if x + 24 + len(label) * LETTER > WIDTH - 60:
            yield f'<text x="{x:.0f}" y="{y + 15}" fill="#666">…</text>'
            return
        yield f'<rect x="{x:.0f}" y="{y + 6}" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>'
        yield f'<text x="{x + 14:.0f}" y="{y + 15}">{_text(label)}</text>'
        x += 24 + len(label) * LETTER


def _headline(data: TraceData, title: str, hidden: int) -> str:
    failed, lost = len(failures(data)), data.table.status.count(LOST)
    parts = [
        title or (data.name(data.roots[0]) if data.roots else "empty trace"),
        duration(data.end_ns - data.start_ns),
    ]
    parts.append(f"{len(data)} span{'s' * (len(data) != 1)}")
    if failed:
        parts.append(f"{failed} failed")
    for count, what in ((lost, "lost"), (data.table.status.count(CANCELLED), "cancelled")):
        if count:
            parts.append(f"{count} {what}")
    if hidden:
        parts.append(f"{hidden} not drawn")
    if data.notes:
        parts.append(data.notes[0] if len(data.notes) == 1 else f"{len(data.notes)} notes")
    return " · ".join(parts)


def _text(text: str) -> str:
    return escape(_ILLEGAL.sub("\ufffd", text), {'"': "&quot;"})
