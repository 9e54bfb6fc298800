"""How spans and samples get from the process that recorded them to whoever reads a trace: both ends.

The reader asks with what it has (``Request``), the process answers with what is new (``Batch``). Asking twice costs
nothing but the answer; an answer that was lost is only read again, because the reader moves its cursors itself.

============ ======================================================================================================
``Request``   cursors, a limit, whether open spans are wanted
``Batch``     spans by trace, open spans by trace, samples by trace, the new cursors, and the process's clock
============ ======================================================================================================

Invariants: ``Feed.answer`` takes time in proportion to what it returns, at most some milliseconds, so the I/O thread
may call it; a span is sent to each reader once. Not owned by a thread.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from znb.errors import ProtocolError
from znb.profiler import SAMPLER, Sampler
from znb.rpc.callers import CALLED
from znb.spans import RECORDER, Process, Recorder, TracePart
from znb.spans.ring import Cursor
from znb.spans.samples import SamplePart
from znb.spans.table import pack_entries

__all__ = ["FEED", "Batch", "Feed", "Request", "decode_batch", "this_process"]

#: Spans of one answer: 5 ms of the I/O thread, 0.3 MB.
SPANS_MAX = 4096
#: Samples of one answer.
SAMPLES_MAX = 8192
#: Open spans of one answer, the latest.
OPEN_MAX = 1024
#: Spans by which ``Feed.waiting`` counts.
PEEK = 1024


class Request(msgspec.Struct, frozen=True, array_like=True):
    """What a reader has, and wants.

    Attributes:
        key: The process that the cursors are of; another one begins at its first span.
        spans: Number of the first span wanted, and how many have been missed so far.
        samples: The same for samples.
        limit: Spans wanted at most.
        with_open: Whether spans that have not ended are wanted.
    """

    key: str = ""
    spans: tuple[int, int] = (0, 0)
    samples: tuple[int, int] = (0, 0)
    limit: int = SPANS_MAX
    with_open: bool = False


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What is new in a process.

    Attributes:
        process: Which one.
        clock_ns: Its clock while it answered.
        spans: Those that have ended, by trace.
        opened: Those that have not, by trace; in place of those of the last batch.
        samples: By trace.
        next_spans: For the next ``Request``; the second number counts what was overwritten before it was read.
        next_samples: The same.
        more: Whether there is more to be had at once.
        called: Addresses of services that it has called, where the trace goes on.
    """

    process: Process
    clock_ns: int
    spans: list[TracePart]
    opened: list[TracePart]
    samples: list[SamplePart]
    next_spans: tuple[int, int]
    next_samples: tuple[int, int]
    more: bool
    called: list[str] = []

    def next_request(self, *, with_open: bool = False) -> Request:
        """Return what to ask next."""
        return Request(self.process.key, self.next_spans, self.next_samples, with_open=with_open)


class Feed:
    """Answers what a process has recorded.

    Args:
        recorder: Its recorder.
        sampler: Its sampler; ``None`` if it has none.
        process: Who it is; ``None`` to find out.
    """

    def __init__(self, recorder: Recorder, sampler: Sampler | None = None, process: Process | None = None) -> None:
        self._recorder = recorder
        self._sampler = sampler
        self._given = process
        self._process = process or this_process(recorder)

    @property
    def process(self) -> Process:
        """Who it is; found out anew where it has been forked, or has become a worker."""
        known, recorder = self._process, self._recorder
        if self._given is None and (known.key, known.worker) != (recorder.key, recorder.worker):
            self._process = this_process(recorder)
        return self._process

    def answer(self, request: Request) -> Batch:
        """Return what is new since ``request``."""
        process = self.process
        known = request.key == process.key
        spans = Cursor(*request.spans) if known else Cursor()
        samples = Cursor(*request.samples) if known else Cursor()
        recorder = self._recorder
        found = recorder.ring.read(spans, max(1, min(request.limit, SPANS_MAX)))
        taken, next_samples = self._sampler.read(samples, SAMPLES_MAX) if self._sampler else ([], samples)
        return Batch(
            process,
            time.perf_counter_ns(),
            pack_entries(found.entries, recorder.thread_name),
            self._open() if request.with_open else [],
            taken,
            tuple(found.cursor),  # type: ignore[arg-type]
            tuple(next_samples),  # type: ignore[arg-type]
            found.more,
            CALLED.addresses(),
        )

    def waiting(self, request: Request) -> int:
        """Return how many spans are new since ``request``, rounded down to ``PEEK``; at most what the ring holds."""
        ring, found = self._recorder.ring, 0
        while found <= ring.mask:
            step = request.spans[0] + found + PEEK
            entry = ring.slots[step & ring.mask]
            if entry is None or entry[0] < step:
                break
            found += PEEK
        return found

    def answer_encoded(self, request: Any) -> bytes:
        """As ``answer``, for a request as it came; the batch as it travels.

        Raises:
            ValueError: It is no request.
        """
        return msgspec.msgpack.encode(self.answer(msgspec.convert(request, Request)))

    def _open(self) -> list[TracePart]:
        entries = [
            (0, s.trace_id, s.span_id, s.parent_id, s.name, s.kind, s.start_ns, 0, "open", s.thread, dict(s.attributes
            or {}),
             list(s.events or ()))
            for s in [*self._recorder.open.values(), *self._recorder.briefs.values()][-OPEN_MAX:]
            if hasattr(s, "start_ns") and s.trace_id and (not s.optional or s.used)
        ]  # fmt: skip
        return pack_entries(entries, self._recorder.thread_name)


def decode_batch(data: bytes | memoryview) -> Batch:
    """Read an encoded batch.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return msgspec.msgpack.decode(data, type=Batch)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"expected a batch of spans, got {len(data)} bytes that are none: {error}") from error


def this_process(recorder: Recorder) -> Process:
    """Return who this process is."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Process(
        recorder.key,
        recorder.worker,
        platform.node(),
        os.getpid(),
        boot.read_text().strip() if boot.exists() else "",
    )


#: What this process has recorded, for whoever asks.
FEED: Final = Feed(RECORDER, SAMPLER)
