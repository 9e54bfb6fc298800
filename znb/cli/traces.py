"""``znb trace``: traces of a service or of a file, as text or converted; and what notebooks say of them alike."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from znb.callees import Callees
from znb.cli.commands import Command, Parser, WrongUsage
from znb.errors import AuthError, ServiceUnavailable
from znb.export import TraceFileError
from znb.rpc.registry import find_service
from znb.spans import Recorder
from znb.traces import Feed, Store
from znb.traces.analysis import failures
from znb.traces.listing import duration
from znb.tracing import Trace

__all__ = ["COMMANDS", "save", "trace_table"]

#: Traces of a service that are shown.
SHOWN_MAX = 10
#: Seconds that a service has to say what it has recorded.
TIMEOUT = 10.0
#: How the command is typed.
USAGE = "znb trace URL|NAME|FILE [--save FILE]"


def save(trace: Trace, file: str) -> str:
    """Save a trace, and return what to tell the user.

    Raises:
        WrongUsage: The file's suffix says no format, or it cannot be written.
    """
    try:
        path = trace.save(file)
    except TraceFileError as error:
        raise WrongUsage(str(error)) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise WrongUsage(f"{file} cannot be written: {error.strerror or error}{where}") from None
    return f"Saved {_title(trace)!r} ({len(trace.data):,} spans) to {path}."


def _title(trace: Trace) -> str:
    """Return what a trace is called; where it has no title, what its first span is."""
    return trace.title or next((span.name for span in trace.spans), "a trace")


def trace_table(traces: Sequence[Trace]) -> str:
    """Return a line for each trace, the latest last; empty if there is none."""
    if not traces:
        return ""
    rows = [("id", "took", "spans", "failed", "began", "title")]
    for found in traces:
        data = found.data
        failed = len(failures(data))
        began = time.strftime("%H:%M:%S", time.localtime(data.start_ns / 1e9)) if len(data) else ""
        took = duration(data.end_ns - data.start_ns) if len(data) else ""
        rows.append((found.trace_id[:8], took, f"{len(data):,}", str(failed or ""), began, _title(found)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  "
        f"{row[4]:{widths[4]}}  {row[5]}".rstrip()
        for row in rows
    )


def _trace(args: argparse.Namespace) -> None:
    traces = _of(args.source)
    if args.save:
        if not traces:
            raise WrongUsage(f"{args.source} has recorded nothing yet, so there is nothing to save")
        for file in args.save:
            print(save(traces[-1], file))
        return
    for number, found in enumerate(traces[-SHOWN_MAX:]):
        if number:
            print()
        print(found)
    if not traces:
        print(f"{args.source} has recorded nothing yet.")


def _of(source: str) -> list[Trace]:
    """Return the traces of a URL, a file, or a service of this user by its name."""
    if "://" in source:
        return _of_service(source)
    if Path(source).is_file() or Path(source).suffix:
        return [_of_file(source)]
    try:
        replicas = find_service(source)
    except ServiceUnavailable as error:
        raise WrongUsage(
            f"{source or 'an empty name'} is neither a URL nor a file; and as a service, {error}", USAGE
        ) from None
    return [found for replica in replicas for found in _of_service(replica.url)]


def _of_file(name: str) -> Trace:
    try:
        return Trace.load(name)
    except TraceFileError as error:
        raise WrongUsage(str(error)) from None
    except OSError as error:
        hint = "" if Path(name).exists() else "; expected a file, or a URL such as tcp://127.0.0.1:4242"
        raise WrongUsage(f"{name} cannot be read: {error.strerror or error}{hint}", USAGE) from None


def _of_service(url: str) -> list[Trace]:
    """Return what a service, and those that it has called, keep, the latest last.

    Raises:
        AuthError: It does not tell strangers.
        ServiceUnavailable: It does not answer.
    """
    store = Store(Feed(Recorder()))
    callees = Callees(store)
    try:
        callees.read(url, TIMEOUT)
    except PermissionError as error:
        raise AuthError(f"{url} refused: {error}") from None
    callees.collect(TIMEOUT)
    found = []
    for trace_id, title in store.titles(ours=False):
        data = store.assemble(trace_id)
        if data is not None:
            found.append(Trace(title, trace_id, lambda _version, data=data: (0, data)))  # type: ignore[misc]
    return found


def _arguments(parser: Parser) -> None:
    parser.argument("source", metavar="URL|NAME|FILE", offers="paths", help="a running service, or a saved trace")
    parser.argument(
        "--save",
        metavar="FILE",
        action="append",
        offers="paths",
        help="write it to a file: .json, .speedscope.json, .otlp.json, .folded, .html or .svg",
    )


#: What ``znb`` has for traces.
COMMANDS = (
    Command(
        "trace",
        "show the calls of a service or of a saved trace as a tree, or convert it",
        _trace,
        _arguments,
        f"Of a service the last {SHOWN_MAX} traces are shown, and with --save the last is saved.",
        "znb trace tcp://127.0.0.1:4242\nznb trace run.otlp.json --save run.html",
    ),
)
