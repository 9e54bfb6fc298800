"""Traces as data: what processes have recorded, brought together, put on one clock, and asked.

=============== ==========================================================================================
``feed``         how spans and samples get from the process that recorded them to whoever reads
``store``        the traces of a session, bounded
``clock``        how far clocks are apart, and how sure that is
``assemble``     from parts to one trace, and what is missing
``model``        the assembled trace
``analysis``     tree, critical path, self times, errors, difference, search
``pieces``       queueing, serialisation, transfer and execution of a call
``text``         the call tree as text
=============== ==========================================================================================

The user's view of all this is ``znb.tracing``.
"""

from znb.traces.assemble import Parts, assemble
from znb.traces.feed import FEED, Batch, Feed, Request, decode_batch
from znb.traces.model import TraceData
from znb.traces.store import Store

__all__ = ["FEED", "Batch", "Feed", "Parts", "Request", "Store", "TraceData", "assemble", "decode_batch"]
