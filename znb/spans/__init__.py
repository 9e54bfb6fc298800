"""Spans: what ran, when, on whose behalf. Recorded always, for less than a microsecond each.

=============== ==========================================================================================
``recorder``     the process's recorder: the ring of finished spans, and which are open
``opened``       a span that has begun, and what is active in a context
``ring``         a bounded ring that any thread writes and several readers follow, each with its own cursor
``context``      what crosses a boundary: W3C ``traceparent``, threads, futures' callbacks
``remote``       the two ends of a call, as spans
``user``         ``span`` and ``traced``, which users write
``table``        finished spans as columns: how they travel and how a client keeps them
=============== ==========================================================================================

Invariants: nothing here knows sockets, IPython or the wire; recording never blocks, never raises and holds no
reference to a user's objects; what is dropped is counted.
"""

from znb.spans.adopted import OFF_STATE
from znb.spans.context import (
    Context,
    bound,
    decode_context,
    encode_context,
    follow_threads,
    headers,
    pack_context,
    read_headers,
    run_in,
    unpack_context,
)
from znb.spans.recorder import RECORDER, OpenSpan, OptionalSpan, Recorder, current
from znb.spans.remote import (
    Brief,
    Served,
    begin_remote,
    calling,
    continue_call,
    mark,
    record_call,
    record_lost,
    serving,
)
from znb.spans.ring import Ring
from znb.spans.table import KINDS, STATUSES, Process, Span, SpanTable, TracePart
from znb.spans.user import span, traced

__all__ = [
    "KINDS",
    "OFF_STATE",
    "RECORDER",
    "STATUSES",
    "Brief",
    "Context",
    "OpenSpan",
    "OptionalSpan",
    "Process",
    "Recorder",
    "Ring",
    "Served",
    "Span",
    "SpanTable",
    "TracePart",
    "begin_remote",
    "bound",
    "calling",
    "continue_call",
    "current",
    "decode_context",
    "encode_context",
    "follow_threads",
    "headers",
    "mark",
    "pack_context",
    "read_headers",
    "record_call",
    "record_lost",
    "run_in",
    "serving",
    "span",
    "traced",
    "unpack_context",
]
