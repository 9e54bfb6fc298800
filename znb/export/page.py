"""One HTML file that shows a trace without anything else: no server, no network, no other file.

Invariants: the trace stands between two marks, as JSON in which ``<`` is escaped, so no name can end the script
element; the page loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib import resources
from typing import Final

import msgspec

from znb.export.document import to_document
from znb.traces.model import TraceData

__all__ = ["PAGE_END", "PAGE_START", "write_html"]

#: What the trace stands between.
PAGE_START: Final = b'<script type="application/json" id="znb-trace">'
PAGE_END: Final = b"</script><!-- end of the trace -->"


def write_html(data: TraceData, title: str) -> Iterator[bytes]:
    """Yield the file, piece by piece."""
    template = resources.files("znb.export").joinpath("page.html").read_text(encoding="utf-8")
    before, _, after = template.partition("<!-- trace -->")
    yield before.replace("<!-- title -->", escape(title or "trace")).encode()
    yield PAGE_START
    yield msgspec.json.encode(to_document(data, title)).replace(b"<", b"\\u003c")
    yield PAGE_END
    yield after.encode()
