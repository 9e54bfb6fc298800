"""Traces made for tests: of given spans, or of random ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from znb.spans import Process, SpanTable
from znb.spans.plain import INT_MAX
from znb.spans.samples import Frame, SampleTable
from znb.spans.table import Event
from znb.traces import TraceData

BASE = 1_700_000_000_000_000_000


@dataclass
class Made:
    """A span to be: times in nanoseconds from ``BASE``; the number of its parent, -1 for none."""

    name: str
    start: int
    end: int
    parent: int = -1
    process: int = 0
    kind: str = "span"
    status: str = "ok"
    attributes: dict[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()


PROCESSES = [
    Process("c0ffee0000000000", "", "here", 100, "boot-a"),
    Process("c0ffee0000000001", "w0", "here", 101, "boot-a"),
    Process("c0ffee0000000002", "w1", "there", 102, "boot-b"),
]


def make_trace(spans: list[Made], samples: SampleTable | None = None, **options: Any) -> TraceData:
    """Return a trace of these spans; the id of the first is 1."""
    table = SpanTable()
    names: dict[str, int] = {}
    for number, made in enumerate(spans, 1):
        table.add(
            number,
            made.parent + 1,
            BASE + made.start,
            BASE + made.end if made.status not in {"open", "lost"} else 0,
            names.setdefault(made.name, len(names)),
            table.place(PROCESSES[made.process], made.process + 7, "MainThread"),
            kind=made.kind,
            status=made.status,
            attributes=made.attributes,
            events=made.events,
        )
    table.strings = list(names)
    return TraceData(0xABC, table, samples or SampleTable(), **options)


def make_samples() -> SampleTable:
    """Return three samples of the spans 1 and 2."""
    samples = SampleTable()
    thread = samples.place(PROCESSES[0], 7, "MainThread")
    main = samples.node(-1, Frame("<module>", "/home/u/cell.py", 3, 1, "user"))
    loop = samples.node(main, Frame("loop", "/home/u/cell.py", 9, 8, "user"))
    hidden = samples.node(loop, Frame("call", "/x/znb/link.py", 9, 8, "znb"))
    samples.add(1, BASE + 10, 10, 10, thread, main)
    samples.add(2, BASE + 20, 10, 4, thread, loop)
    samples.add(2, BASE + 30, 10, 0, thread, hidden)
    return samples


text = st.text(max_size=12)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-INT_MAX, INT_MAX),
    st.floats(allow_nan=False, allow_infinity=False),
    text,
    st.lists(st.integers(0, 9), max_size=3),
)
attributes = st.dictionaries(text, plain, max_size=3)


@st.composite
def random_spans(draw: st.DrawFn, max_size: int = 25, *, sequential: bool = False) -> list[Made]:
    """Draw spans whose parents come first and contain them; siblings overlap unless ``sequential``."""
    made = [Made(draw(text), 0, draw(st.integers(1, 10_000)))]
    for _ in range(draw(st.integers(0, max_size))):
        parent = draw(st.integers(0, len(made) - 1))
        above = made[parent]
        low = above.start
        if sequential:
            low = max([low, *(m.end for m in made if m.parent == parent)])
        start = draw(st.integers(low, above.end))
        end = draw(st.integers(start, above.end))
        status = draw(st.sampled_from(["ok", "ok", "error", "cancelled"]))
        events = ()
        if draw(st.booleans()):
            events = (Event(BASE + start, draw(text), draw(attributes)),)
        kind = draw(st.sampled_from(["span", "call", "serve", "map", "job"]))
        process = draw(st.integers(0, len(PROCESSES) - 1))
        name = draw(st.sampled_from(["a", "b", "svc.a", "é;\n<x>", "c"]))
        made.append(Made(name, start, end, parent, process, kind, status, draw(attributes), events))
    return made
