"""OTLP over HTTP to a collector, by OpenTelemetry's own exporter (the extra ``znb[otlp]``).

The exporter brings protobuf, compression, retries, and its settings in ``OTEL_EXPORTER_OTLP_…``. Blocks its caller.
Source: opentelemetry-exporter-otlp-proto-http.
"""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from znb.errors import ServiceUnavailable, ZnbError
from znb.export.otlp import OTEL_KIND, resource_attributes, span_attributes
from znb.spans.table import KINDS, STATUSES
from znb.traces.model import TraceData

__all__ = ["send_otlp"]

#: Spans of one request: what OpenTelemetry's own batches have.
BATCH = 512


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
        ServiceUnavailable: The collector did not take it.
        ZnbError: The exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an extra
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ZnbError("sending traces to a collector needs an extra: pip install 'znb[otlp]'") from error
    exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers or {}) or None, timeout=timeout)
    address = endpoint or str(getattr(exporter, "_endpoint", "the OTLP collector"))
    sent = 0
    try:
        _check_reachable(address, timeout)
        for batch in _batches(data):
            if exporter.export(batch) is not SpanExportResult.SUCCESS:
                raise ServiceUnavailable(
                    address,
                    f"took {sent} of {len(data)} spans and not the next",
                    hint="The log of opentelemetry.exporter says why",
                )
            sent += len(batch)
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    return sent


def _check_reachable(address: str, timeout: float) -> None:
    """Raise ``ServiceUnavailable`` if nobody listens: the exporter would try again and again, and not say why."""
    parts = urllib.parse.urlsplit(address)
    if not parts.hostname or (parts.scheme in urllib.request.getproxies() and not _goes_direct(parts.hostname)):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout).close()
    except OSError as error:
        raise ServiceUnavailable(
            address,
            f"no OpenTelemetry collector listens there: {error.strerror or error}",
            hint='Start one, or say where it is: OTEL_EXPORTER_OTLP_ENDPOINT, or t.send("http://HOST:4318/v1/traces")',
        ) from error


def _goes_direct(host: str) -> bool:
    return bool(urllib.request.proxy_bypass(host))


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
