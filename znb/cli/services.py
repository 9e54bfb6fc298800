"""``znb serve``, ``call``, ``inspect``, ``ping``, ``shell`` and ``services``: services outside a notebook."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import socket
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from znb.cli import listing
from znb.cli.calls import (
    add_call_options,
    call,
    opened,
    read_arguments,
    remote_text,
    show,
    show_items,
    show_json,
    to_json,
)
from znb.cli.commands import Command, Parser, WrongUsage, nearest
from znb.cli.values import add_key_options, address, at_least_one, keys_of, seconds
from znb.errors import CallTimeout, ServiceUnavailable, ZnbError
from znb.rpc.describe import left_out
from znb.rpc.description import inspect_service, ping
from znb.rpc.failures import is_remote
from znb.rpc.registry import list_services
from znb.rpc.service import THREADS, Service
from znb.transport import is_local

__all__ = ["COMMANDS", "load_object"]

#: Signals that end ``znb serve`` as Ctrl-C does.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# -- serve -------------------------------------------------------------------------------------------------------


def load_object(text: str) -> tuple[str, Any]:
    """Return the name and the object that ``MODULE[:OBJECT]`` means; imports the module.

    Raises:
        WrongUsage: There is no such module, or nothing of that name in it.
        Exception: What the module raises when it is imported.
    """
    module_name, colon, path = text.partition(":")
    try:
        if colon and not path:
            raise ValueError
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        stem = Path(module_name).stem if module_name.endswith(".py") else ""
        hint = f"did you mean {stem}?" if stem else "looked for in this directory and among the installed packages"
        raise WrongUsage(f"there is no module {module_name}; {hint}") from None
    except (TypeError, ValueError) as error:  # "", ".x"
        raise WrongUsage(f"{text!r} is no MODULE or MODULE:OBJECT") from error
    for part in path.split(".") if path else ():
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [name for name in dir(found) if not name.startswith("_")]
            raise WrongUsage(f"{module_name} has no {path!r}{nearest(part, public)}") from None
    return path.rpartition(".")[2] or module_name, found


def _load_objects(targets: Sequence[str]) -> dict[str, Any]:
    """Return objects by name.

    Raises:
        WrongUsage: Two have the same name, or one is not there.
    """
    found: dict[str, Any] = {}
    for text in targets:
        name, obj = load_object(text)
        if name in found:
            raise WrongUsage(f"two of these are called {name}; serve them by two commands, each with its --name")
        found[name] = obj
    return found


def _serve(args: argparse.Namespace) -> int | None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it
    try:
        services = _make_services(_load_objects(args.targets), args)
    except (WrongUsage, ZnbError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the module or class raises is its user's to see
        error.__traceback__ = _own_frames(error)
        print("".join(traceback.format_exception(error)), end="", file=sys.stderr)
        return 1
    with contextlib.ExitStack() as stack:
        wait = stack.enter_context(_ending_by_signal())
        for service in services:
            _note_namesakes(service.name)
            stack.enter_context(service)
            print(_announcement(service), flush=True)
        print("Ctrl-C ends it.", flush=True)
        wait()
    return None


@contextlib.contextmanager
def _ending_by_signal() -> Iterator[Callable[[], None]]:
    """Yield what waits for one of the signals that end a service, from here on; the second one kills.

    Signals may be delivered to any thread, and then nothing wakes the main one from a lock: hence the socket.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)  # as set_wakeup_fd wants it
    known = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in ENDING}

    def wait() -> None:
        while not set(reader.recv(100)) & set(ENDING):
            pass
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)

    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(known)
        reader.close()
        writer.close()


def _make_services(things: dict[str, Any], args: argparse.Namespace) -> list[Service]:
    if len(things) > 1 and args.bind is not None and args.name is None:
        raise WrongUsage("one address for several objects: give --name, and they are one service")
    chosen: dict[str, Any] = things if args.name is None else {args.name: _together(things)}
    keys = keys_of(args)
    for name, obj in chosen.items():
        if left := left_out(obj):
            print(
                f"znb: left out of {name}: {', '.join(left)} (numbers, texts and the like have nothing to call)",
                file=sys.stderr,
            )
    try:
        return [
            Service(obj, name=name, bind=args.bind, threads=args.threads, keys=keys, insecure=args.insecure)
            for name, obj in chosen.items()
        ]
    except ZnbError as error:
        text = str(error).replace("name=", "--name").partition("; expose an instance")[0]
        raise WrongUsage(text) from error


def _together(things: dict[str, Any]) -> Any:
    return next(iter(things.values())) if len(things) == 1 else things


def _note_namesakes(name: str) -> None:
    """Say that another service of this name runs, which callers will find no more."""
    whose = [entry.worker or f"pid {entry.pid}" for entry in list_services() if entry.name == name]
    if whose:
        print(
            f"znb: another service {name!r} runs ({', '.join(whose)}); from now on callers by name find this one",
            file=sys.stderr,
        )


def _announcement(service: Service) -> str:
    names = list(service.methods)
    some = ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
    who = service.name if is_local(service.url) else f"'{service.address}'"  # others cannot look names up here
    method = f"{names[0]} ARG…" if len(names) == 1 else "METHOD ARG…"
    return (
        f"Serving {service.name} at {service.address}\n"
        f"  methods:     {some}\n"
        f"  try:         znb inspect {who}\n"
        f"               znb call {who} {method}\n"
        f'  in Python:   svc = znb.connect("{who.strip(chr(39))}")'
    )


def _own_frames(error: BaseException) -> Any:
    """Return an error's traceback from the module that is served on."""
    entry = error.__traceback__
    while entry is not None and (
        entry.tb_frame.f_globals.get("__name__", "").startswith(("znb.", "importlib"))
        or "importlib" in entry.tb_frame.f_code.co_filename
    ):
        entry = entry.tb_next
    return entry


# -- call --------------------------------------------------------------------------------------------------------


def _call(args: argparse.Namespace) -> int | None:
    with opened(args.url, args.timeout) as proxy:
        if args.method is None:
            if args.args or args.kw:
                raise WrongUsage("call which method?")
            described = inspect_service(proxy)
            print(to_json(described) if args.json else listing.methods_text(described))
            return None
        positional, named = read_arguments(args, as_json=args.json)
        try:
            show_items(call(proxy, args.method, positional, named), show_json if args.json else show)
        except Exception as error:
            if not is_remote(error) or isinstance(error, ServiceUnavailable | CallTimeout):
                raise
            print(remote_text(error), file=sys.stderr)
            return 1
    return None


# -- look --------------------------------------------------------------------------------------------------------


def _inspect(args: argparse.Namespace) -> None:
    with opened(args.url) as proxy:
        described = inspect_service(proxy)
    methods = described["methods"]
    if args.method is not None:
        prefix = f"{args.method}."
        chosen = {path: told for path, told in methods.items() if path == args.method or path.startswith(prefix)}
        if not chosen:
            raise WrongUsage(f"{described['name']} has no method {args.method!r}{nearest(args.method, methods)}")
        described = {**described, "methods": chosen}
    print(to_json(described) if args.json else listing.service_text(described, alone=args.method is not None))


def _ping(args: argparse.Namespace) -> None:
    with opened(args.url, args.timeout) as proxy:
        name = proxy._znb_description.name
        times = []
        for _ in range(args.count):
            times.append(ping(proxy, timeout=args.timeout))
            print(f"{name} answered in {times[-1] * 1000:.3f} ms", flush=True)
    if len(times) > 1:
        ordered = sorted(value * 1000 for value in times)
        middle = statistics.median(ordered)
        print(f"{len(times)} round trips: {ordered[0]:.3f} ms at best, {middle:.3f} median, {ordered[-1]:.3f} at worst")


def _shell(args: argparse.Namespace) -> None:
    import IPython  # noqa: PLC0415 - takes longer than any other command
    from traitlets.config import Config  # noqa: PLC0415 - as above

    with opened(args.url) as proxy:
        config = Config()
        config.TerminalIPythonApp.display_banner = False
        config.TerminalInteractiveShell.confirm_exit = False
        print(f"{proxy!r}\n\nIt is `svc` here: svc.METHOD(…), svc.METHOD?, help(svc). Ctrl-D ends this.\n", flush=True)
        IPython.start_ipython(argv=[], user_ns={"svc": proxy}, config=config)


def _services(args: argparse.Namespace) -> None:
    found = listing.look_at_services()
    if args.json:
        print(to_json(found))
    else:
        print(listing.services_text(found) or "No services. `znb serve statistics` would start one.")


# -- what they take ------------------------------------------------------------------------------------------------


def _url_argument(parser: Parser) -> None:
    parser.argument(
        "url",
        metavar="URL",
        offers="services",
        help="its name (znb services lists them), or ipc://… or tcp://host:port",
    )


def _json_option(parser: Parser, what: str) -> None:
    parser.argument("--json", action="store_true", help=what)


def _serve_arguments(parser: Parser) -> None:
    parser.argument(
        "targets", metavar="MODULE[:OBJECT]", nargs="+", help="what `import` finds, and a class, object or dict in it"
    )
    parser.argument(
        "--bind",
        metavar="URL",
        type=address,
        help="where to listen, such as tcp://127.0.0.1:4242 (default: where only you can reach it)",
    )
    parser.argument("--name", metavar="NAME", help="what callers say (default: the name of the object, or module)")
    parser.argument(
        "--threads",
        metavar="N",
        type=at_least_one,
        default=THREADS,
        help=f"calls that run at a time (default: {THREADS}); 1 runs them one after the other",
    )
    add_key_options(parser)


def _call_arguments(parser: Parser) -> None:
    _url_argument(parser)
    parser.argument("method", metavar="METHOD", nargs="?", help="what to call (default: list what there is)")
    parser.argument(
        "args", metavar="ARG", nargs="*", default=[], help="Python literals, such as 1 or '[1, 2]'; else strings"
    )
    add_call_options(parser)
    _json_option(parser, "take arguments as JSON and print results as JSON, one to a line")


def _inspect_arguments(parser: Parser) -> None:
    _url_argument(parser)
    parser.argument("method", metavar="METHOD", nargs="?", help="one method, or a group (default: all)")
    _json_option(parser, "as JSON")


def _ping_arguments(parser: Parser) -> None:
    _url_argument(parser)
    parser.argument("--count", metavar="N", type=at_least_one, default=5, help="how often (default: 5)")
    parser.argument("--timeout", metavar="S", type=seconds, default=5.0, help="give up after S seconds (default: 5)")


#: Commands of the shell that have to do with services.
COMMANDS = (
    Command(
        "serve",
        "let others call a module, class or object, as it is",
        _serve,
        _serve_arguments,
        "Of a module its public functions are served, of a class the methods of an instance made without arguments, of "
        "a dict its values. With --name several objects are one service, with methods like OBJECT.METHOD. Ctrl-C ends "
        "it.",
        "znb serve statistics                     in one terminal\n"
        "znb call statistics mean '[1, 2, 6]'     in another\n"
        "znb serve shop:Cart shop:prices --name shop --bind tcp://127.0.0.1:4242",
    ),
    Command(
        "call",
        "call a method of a service, list its methods",
        _call,
        _call_arguments,
        "A stream is printed item by item as it comes. Exit status: 0 done, 1 the method raised (its traceback is on "
        "stderr), 2 wrong usage, 3 not reachable or timed out, 4 refused.",
        "znb call statistics                          what it offers\n"
        "znb call statistics mean '[1, 2, 6]'         3\n"
        "znb call statistics quantiles '[1, 2, 3, 4]' --kw n=2\n"
        "znb call tcp://127.0.0.1:4242 find '\"x\"' --json | jq .",
    ),
    Command(
        "inspect",
        "show what a service offers: signatures and docs",
        _inspect,
        _inspect_arguments,
        examples="znb inspect statistics\nznb inspect statistics mean",
    ),
    Command("ping", "measure the round trip to a service", _ping, _ping_arguments, examples="znb ping statistics"),
    Command("shell", "open an IPython shell in which the service is `svc`", _shell, _url_argument),
    Command(
        "services",
        "list your services on this machine, with signatures and docs",
        _services,
        lambda parser: _json_option(parser, "as JSON"),
    ),
)
