"""OTLP: OpenTelemetry's protocol, as JSON in a file or over HTTP to a collector.

What OpenTelemetry has a name for goes under that name (its semantic conventions 1.27); what only znb knows goes under
``znb.…``, so that a file can be read back without loss. Samples have no place in it. Sources: opentelemetry-proto 1.x,
``trace.proto``, and the rules of its JSON form: ids in hexadecimal, 64-bit integers as strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from znb.spans import Process, SpanTable
from znb.spans.samples import SampleTable
from znb.spans.table import KINDS, STATUSES, Event, by_name
from znb.traces.model import TraceData

__all__ = ["attribute", "read_otlp", "resource_attributes", "span_attributes", "value_of", "write_otlp"]

#: OpenTelemetry's kinds: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
OTEL_KIND: Final = {"serve": 2, "call": 3, "map": 4, "submit": 4, "publish": 4, "job": 5}
#: The way back, for files that znb did not write.
_KIND_OF: Final = {2: "serve", 3: "call", 4: "submit", 5: "job"}
#: Names of these in JSON, which may also be given as such.
_KIND_NAMES: Final = {
    "SPAN_KIND_INTERNAL": 1, "SPAN_KIND_SERVER": 2, "SPAN_KIND_CLIENT": 3, "SPAN_KIND_PRODUCER": 4,
    "SPAN_KIND_CONSUMER": 5,
}  # fmt: skip
#: Attributes that tell what znb knows of a span; and what stands before a user's attribute of such a name.
KNOWN: Final = frozenset({"thread.id", "thread.name", "znb.kind", "znb.status"})
OWN: Final = "znb.own."
#: Status codes: 1 ok, 2 error.
OK, ERROR = 1, 2

_encode = msgspec.json.Encoder().encode


def write_otlp(data: TraceData, title: str) -> Iterator[bytes]:
    """Yield the file, piece by piece."""
    table = data.table
    rows: list[list[int]] = [[] for _ in table.processes]
    for row, thread in enumerate(table.thread):
        rows[table.threads[thread][0]].append(row)
    yield b'{"resourceSpans":['
    for number, (process, found) in enumerate(zip(table.processes, rows, strict=True)):
        attributes = resource_attributes(process)
        if not number:
            attributes |= {"znb.title": title, **({"znb.notes": data.notes} if data.notes else {})}
        yield b"," * bool(number) + b'{"resource":' + _encode({"attributes": _attributes(attributes)})
        yield b',"scopeSpans":[{"scope":{"name":"znb"},"spans":['
        yield b",\n".join(_encode(_span(data, row)) for row in found)
        yield b"]}]}"
    yield b"]}\n"


def resource_attributes(process: Process) -> dict[str, Any]:
    """Return what tells a process, under OpenTelemetry's names."""
    return {
        "service.name": "znb",
        "service.instance.id": process.key,
        "host.name": process.host,
        "process.pid": process.pid,
        "znb.worker": process.worker,
        "znb.boot": process.boot,
    }


def span_attributes(data: TraceData, row: int) -> dict[str, Any]:
    """Return a span's attributes, and what else znb knows of it."""
    table = data.table
    _, ident, name = table.threads[table.thread[row]]
    known = {"thread.id": ident, "thread.name": name, "znb.kind": KINDS[table.kind[row]]}
    status = STATUSES[table.status[row]]
    if status not in {"ok", "error"}:
        known["znb.status"] = status
    return {**known, **{_apart(name): value for name, value in table.attributes(row).items()}}


def _apart(name: str) -> str:
    """Return the name under which a user's attribute goes: another one where its own says what znb knows."""
    return OWN + name if name in KNOWN or name.startswith(OWN) else name


def _span(data: TraceData, row: int) -> dict[str, Any]:
    table = data.table
    status = STATUSES[table.status[row]]
    found: dict[str, Any] = {
        "traceId": f"{data.trace_id:032x}",
        "spanId": f"{table.span_id[row]:016x}",
        "name": table.strings[table.name[row]],
        "kind": OTEL_KIND.get(KINDS[table.kind[row]], 1),
        "startTimeUnixNano": str(table.start_ns[row]),
        # One that has not ended has to have an end all the same; ``znb.status`` tells.
        "endTimeUnixNano": str(table.end_ns[row] or data.end_ns),
        "attributes": _attributes(span_attributes(data, row)),
        "status": {"code": ERROR if status in {"error", "lost"} else OK},
    }
    if table.parent_id[row]:
        found["parentSpanId"] = f"{table.parent_id[row]:016x}"
    events = data.events(row)
    if events:
        found["events"] = [
            {"timeUnixNano": str(event.time_ns), "name": event.name, "attributes": _attributes(event.attributes)}
            for event in events
        ]
        message = next((e.attributes.get("exception.message") for e in events if e.name == "exception"), None)
        if status == "error" and message:
            found["status"]["message"] = str(message)
    return found


def _attributes(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": attribute(value)} for key, value in attributes.items()]


def attribute(value: Any) -> dict[str, Any]:
    """Return a value as OTLP's ``AnyValue``."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        if math.isfinite(value):
            return {"doubleValue": value}
        return {"doubleValue": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [attribute(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _attributes({str(key): item for key, item in value.items()})}}
    return {"stringValue": str(value)}


def value_of(found: dict[str, Any]) -> Any:
    """Return the value of an ``AnyValue``."""
    for kind, value in found.items():
        if kind == "intValue":
            return int(value)
        if kind == "doubleValue":
            return float(value)
        if kind == "arrayValue":
            return [value_of(item) for item in value.get("values", ())]
        if kind == "kvlistValue":
            return _dict_of(value.get("values", ()))
        return value
    return None


def _dict_of(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return by_name({item["key"]: value_of(item.get("value", {})) for item in found})


def read_otlp(document: dict[str, Any]) -> list[tuple[TraceData, str]]:
    """Return the traces of an OTLP document, whoever wrote it, and their titles; by their starts.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: It is damaged.
    """
    found: dict[str, _Reading] = {}
    for resource, spans in _scopes(document):
        process = Process(
            str(resource.get("service.instance.id", resource.get("service.name", ""))),
            str(resource.get("znb.worker", resource.get("service.name", ""))),
            str(resource.get("host.name", "")),
            int(resource.get("process.pid", 0)),
            str(resource.get("znb.boot", "")),
        )
        here: dict[str, _Reading] = {}
        for span in spans:
            trace_id = span["traceId"].lower()
            reading = found.get(trace_id)
            if reading is None:
                reading = found[trace_id] = _Reading()
            here[trace_id] = reading
            _read_span(reading.table, process, reading.names, span)
        for reading in here.values():
            reading.title = reading.title or str(resource.get("znb.title", ""))
            reading.notes += map(str, resource.get("znb.notes", []))
    if not found:
        raise ValueError("there is no span in it")
    traces = [(reading.data(int(trace_id, 16)), reading.title) for trace_id, reading in found.items()]
    return sorted(traces, key=lambda trace: trace[0].start_ns)


class _Reading:
    """A trace, as far as it has been read."""

    def __init__(self) -> None:
        self.table = SpanTable()
        self.names: dict[str, int] = {}
        self.title = ""
        self.notes: list[str] = []

    def data(self, trace_id: int) -> TraceData:
        """Return the trace."""
        self.table.strings = list(self.names)
        return TraceData(trace_id, self.table, SampleTable(), self.notes, sampled=False)


def _scopes(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for resource_spans in document["resourceSpans"]:
        resource = _dict_of(resource_spans.get("resource", {}).get("attributes", ()))
        for scope in resource_spans.get("scopeSpans", ()):
            yield resource, scope.get("spans", [])


def _read_span(table: SpanTable, process: Process, names: dict[str, int], span: dict[str, Any]) -> None:
    attributes = _dict_of(span.get("attributes", ()))
    thread = table.place(process, int(attributes.pop("thread.id", 0)), str(attributes.pop("thread.name", "")))
    code = span.get("status", {}).get("code", 0)
    status = attributes.pop("znb.status", "error" if code in {ERROR, "STATUS_CODE_ERROR"} else "ok")
    kind = span.get("kind", 1)
    kind = attributes.pop("znb.kind", _KIND_OF.get(_KIND_NAMES.get(kind, kind), "span"))
    attributes = {name.removeprefix(OWN): value for name, value in attributes.items()}
    if status not in STATUSES or kind not in KINDS:
        raise ValueError(f"kind {kind!r} or status {status!r} of span {span['spanId']} is not one")
    table.add(
        int(span["spanId"], 16),
        int(span.get("parentSpanId") or "0", 16),
        int(span["startTimeUnixNano"]),
        0 if status in {"open", "lost"} else int(span["endTimeUnixNano"]),
        names.setdefault(str(span["name"]), len(names)),
        thread,
        kind=kind,
        status=status,
        attributes=attributes,
        events=[
            Event(int(event["timeUnixNano"]), str(event["name"]), _dict_of(event.get("attributes", ())))
            for event in span.get("events", ())
        ],
    )
