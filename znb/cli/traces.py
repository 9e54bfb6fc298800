"""``znb trace``: traces of a service or of a file, as text or converted; and what notebooks say of them alike."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from znb.callees import Callees
from znb.cli.commands import Command, Parser, WrongUsage
from znb.errors import AuthError
from znb.export import TraceFileError
from znb.spans import Recorder
from znb.traces import Feed, Store
from znb.traces.analysis import failures
from znb.traces.tables import duration
from znb.tracing import Trace

__all__ = ["COMMANDS", "save", "trace_table"]

#: Traces of a service that are shown.
SHOWN_MAX = 10
#: Seconds that a service has to say what it has recorded.
TIMEOUT = 10.0
#: How the command is typed.
USAGE = "znb trace URL|FILE [--save FILE]"


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
        raise WrongUsage(f"{file} cannot be written: {error.strerror or error}") from None
    return f"Saved {trace.title!r} ({len(trace.data):,} spans) to {path}."


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
        rows.append((found.trace_id[:8], took, f"{len(data):,}", str(failed or ""), began, found.title))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  "
        f"{row[4]:{widths[4]}}  {row[5]}".rstrip()
        for row in rows
    )


def _trace(args: argparse.Namespace) -> None:
    traces = _of_service(args.source) if "://" in args.source else [_of_file(args.source)]
    if args.save:
        if not traces:
            raise WrongUsage(f"{args.source} has recorded nothing yet, so there is nothing to save")
        print(save(traces[-1], args.save))
        return
    for number, found in enumerate(traces[-SHOWN_MAX:]):
        if number:
            print()
        print(found)
    if not traces:
        print(f"{args.source} has recorded nothing yet.")


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
    parser.argument("source", metavar="URL|FILE", offers="paths", help="a running service, or a trace saved before")
    parser.argument(
        "--save",
        metavar="FILE",
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
