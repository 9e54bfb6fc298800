"""``znb.trace``: what users begin, look at, compare and save.

A trace may still be growing: what is read of it is assembled anew when something has come since. May be used from any
thread; a trace is entered on one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from znb import export
from znb.callees import Callees
from znb.checks import check_seconds
from znb.profiler import SAMPLER, Sampler
from znb.spans import RECORDER, OpenSpan, Process, Recorder, Span, SpanTable, follow_threads
from znb.spans.samples import SampleTable
from znb.traces import analysis
from znb.traces.feed import Feed
from znb.traces.listing import Listing, duration, printable
from znb.traces.model import SpanList, TraceData
from znb.traces.pieces import Pieces, pieces
from znb.traces.store import TRACES_MAX, Store
from znb.traces.subtree import subtree
from znb.traces.text import Roots, text_tree
from znb.traces.unseen import INTERVAL

__all__ = ["TRACES", "Begin", "LiveTrace", "Picture", "Trace", "TraceList", "Traces", "trace"]

#: Milliseconds between two samples.
INTERVAL_MS = 10
#: Seconds to wait for what workers have recorded, when a trace ends or is looked at.
COLLECT_TIMEOUT = 2.0


#: What a trace says that was not recorded.
OFF_NOTE = "tracing was off (%znb trace off), so nothing was recorded"


class Picture:
    """A picture that notebooks show."""

    def __init__(self, svg: str, text: str = "") -> None:
        self.svg = svg
        self._text = text

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        hint = '<a flame graph: shown in notebooks; .save("x.svg") of its trace writes it to a file>'
        return f"{self._text}\n{hint}" if self._text else hint


class Trace:
    """One trace: begun with ``znb.trace``, found among the latest ones, or loaded from a file.

    Attributes:
        title: What it is called.

    Examples:
        >>> with trace("epoch") as t:
        ...     pass
        >>> [span.name for span in t.spans]
        ['epoch']
    """

    def __init__(
        self,
        title: str,
        trace_id: int,
        read: Callable[[int], tuple[int, TraceData | None]],
        data: TraceData | None = None,
    ) -> None:
        self.title = title
        self._id = trace_id
        self._read = read
        self._version = -1
        self._data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (export.render(self.data, ".json", self.title),)  # as text, for whoever has another znb

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Open a saved trace: ``.json``, ``.otlp.json`` or ``.html``. Of a file with several, the largest.

        Raises:
            TraceFileError: It is no such file, or it is cut off or damaged.
            OSError: It cannot be read.
        """
        found = cls.load_all(path)
        largest = max(found, key=lambda one: len(one.data))
        if len(found) > 1:
            largest.data.notes.append(
                f"the file holds {len(found) - 1} more: znb.Trace.load_all({str(path)!r}) returns all {len(found)}"
            )
        return largest

    @classmethod
    def load_all(cls, path: str | os.PathLike[str]) -> TraceList:
        """Open each trace of a file: those of other programs may hold many. By their starts.

        Raises:
            TraceFileError: It is no such file, or it is cut off or damaged.
            OSError: It cannot be read.
        """
        found = export.load_all(path)
        # Where there are several the file's name says of none which it is.
        name = Path(path).name if len(found) == 1 else ""
        return TraceList(_still(data, title or name or data.root_name) for data, title in found)

    @staticmethod
    def latest() -> TraceList:
        """Return the traces that this process keeps, the latest last: 100 at most."""
        return TRACES.latest()

    @property
    def data(self) -> TraceData:
        """The trace as tables, as far as it has come."""
        if self._id:
            version, data = self._read(self._version)
            if data is not None:
                self._version, self._data = version, data
        if self._data is None:
            self._data = TraceData(self._id, SpanTable(), SampleTable())
        return self._data

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; of a trace that has not begun, zeros."""
        return f"{self._id:032x}"

    @property
    def notes(self) -> list[str]:
        """What is missing or uncertain, a sentence each."""
        return list(self.data.notes)

    @property
    def spans(self) -> SpanList:
        """All spans, by start."""
        data = self.data
        return SpanList(data, data.by_start)

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return self.data.seconds

    # -- what it tells -------------------------------------------------------------------------------------

    def tree(self) -> Roots:
        """Return the roots; each node has its span and its ``children``."""
        return Roots(self.data)

    def critical_path(self) -> analysis.Segments:
        """Return what the whole took its time for, segment by segment, from start to end."""
        return analysis.critical_path(self.data)

    def self_times(self) -> list[analysis.SelfTime]:
        """Return what the spans of each name cost by themselves, the most expensive first."""
        return analysis.self_times(self.data)

    def errors(self) -> list[analysis.Failure]:
        """Return each exception once: where it happened, through which spans it went, and its traceback."""
        return analysis.errors(self.data)

    def find(self, pattern: str) -> SpanList:
        """Return the spans of a name: all of it, its last part (``method`` of ``service.method``), or a pattern."""
        data = self.data
        return SpanList(data, analysis.find(data, pattern))

    def pieces(self, span: Span | str) -> Pieces:
        """Return where the time of a call went: encoding, transfer, queueing, running, and so on."""
        data = self.data
        return pieces(data, data.row_of(span))

    def diff(self, other: Trace) -> list[analysis.Change]:
        """Return by call path what ``other`` takes more or less, the largest difference first."""
        return analysis.diff(self.data, other.data)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with a row for each span.

        Raises:
            ImportError: pandas is not installed.
        """
        return analysis.to_pandas(self.data)

    # -- how it is shown and handed on ---------------------------------------------------------------------

    def flame(self) -> Picture:
        """Return the flame graph."""
        return Picture(export.flame_svg(self.data, self.title), self.text())

    def text(self, width: int = 100) -> str:
        """Return the call tree as text."""
        return text_tree(self.data, self.title, width)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file, in the format of its suffix; return where it is.

        Args:
            path: ``.json`` (Chrome, Perfetto), ``.speedscope.json``, ``.otlp.json``, ``.folded``, ``.html`` or
            ``.svg``.

        Raises:
            TraceFileError: It is none of these.
            OSError: The file cannot be written.
        """
        where: Path = export.save(self.data, path, self.title)
        return where

    def send(self, endpoint: str | None = None, *, headers: Mapping[str, str] | None = None) -> int:
        """Send it to an OpenTelemetry collector; return how many spans that were.

        Args:
            endpoint: Such as ``"http://localhost:4318/v1/traces"``; ``None`` for what the environment variable
                ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.
            headers: Sent along, such as an API key.

        Raises:
            ServiceUnavailable: The collector did not take it.
            ZnbError: ``znb[otlp]`` is not installed.
        """
        count: int = export.send_otlp(self.data, endpoint, headers=headers)
        return count

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Trace {self.title!r}, {len(self.data)} spans>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/plain": self.text(), "image/svg+xml": export.flame_svg(self.data, self.title)}


def _unpack(content: bytes) -> Trace:
    """Return a trace that came from another process."""
    [(data, title)] = export.parse_all(content)
    return _still(data, title)


def _still(data: TraceData, title: str) -> Trace:
    """Return a trace that grows no more."""
    return Trace(title, data.trace_id, lambda _version: (0, data), data)


class LiveTrace(Trace):
    """A trace that is made here: ``with`` begins and ends it. It can be entered once.

    Inside another one, or a cell's, it is the part of that trace that is below it.
    """

    def __init__(self, traces: Traces, title: str, interval_ms: int, attributes: dict[str, Any]) -> None:
        super().__init__(title, 0, self._read_mine)
        self._traces = traces
        self._span = OpenSpan(traces.recorder, title, "trace", attributes, live=interval_ms)

    @property
    def inside(self) -> bool:
        """Whether it is part of another trace that goes on."""
        return any(one is not self and one._id == self._id for one in self._traces.live)

    def _read_mine(self, version: int) -> tuple[int, TraceData | None]:
        version, data = self._traces.read(self._id, version)
        if data is not None and self._span.parent_id:
            data = subtree(data, self._span.span_id)
        return version, data

    def __enter__(self) -> Self:
        if self._id:
            raise RuntimeError(f"the trace {self.title!r} has been entered before; begin another one")
        self._traces.store.read_local()  # what came before is listed before
        self._span.__enter__()
        self._id = self._span.trace_id
        self._traces.store.begin(self._id, self.title)
        self._traces.began(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace_back: object) -> None:
        self.unwind()
        self._span.__exit__(kind, error, trace_back)
        self._traces.ended(self)

    def close(self, error: BaseException | None, end_ns: int) -> None:
        """Leave it as of a time that has passed (``perf_counter_ns``)."""
        self._span.close(error, end_ns)
        self._traces.ended(self)

    def unwind(self) -> None:
        """End what was entered inside of it on this thread and left without a word, as cancelled."""
        self._span.unwind()


class TraceList(Listing[Trace]):
    """Traces, shown as a table, the latest last."""

    head = ("title", "id", "took", "spans", "failed", "began")
    none = "(no traces yet)"
    lines = TRACES_MAX  # all, since the latest are the last

    def cells(self, item: Trace) -> tuple[str, ...]:
        """Return an item's line."""
        data = item.data
        began = time.strftime("%H:%M:%S", time.localtime(data.start_ns / 1e9)) if len(data) else ""
        took = duration(data.end_ns - data.start_ns)
        failed = str(len(analysis.failures(data)) or "")
        return printable(item.title), item.trace_id[:8], took, f"{len(data):,}", failed, began


class Traces:
    """The traces of a session.

    Args:
        recorder: This process's recorder.

    Attributes:
        store: Keeps them.
        sampler: Samples this process while a trace is live.
        live: Traces that have been entered and not left.
        collectors: Bring what others have recorded, each waiting at most the seconds that it is given.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.sampler = SAMPLER if recorder is RECORDER else Sampler(recorder)
        self._feed = Feed(recorder, self.sampler)
        self.store = Store(self._feed)
        self._callees = Callees(self.store)
        self.collectors: list[Callable[[float], object]] = []
        self.live: list[LiveTrace] = []

    @property
    def process(self) -> Process:
        """This process, as its spans name it."""
        return self._feed.process

    def new(self, title: str, interval: float, attributes: dict[str, Any]) -> LiveTrace:
        """Return a trace to enter.

        Raises:
            TypeError: ``interval`` is not a number.
            ValueError: ``interval`` is not positive, or not finite.
        """
        check_seconds("interval", interval)
        self.sampler.install()
        if self.recorder is RECORDER:
            follow_threads(watched=True)
        self.sampler.on_round = self.store.relieve
        interval_ms = max(1, round(interval * 1000))
        told = {} if interval_ms == INTERVAL_MS else {INTERVAL: interval_ms}
        return LiveTrace(self, title, interval_ms, {**told, **attributes})

    def began(self, live: LiveTrace) -> None:
        """Note that a trace has been entered."""
        self.live.append(live)

    def ended(self, live: LiveTrace) -> None:
        """Bring what is outstanding of a trace that has ended."""
        self.live.remove(live)
        self.sampler.rest()
        self.collect(COLLECT_TIMEOUT)
        self.store.unpin(int(live.trace_id, 16))

    def add(self, collector: Callable[[float], object]) -> None:
        """Have a collector asked."""
        self.collectors.append(collector)

    def remove(self, collector: Callable[[float], object]) -> None:
        """Have a collector asked no more. May be called twice."""
        if collector in self.collectors:
            self.collectors.remove(collector)

    def collect(self, timeout: float) -> None:
        """Bring everything that has been recorded, here and elsewhere, waiting at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        for collector in list(self.collectors):
            collector(max(0.0, deadline - time.monotonic()))
        self._callees.collect(max(0.0, deadline - time.monotonic()))
        self.store.read_local()

    def latest(self) -> TraceList:
        """Return the traces kept, the latest last, with everything that has been recorded of them until now."""
        self.collect(COLLECT_TIMEOUT)
        return TraceList(self)

    def read(self, trace_id: int, known: int = -2) -> tuple[int, TraceData | None]:
        """Return a trace's version, and the trace as far as it has come unless that is the ``known`` version."""
        self.store.read_local()
        version = self.store.version(trace_id)
        return version, None if version == known else self.store.assemble(trace_id)

    def of(self, trace_id: int) -> Trace:
        """Return the trace of an id, with everything that has been recorded of it until now; of 0, an empty one.

        Raises:
            KeyError: It is not kept any more.
        """
        if not trace_id:
            data = TraceData(0, SpanTable(), SampleTable(), [OFF_NOTE])
            return _still(data, "nothing recorded")
        self.collect(COLLECT_TIMEOUT)
        return self[trace_id]

    def __iter__(self) -> Iterator[Trace]:
        """Yield the traces kept, the latest last."""
        self.store.read_local()
        for trace_id, title in self.store.titles():
            yield self._trace(trace_id, title)

    def __getitem__(self, trace_id: int | str) -> Trace:
        """Return the trace of an id, as a number or as hexadecimal digits (the first few will do).

        Raises:
            KeyError: There is none, or several whose ids begin so.
        """
        self.store.read_local()
        wanted = f"{trace_id:032x}" if isinstance(trace_id, int) else trace_id.lower()
        found = [item for item in self.store.titles(ours=False) if f"{item[0]:032x}".startswith(wanted)]
        if len(found) != 1:
            raise KeyError(f"expected the id of one trace, got {wanted!r}, which {len(found)} of those kept begin with")
        return self._trace(*found[0])

    def _trace(self, trace_id: int, title: str) -> Trace:
        return Trace(title, trace_id, lambda version: self.read(trace_id, version))


#: The traces of this process, as ``RECORDER`` is its recorder.
TRACES: Final = Traces(RECORDER)


class Begin:
    """``znb.trace``: begins traces, and knows the latest ones.

    Example:
        >>> begin = Begin(TRACES)
        >>> with begin("epoch", lr=0.1) as t:
        ...     total = sum(range(10))
        >>> t.spans[0].attributes
        {'lr': 0.1}
        >>> begin.last().title
        'epoch'
    """

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def __call__(
        self, title: str = "trace", /, *, interval: float = INTERVAL_MS / 1000, **attributes: Any
    ) -> LiveTrace:
        """Begin a trace: what happens inside ``with`` is recorded here and wherever it leads, and sampled.

        Args:
            title: What to call it.
            interval: Seconds between two samples.
            attributes: What to know about it.

        Raises:
            TypeError: ``interval`` is not a number.
            ValueError: ``interval`` is not positive, or not finite.
        """
        return self._traces.new(title, interval, attributes)

    def last(self) -> Trace:
        """Return the latest trace, with everything that has been recorded of it until now: what ``%znb trace`` shows.

        Raises:
            LookupError: There is none yet.
        """
        found = self.list()
        if not found:
            raise LookupError("there are no traces yet: a call, a job or `with znb.trace()` leaves one")
        return found[-1]

    def list(self) -> TraceList:
        """Return the traces that are kept, the latest last: what ``%znb trace list`` shows."""
        return self._traces.latest()

    def __reduce__(self) -> str:
        return "trace"

    def __repr__(self) -> str:
        return "<znb.trace: with znb.trace(TITLE) as t: … · znb.trace.last() · znb.trace.list()>"


#: What users write.
trace: Final = Begin(TRACES)
