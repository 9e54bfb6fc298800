"""``%znb services`` and ``%znb call``; ``%%znb expose`` makes a cell's functions and classes a service."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from pathlib import Path
from typing import Any

from znb.cli import listing
from znb.cli.calls import add_call_options, call, opened, read_arguments, show_items
from znb.cli.commands import Command, Parser, WrongUsage
from znb.cli.values import add_key_options, address, keys_of
from znb.errors import ZnbError
from znb.magics.localcell import LocalCell
from znb.magics.session import Session
from znb.rpc.description import inspect_service
from znb.rpc.host import check_shared, expose, host
from znb.rpc.registry import NAME_PATTERN, check_service_name, list_services
from znb.rpc.streams import Stream

__all__ = ["CELL_COMMANDS", "LINE_COMMANDS", "notebook_name"]

#: Name of the service of a notebook whose own name is not known.
DEFAULT_NAME = "notebook"
#: What a server of notebooks tells the kernel about the notebook's path: Jupyter's in the environment.
JUPYTER_VARIABLE = "JPY_SESSION_NAME"
#: VS Code's, in the namespace.
VSCODE_VARIABLE = "__vsc_ipynb_file__"


def _services(_session: Session, _args: argparse.Namespace) -> None:
    print(listing.services_text(listing.look_at_services()) or "No services. `%%znb expose` makes one of a cell.")


def _call(_session: Session, args: argparse.Namespace) -> Any:
    target, method, words = split_method(args.method, args.args)
    args.args = words
    positional, named = read_arguments(args)
    with opened(target, args.timeout) as proxy:
        if not method:
            print(listing.methods_text(inspect_service(proxy)))
            return None
        result = call(proxy, method, positional, named)
        if not isinstance(result, Stream):
            return result
        show_items(result, _show)
        return None


def _show(item: Any) -> None:
    print(item if isinstance(item, str) else repr(item), end="" if str(item).endswith("\n") else "\n")


def split_method(text: str, words: list[str]) -> tuple[str, str, list[str]]:
    """Return the service, the method and the arguments that ``SERVICE.METHOD ARG…`` means; names may have dots.

    For an address the method is the word that follows it. Without a method its name is empty.
    """
    if "://" in text:
        return text, *((words[0], words[1:]) if words else ("", []))
    names = {entry.name for entry in list_services()}
    if text in names:
        if words:
            raise WrongUsage(f"which method of {text}? It is written {text}.METHOD")
        return text, "", []
    known = [name for name in names if text.startswith(f"{name}.")]
    service = max(known, key=len) if known else text.partition(".")[0]
    return service, text[len(service) + 1 :], words


# -- expose ------------------------------------------------------------------------------------------------------


def _expose(session: Session, args: argparse.Namespace) -> Any:
    name = args.name or notebook_name(session)
    workers = session.workers(args.on) if args.on is not None else None
    door = {"bind": args.bind, "keys": keys_of(args), "insecure": args.insecure}
    if workers is not None:
        check_shared(args.bind, workers)
    cell = LocalCell(session.shell, args.cell, session.cell_number())
    names = cell.definitions()
    value = cell.run()
    offered, notes = _offered({name: session.namespace[name] for name in names if name in session.namespace})
    if not offered:
        left = f": {'; '.join(notes)}" if notes else ""
        raise WrongUsage(f"nothing to expose: this cell defines no public function or class{left}")
    if workers is None:  # or an instance of each worker's own would be better than copies of one that was made here
        made = {key: cell.call(obj) if isinstance(obj, type) else obj for key, obj in offered.items()}
        expose(made, name=name, **door)
    else:
        expose(offered, name=name, on=workers, **door)
    replicas = f" on {', '.join(workers.names)}" if workers is not None else ""
    where = f" at {host.services[name].address}" if args.bind is not None and workers is None else ""
    print(f"Service {name!r}{replicas}{where}: {', '.join(_headline(key, obj) for key, obj in offered.items())}")
    print("\n".join([*notes, f'Call it: %znb call {name}.METHOD ARG…, or znb.connect("{name}")']))
    return value


def _offered(found: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what of a cell's definitions is exposed, and a note on each of which that cannot be."""
    offered: dict[str, Any] = {}
    notes = []
    for name, obj in found.items():
        if isinstance(obj, type):
            if issubclass(obj, BaseException):
                continue  # it is what the others raise
            try:
                inspect.signature(obj).bind()
            except TypeError as error:
                notes.append(f"{name} is left out: it cannot be made without arguments ({error})")
                continue
            except ValueError:  # written in C, so nobody knows
                pass
            if not any(not key.startswith("_") and callable(getattr(obj, key)) for key in dir(obj)):
                notes.append(f"{name} is left out: it has no public methods")
                continue
        offered[name] = obj
    return offered, notes


def _headline(name: str, obj: Any) -> str:
    """Return a method's name and signature, or a class's name and its methods'."""
    if isinstance(obj, type):
        return f"{name}.{{{', '.join(key for key in dir(obj) if not key.startswith('_'))}}}"
    try:
        return f"{name}{inspect.signature(obj)}"
    except (TypeError, ValueError):  # what a decorator made of it
        return f"{name}(…)"


def notebook_name(session: Session) -> str:
    """Return a name for the notebook's service: the notebook's own, as far as it is known here."""
    path = session.namespace.get(VSCODE_VARIABLE) or os.environ.get(JUPYTER_VARIABLE) or ""
    stem = Path(str(path)).name.removesuffix(".ipynb")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")[:40]
    return name if NAME_PATTERN.fullmatch(name) else DEFAULT_NAME


# -- what they take ------------------------------------------------------------------------------------------------


def service_name(text: str) -> str:
    """Return a name for a service."""
    try:
        return check_service_name(text)
    except ZnbError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _call_arguments(parser: Parser) -> None:
    parser.argument("method", metavar="SERVICE.METHOD", offers="methods", help="%%znb services lists them")
    parser.argument(
        "args", metavar="ARG", nargs="*", default=[], help="Python literals, such as 1 or '[1, 2]'; else strings"
    )
    add_call_options(parser)


def _expose_arguments(parser: Parser) -> None:
    parser.argument(
        "name", metavar="NAME", nargs="?", type=service_name, help="what callers say (default: the notebook's name)"
    )
    parser.argument(
        "--bind",
        metavar="URL",
        type=address,
        help="where to listen, such as tcp://127.0.0.1:4242 (default: where only you can reach it)",
    )
    parser.argument(
        "--on",
        metavar="T",
        offers="targets",
        help="expose it on workers instead, one replica each: all, any, 0, 0,2, 1:3, -1, or a name such as w0",
    )
    add_key_options(parser)


#: Line magics for services.
LINE_COMMANDS = (
    Command("services", "list your services on this machine, with signatures and docs", _services),
    Command(
        "call",
        "call a method of a service",
        _call,
        _call_arguments,
        "The result is the line's value; a stream is printed item by item. Of a service that has no name here give the "
        "address and the method as two words.",
        "%znb call statistics.mean '[1, 2, 6]'\n"
        "%znb call notebook.add 1 --kw b=2\n"
        "mean = %znb call statistics.mean '{data}'    with the value of your variable",
    ),
)

#: Cell magics for services.
CELL_COMMANDS = (
    Command(
        "expose",
        "run this cell here, and let others call its functions and classes",
        _expose,
        _expose_arguments,
        "Each public function and class that the cell defines becomes a method, or a group of methods, of one service. "
        "Run the cell again and callers get what is new; calls in flight end with what they began with.",
        '%%znb expose                  callers say znb.connect("NOTEBOOK\'S NAME")\n'
        "%%znb expose maths --on all   a replica on each worker; calls are balanced",
    ),
)
