"""Who asked for the jobs of a chunk: the spans that theirs are children of.

A chunk's segments say it as text, each once for all its jobs. Owned by the main thread.
"""

from __future__ import annotations

import bisect
import itertools

from znb.executor import frames
from znb.spans import Context, decode_context
from znb.spans.recorder import Parent

__all__ = ["Callers"]


class Callers:
    """Who asked for the jobs of a chunk."""

    __slots__ = ("_known", "_segments", "_stops")

    def __init__(self, segments: list[frames.Segment]) -> None:
        self._segments = segments
        self._stops = list(itertools.accumulate(segment.stop - segment.start for segment in segments))
        self._known: dict[str, Parent | None] = {}

    def of(self, offset: int) -> Parent | None:
        """Return the span of a job: its own if it was submitted by itself, else that of the map."""
        segment = self._segments[bisect.bisect_right(self._stops, offset)]
        caller = self._context(segment.context)
        if caller is None or not segment.span:
            return caller
        return Context(caller.trace_id, segment.span, caller.live)

    def of_all(self, start: int, stop: int) -> Parent | None:
        """Return the one span that asked for several jobs; ``None`` if there are more, or each is to be seen."""
        low, high = bisect.bisect_right(self._stops, start), bisect.bisect_right(self._stops, stop - 1)
        text = self._segments[low].context
        if any(segment.context != text for segment in self._segments[low : high + 1]):
            return None
        caller = self._context(text)
        return None if caller is None or caller.live else caller

    def _context(self, text: str) -> Parent | None:
        if text not in self._known:
            self._known[text] = decode_context(text)
        return self._known[text]
