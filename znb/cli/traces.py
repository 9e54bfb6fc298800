"""``znb trace``: traces of what runs or of a file, as text or converted; and what notebooks say of them alike."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from znb.callees import Callees
from znb.cli.commands import Command, Parser, WrongUsage
from znb.cluster import Cluster
from znb.connection import list_clusters
from znb.errors import AuthError, ZnbError
from znb.export import FORMATS, TraceFileError
from znb.pubsub.places import EVERYWHERE
from znb.rpc.registry import list_services
from znb.spans import Recorder
from znb.traces import Feed, Store
from znb.traces.analysis import failures
from znb.traces.listing import duration
from znb.tracing import TRACES, Trace

__all__ = ["COMMANDS", "add_save_option", "save", "trace_table"]

#: Traces of a service that are shown.
SHOWN_MAX = 10
#: Seconds that a service has to say what it has recorded.
TIMEOUT = 10.0
#: How the command is typed.
USAGE = "znb trace URL|NAME|FILE [--id ID] [--save FILE]"


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
    count = len(trace.data)
    return f"Saved {_title(trace)!r} ({count:,} span{'s' * (count != 1)}) to {path}."


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
    traces = _of_source(args.source)
    if args.id:
        traces = [_of_id(traces, args.id, args.source)]
    if args.save:
        if not traces:
            raise WrongUsage(f"{args.source} has recorded nothing yet, so there is nothing to save")
        for file in args.save:
            print(save(traces[-1], file))
        return
    if len(traces) > 1:
        print(f"{len(traces)} traces:\n{trace_table(traces)}")
    for number, found in enumerate(traces[-SHOWN_MAX:]):
        if number or len(traces) > 1:
            print()
        print(found)
    if not traces:
        print(f"{args.source} has recorded nothing yet.")


def _of_id(traces: Sequence[Trace], wanted: str, source: str) -> Trace:
    """Return the trace whose id begins so."""
    found = [one for one in traces if one.trace_id.startswith(wanted.lower())]
    if len(found) == 1:
        return found[0]
    ids = ", ".join(one.trace_id[:8] for one in (found or traces)[-SHOWN_MAX:]) or "none"
    raise WrongUsage(f"expected the id of one trace, got {wanted!r}; {source} has {ids}", USAGE)


def _of_file(name: str) -> Sequence[Trace]:
    try:
        return Trace.load_all(name)
    except TraceFileError as error:
        raise WrongUsage(str(error)) from None
    except OSError as error:
        raise WrongUsage(f"{name} cannot be read: {error.strerror or error}", USAGE) from None


def _of_source(source: str) -> list[Trace]:
    """Return the traces of what was typed: an address, a file, or a name of what runs here."""
    if "://" in source:
        return _of_services([source])
    if Path(source).expanduser().is_file() or os.sep in source or source.endswith(tuple(FORMATS)):
        if not Path(source).expanduser().exists():
            raise WrongUsage(f"{source} cannot be read: No such file or directory; {_what_there_is()}", USAGE)
        return list(_of_file(source))
    services = {entry.url: entry.name for entry in list_services()}
    clusters = [entry.name for entry in list_clusters() if entry.state == "alive"]
    if source == EVERYWHERE:
        found = _of_clusters(clusters, strict=False) + _of_services(list(services), strict=False)
        return sorted(found, key=lambda one: one.data.start_ns)
    if source in services.values():
        return _of_services([url for url, name in services.items() if name == source])
    if source in clusters:
        return _of_clusters([source])
    near = difflib.get_close_matches(source, [*services.values(), *clusters], n=1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    raise WrongUsage(f"there is no file, service or cluster {source!r} here; {_what_there_is()}{hint}", USAGE)


def _what_there_is() -> str:
    names = {"services": {entry.name for entry in list_services()}}
    names["clusters"] = {entry.name for entry in list_clusters() if entry.state == "alive"}
    running = "; ".join(f"{kind}: {', '.join(sorted(found)) or 'none'}" for kind, found in names.items())
    return f"expected a file, or a URL such as tcp://127.0.0.1:4242, or the name of what runs here ({running})"


@contextlib.contextmanager
def _failing(*, strict: bool) -> Iterator[None]:
    """Let one of several fail: an error if ``strict``; else it is only mentioned, on stderr."""
    try:
        yield
    except ZnbError as error:
        if strict:
            raise
        print(f"znb: {error}", file=sys.stderr)


def _of_clusters(names: Sequence[str], *, strict: bool = True) -> list[Trace]:
    """Return what the workers of clusters keep, each trace once; what their clients did is theirs to tell.

    Args:
        names: The clusters.
        strict: Whether one that does not tell, having ended say, is an error; else it is only mentioned.

    Raises:
        ServiceUnavailable: It has ended.
    """
    workers: set[str] = set()
    for name in names:
        with _failing(strict=strict), contextlib.closing(Cluster.connect(name, observe=True)) as cluster:
            TRACES.collect(TIMEOUT)
            workers.update(cluster.names)
    found = [TRACES[trace_id] for trace_id, _ in TRACES.store.titles(ours=False)]
    return [one for one in found if any(process.worker in workers for process in one.data.table.processes)]


def _of_services(urls: Sequence[str], *, strict: bool = True) -> list[Trace]:
    """Return what services, and those that they have called, keep, the latest last.

    Args:
        urls: Where they are.
        strict: Whether one that does not tell is an error; else it is only mentioned.

    Raises:
        AuthError: It does not tell strangers.
        ServiceUnavailable: It does not answer.
    """
    store = Store(Feed(Recorder()))
    callees = Callees(store)
    for url in urls:
        with _failing(strict=strict):
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
    parser.argument(
        "source",
        metavar="URL|NAME|FILE",
        offers="paths",
        help="a running service or cluster (`local` for all of yours here), or a saved trace",
    )
    parser.argument("--id", metavar="ID", help="of several traces, the one whose id begins so")
    add_save_option(parser)


def add_save_option(parser: Parser) -> None:
    """Add ``--save FILE``, which may be given several times."""
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
        "show the calls of a service, a cluster's workers or a saved trace as a tree, or convert it",
        _trace,
        _arguments,
        f"Of several traces the last {SHOWN_MAX} are shown, and with --save the last is saved; --id chooses one.",
        "znb trace prices                 the service of this name, and those that it has called\n"
        "znb trace tcp://127.0.0.1:4242   the one at an address\n"
        "znb trace local                  all services and clusters of yours on this machine\n"
        "znb trace run.otlp.json --save run.html",
    ),
)
