"""OTLP over HTTP to a collector, by OpenTelemetry's own exporter (the extra ``znb[otlp]``).

The exporter brings protobuf, compression, retries, and its settings in ``OTEL_EXPORTER_OTLP_…``. Blocks its caller.
Source: opentelemetry-exporter-otlp-proto-http.
"""

from __future__ import annotations

import os
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from znb.errors import ServiceUnavailable, ZnbError
from znb.export.otlp import OTEL_KIND, resource_attributes, span_attributes
from znb.spans.table import KINDS, STATUSES
from znb.traces.model import TraceData

__all__ = ["send_otlp"]

#: Spans of one request: what OpenTelemetry's own batches have.
BATCH = 512
#: Where a collector listens whose address names no port.
PORTS = {"http": 80, "https": 443}
#: Seconds in which one that listens accepts a connection, unless it is far away or busy.
CONNECT_TIMEOUT = 2.0


def send_otlp(
    data: TraceData, endpoint: str | None = None, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0
) -> int:
    """Send a trace to a collector; return how many spans it took.

    Args:
        data: The trace.
        endpoint: Such as ``"http://localhost:4318/v1/traces"``; ``None`` for what ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.
        headers: Sent along, such as an API key.
        timeout: Seconds for one request, retries included.

    Raises:
        ServiceUnavailable: Nobody listens there, or the collector did not take it.
        ZnbError: The exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an extra
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ZnbError("sending traces to a collector needs an extra: pip install 'znb[otlp]'") from error
    _check_listening(endpoint or _default_endpoint())
    exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers or {}) or None, timeout=timeout)
    sent = 0
    try:
        for batch in _batches(data):
            if exporter.export(batch) is not SpanExportResult.SUCCESS:
                raise ServiceUnavailable(
                    endpoint or "the OTLP collector",
                    f"took {sent} of {len(data)} spans and refused the next",
                    hint="The log of opentelemetry.exporter says why",
                )
            sent += len(batch)
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    return sent


def _default_endpoint() -> str:
    """Return where traces are sent if nobody says where, as OpenTelemetry has it."""
    whole, base = (os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("TRACES_ENDPOINT", "ENDPOINT"))
    return whole or f"{(base or 'http://localhost:4318').rstrip('/')}/v1/traces"


def _check_listening(endpoint: str) -> None:
    """Raise at once if nobody listens; the exporter would try for long, and not say so."""
    parts = urllib.parse.urlsplit(endpoint)
    if not parts.hostname or any(name.lower() in {"http_proxy", "https_proxy", "all_proxy"} for name in os.environ):
        return
    try:
        socket.create_connection((parts.hostname, parts.port or PORTS.get(parts.scheme, 80)), CONNECT_TIMEOUT).close()
    except TimeoutError:
        return  # far away, or busy: the exporter has a patience of its own
    except OSError as error:
        hint = "Give t.send(endpoint), or set OTEL_EXPORTER_OTLP_ENDPOINT"
        raise ServiceUnavailable(endpoint, f"no collector listens there: {error.strerror}", hint=hint) from None


def _batches(data: TraceData) -> Iterator[list[Any]]:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra

    resources = [Resource(resource_attributes(process)) for process in data.table.processes]
    for start in range(0, len(data), BATCH):
        yield [_readable(data, row, resources) for row in range(start, min(start + BATCH, len(data)))]


def _readable(data: TraceData, row: int, resources: list[Any]) -> Any:
    """Return a span as OpenTelemetry's SDK has it."""
    from opentelemetry import trace  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: PLC0415 - an extra

    def context(span_id: int) -> Any:
        return trace.SpanContext(data.trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(1))

    table = data.table
    status = STATUSES[table.status[row]]
    code = trace.StatusCode.ERROR if status in {"error", "lost"} else trace.StatusCode.OK
    attributes = {key: value for key, value in span_attributes(data, row).items() if value is not None}
    return ReadableSpan(
        name=table.strings[table.name[row]],
        context=context(table.span_id[row]),
        parent=context(table.parent_id[row]) if table.parent_id[row] else None,
        resource=resources[table.threads[table.thread[row]][0]],
        attributes=attributes,
        events=[Event(event.name, event.attributes, event.time_ns) for event in data.events(row)],
        kind=trace.SpanKind(OTEL_KIND.get(KINDS[table.kind[row]], 1) - 1),
        status=trace.Status(code, None if code is not trace.StatusCode.ERROR else status),
        start_time=table.start_ns[row],
        end_time=table.end_ns[row] or data.end_ns,
    )
