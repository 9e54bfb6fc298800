"""``%znb push`` and ``%znb pull`` copy variables; ``%%znb remote`` runs a cell on workers."""

from __future__ import annotations

import argparse
import concurrent.futures
from typing import TYPE_CHECKING, Any

from znb.cli.commands import Command, Parser
from znb.cli.values import add_target_option, seconds, variable, variables
from znb.console import make_sink
from znb.locks import Future
from znb.magics.failures import rendered
from znb.magics.session import Session

if TYPE_CHECKING:
    from znb.workers import Workers

__all__ = ["CELL_COMMANDS", "LINE_COMMANDS"]

#: Number of a remote cell's first line: the ``%%znb`` line above it is the notebook cell's first.
FIRST_LINE = 2


def _push(session: Session, args: argparse.Namespace) -> None:
    session.workers(args.on).push(session.values(_flat(args.names)))


def _pull(session: Session, args: argparse.Namespace) -> None:
    session.bind(_pulled(session.workers(args.on), _flat(args.names)))


def _pulled(workers: Workers, names: tuple[str, ...]) -> dict[str, Any]:
    """Return variables from workers: each a value, or from several workers a dict of values."""
    found = workers.pull(*names)
    if len(workers) == 1:
        return dict(zip(names, found if len(names) > 1 else [found], strict=True))
    if len(names) == 1:
        return {names[0]: found}
    return {name: {worker: values[index] for worker, values in found.items()} for index, name in enumerate(names)}


def _remote(session: Session, args: argparse.Namespace) -> Any:
    workers = session.workers(args.on)
    source = args.cell
    if not source.strip():
        return None
    options = {
        "label": session.cell_label(),
        "first_line": FIRST_LINE,
        "timeout": args.timeout,
        "push": session.values(args.push) if args.push else {},
    }
    if args.bg:
        future = _in_background(session, workers, source, options, args.pull)
        if args.out is None:
            return future
        session.bind({args.out: future})
        return None
    value = workers.run(source, **options)
    if args.pull:
        session.bind(_pulled(workers, args.pull))
    if args.out is not None:
        session.bind({args.out: value})
        return None
    return value


def _in_background(
    session: Session, workers: Workers, source: str, options: dict[str, Any], pull: tuple[str, ...]
) -> concurrent.futures.Future[Any]:
    """Run a cell without waiting. Variables to pull are set, and a failure is shown, before the future is done."""
    sink = make_sink(detached=True)
    future: concurrent.futures.Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def finish(running: concurrent.futures.Future[Any]) -> None:
        error = running.exception()  # not by result(), which would add its own frames to the traceback
        if error is None and pull:
            try:
                session.bind(_pulled(workers, pull))
            except BaseException as failure:  # noqa: BLE001 - it belongs to the future
                error = failure
        if error is None:
            future.set_result(running.result())
        else:
            sink.write("stderr", f"{options['label']} failed in the background:\n{rendered(error)}\n")
            future.set_exception(error)

    workers.run_nowait(source, sink=sink, **options).add_done_callback(finish)
    return future


def _flat(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _push_arguments(parser: Parser) -> None:
    parser.argument(
        "names", metavar="NAME", nargs="+", type=variables, offers="variables", help="variables of this notebook"
    )
    add_target_option(parser)


def _pull_arguments(parser: Parser) -> None:
    parser.argument("names", metavar="NAME", nargs="+", type=variables, help="variables of the workers")
    add_target_option(parser)


def _remote_arguments(parser: Parser) -> None:
    add_target_option(parser)
    parser.argument("--out", metavar="NAME", type=variable, help="put the cell's value into this variable")
    parser.argument("--bg", action="store_true", help="return at once, with a future of the value in NAME, else in _")
    parser.argument(
        "--push",
        metavar="A,B",
        type=variables,
        default=(),
        offers="variables",
        help="copy these variables to the workers before",
    )
    parser.argument(
        "--pull", metavar="X,Y", type=variables, default=(), help="copy these variables from the workers after"
    )
    parser.argument("--timeout", metavar="S", type=seconds, help="interrupt the cell after S seconds (default: never)")


#: Line magics for variables.
LINE_COMMANDS = (
    Command(
        "push",
        "copy variables of this notebook to workers",
        _push,
        _push_arguments,
        examples="%znb push data, model          to all workers\n%znb push seed --on w0",
    ),
    Command(
        "pull",
        "copy variables of workers into this notebook",
        _pull,
        _pull_arguments,
        "From one worker a variable gets the value; from several, a dict of values by worker.",
        "%znb pull losses --on 0        the value on the first worker\n"
        "%znb pull losses               {'w0': …, 'w1': …}",
    ),
)

#: Cell magics.
CELL_COMMANDS = (
    Command(
        "remote",
        "run this cell on workers",
        _remote,
        _remote_arguments,
        "Output appears live, labelled by worker. The last expression is the cell's value: from several workers a "
        "dict by worker. An error on any worker fails the cell.",
        "%%znb remote                       on every worker\n"
        "%%znb remote --on 0 --out model    on the first; the value goes to `model`\n"
        "%%znb remote --bg                  in the background; `_.result()` waits for it",
    ),
)
