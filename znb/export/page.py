"""One HTML file that is the whole trace explorer: no server, no network, no other file.

Invariants: the trace stands between two marks, as JSON in which ``<`` is escaped, so no name can end the script
element; the page loads nothing. Where the explorer has not been built, the page shows a static picture in its place.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from typing import Any, Final

import msgspec

from znb.export.document import to_document
from znb.export.picture import flame_svg
from znb.traces.model import TraceData
from znb.traces.unseen import unseen_ns, unseen_text

__all__ = ["PAGE_END", "PAGE_START", "write_html"]

#: What the trace stands between.
PAGE_START: Final = b'<script type="application/json" id="znb-trace">'
PAGE_END: Final = b"</script><!-- end of the trace -->"
#: Lines of source kept before the first and after the last line of a file that the trace names, and of one file.
CONTEXT_LINES: Final = 8
SOURCE_LINES_MAX: Final = 400
#: A line of a traceback that names a place.
_PLACE: Final = re.compile(r'^\s*File "(.+)", line (\d+)', re.MULTILINE)


def write_html(data: TraceData, title: str) -> Iterator[bytes]:
    """Yield the file, piece by piece."""
    template = resources.files("znb.export").joinpath("page.html").read_text(encoding="utf-8")
    before, _, after = template.partition("<!-- trace -->")
    script, style = _built("explorer-page.js"), _built("explorer-page.css")
    picture = "" if script else flame_svg(data, title)
    unseen = {str(row): unseen_text(time) for row, time in unseen_ns(data).items()}
    document = {**to_document(data, title), "sources": _sources(data), "unseen": unseen}
    before = before.replace("<!-- title -->", escape(title or "trace")).replace("<!-- style -->", style)
    yield before.replace("<!-- picture -->", picture).encode()
    yield PAGE_START
    yield msgspec.json.encode(document).replace(b"<", b"\\u003c")
    yield PAGE_END
    yield after.replace("<!-- script -->", script.replace("</script", "<\\/script")).encode()


def _built(file: str) -> str:
    """Return a file of the built front end; empty if it has not been built."""
    try:
        return resources.files("znb").joinpath("widgets", "static", file).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _sources(data: TraceData) -> dict[str, tuple[int, list[str]]]:
    """Return the lines around those that tracebacks and samples of user code name: by file, with the first's number."""
    wanted: dict[str, set[int]] = {}
    for frame in data.samples.frames:
        if frame.origin == "user":
            wanted.setdefault(frame.file, set()).add(frame.line)
    for events in data.table.events.values():
        for event in events:
            text: Any = event.attributes.get("exception.stacktrace", "")
            for file, line in _PLACE.findall(str(text)):
                wanted.setdefault(file, set()).add(int(line))
    found = {}
    for file, numbers in wanted.items():
        lines = [line.rstrip("\n") for line in linecache.getlines(file)]
        first = max(1, min(numbers) - CONTEXT_LINES)
        around = lines[first - 1 : min(max(numbers) + CONTEXT_LINES, first + SOURCE_LINES_MAX)]
        if around:
            found[file] = (first, around)
    return found
