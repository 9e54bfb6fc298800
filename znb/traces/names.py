"""Tracebacks as people know them: cells by their numbers, processes that the way led through by a line of their own.

Python names a cell by a temporary path, ``/tmp/ipykernel_4517/1952506428.py``, and a traceback that crossed processes
has a frame for each hop, ``File "<w1>", line 1, in remote``. Here these become ``File "Cell In[3]"`` and ``on w1``.

Invariants: what is not known stays as it is. Pure, but for what the process says of its cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from znb.spans import SpanTable
from znb.spans.samples import SamplePart
from znb.spans.table import Event

__all__ = ["CellNames", "rename_events", "rename_frames", "tidy"]

#: Returns what people call a file; empty for what it is.
CellNames = Callable[[str], str]

_STACK = "exception.stacktrace"
_FILE = re.compile(r'^(\s*(?:\|\s*)*File )"([^"\n]+)"', re.MULTILINE)
_HOP = re.compile(r'^(\s*(?:\|\s*)*)File "<([^"\n]+)>", line 1, in remote$', re.MULTILINE)
#: Width of the rule that a hop becomes.
_RULE = 60


def tidy(text: str, cell_of: CellNames | None) -> str:
    """Return a traceback with cells and hops as people know them.

    Example:
        >>> print(tidy('  File "<w1>", line 1, in remote', None))
          ── on w1 ───────────────────────────────────────────────────
    """
    text = _HOP.sub(lambda found: f"{found[1]}── on {found[2]} ".ljust(len(found[1]) + _RULE, "─"), text)
    if cell_of is None:
        return text
    return _FILE.sub(lambda found: f'{found[1]}"{cell_of(found[2]) or found[2]}"', text)


def rename_events(table: SpanTable, cell_of: CellNames | None) -> None:
    """Tidy the tracebacks of a table's spans, in place."""
    for row, events in table.events.items():
        if any(_STACK in event.attributes for event in events):
            table.events[row] = [_tidied(event, cell_of) for event in events]


def _tidied(event: Event, cell_of: CellNames | None) -> Event:
    text = event.attributes.get(_STACK)
    if not isinstance(text, str):
        return event
    return msgspec.structs.replace(event, attributes={**event.attributes, _STACK: tidy(text, cell_of)})


def rename_frames(part: SamplePart, cell_of: CellNames | None) -> SamplePart:
    """Return samples whose frames name cells as people know them."""
    if cell_of is None:
        return part
    frames = [msgspec.structs.replace(f, file=cell_of(f.file) or f.file) for f in part.frames]
    return msgspec.structs.replace(part, frames=frames)
