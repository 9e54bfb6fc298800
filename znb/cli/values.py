"""What arguments may be: counts, seconds, lists of names, ``K=V``; and the options that several commands share.

Each function here is a ``type`` for argparse: it returns the value, or raises ``argparse.ArgumentTypeError`` that says
what was expected. Pure.
"""

from __future__ import annotations

import argparse
import difflib
import keyword
import math
import sys
from importlib.metadata import entry_points
from typing import Any

from znb.checks import check_bind, check_listen
from znb.cli.commands import Parser
from znb.connection import check_name
from znb.errors import AuthError, ZnbError
from znb.launchers import BUILT_IN, GROUP, parse_where
from znb.rpc.security import Keys, check_url, load_keys
from znb.transport import is_local

__all__ = [
    "add_key_options",
    "add_place_options",
    "add_ssh_option",
    "add_target_option",
    "address",
    "at_least_one",
    "bind_address",
    "cluster_name",
    "keys_of",
    "launchers",
    "listen_address",
    "not_in_force",
    "not_negative",
    "place",
    "seconds",
    "setting",
    "start_options",
    "variable",
    "variables",
]

#: Where workers run unless told otherwise.
HERE = "local"


def at_least_one(text: str) -> int:
    """Return a number of workers to start."""
    return _count(text, 1)


def not_negative(text: str) -> int:
    """Return a number of workers to have."""
    return _count(text, 0)


def _count(text: str, least: int) -> int:
    if text.isascii() and text.isdigit() and int(text) >= least:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")


def seconds(text: str) -> float:
    """Return a duration."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value > 0 and math.isfinite(value):
        return value
    raise argparse.ArgumentTypeError(f"expected seconds, such as 2.5, got {text!r}")


def cluster_name(text: str) -> str:
    """Return a name for a cluster."""
    try:
        return check_name(text)
    except ZnbError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def place(text: str) -> str:
    """Return where workers are to run, if there is a launcher for it."""
    wanted = parse_where(text).launcher
    if wanted in BUILT_IN or wanted in (known := launchers()):
        return text
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise argparse.ArgumentTypeError(f"there is no launcher {wanted!r}; {hint}")


def launchers() -> list[str]:
    """Return the names of the launchers that are installed."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def setting(text: str) -> tuple[str, str]:
    """Return name and value of an environment variable."""
    name, equals, value = text.partition("=")
    if name and equals:
        return name, value
    raise argparse.ArgumentTypeError(f"expected K=V, such as OMP_NUM_THREADS=1, got {text!r}")


def variable(text: str) -> str:
    """Return the name of a variable."""
    if text.isidentifier() and not keyword.iskeyword(text):
        return text
    raise argparse.ArgumentTypeError(f"expected a variable's name, got {text!r}")


def variables(text: str) -> tuple[str, ...]:
    """Return names of variables, separated by commas."""
    names = tuple(variable(part.strip()) for part in text.split(",") if part.strip())
    return names or (variable(text),)


def address(text: str) -> str:
    """Return an address to listen at."""
    try:
        return check_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def bind_address(text: str) -> str:
    """Return where workers are to listen."""
    try:
        return check_bind("it", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def listen_address(text: str) -> str:
    """Return where clients of other machines are to be let in."""
    try:
        return check_listen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_key_options(parser: Parser) -> None:
    """Add ``--keys FILE`` and ``--insecure``: who may come in (``keys_of``)."""
    parser.argument(
        "--keys",
        metavar="FILE",
        offers="paths",
        help="the keys of the service, made if there are none: needed to be called from other machines",
    )
    parser.argument(
        "--insecure", action="store_true", help="let other machines call without keys: whoever reaches it may call it"
    )


def keys_of(args: argparse.Namespace) -> Keys | None:
    """Return the keys that ``--keys`` names; warns of a service that others reach without.

    Raises:
        AuthError: Others could reach it, and nothing protects it.
    """
    keys = load_keys(args.keys) if args.keys is not None else None
    if args.bind is not None and not is_local(args.bind) and keys is None:
        if not args.insecure:
            raise AuthError(
                f"{args.bind} can be reached from other machines, and whoever reaches it could call everything that is "
                f"served. Give --keys FILE, and only who knows the address that is printed then may call; or say "
                f"--insecure, if you trust everybody on the network"
            )
        print(
            f"znb: insecure: whoever can reach {args.bind} may call this, and what is said can be read on the way",
            file=sys.stderr,
        )
    return keys


def add_target_option(parser: Parser) -> None:
    """Add ``--on TARGETS``."""
    parser.argument(
        "--on",
        metavar="T",
        default="all",
        offers="targets",
        help="which workers: all (default), any (the least busy), 0, 0,2, 1:3, -1, or a name such as w0",
    )


def add_place_options(parser: Parser) -> None:
    """Add what a start needs to know about the workers."""
    parser.argument(
        "n", metavar="N", nargs="?", type=at_least_one, help="number of workers (default: one per usable CPU)"
    )
    parser.argument(
        "--on",
        metavar="WHERE",
        type=place,
        default=HERE,
        offers="places",
        help="where they run (default: local, on this machine)",
    )
    parser.argument(
        "--name",
        metavar="NAME",
        type=cluster_name,
        help='the cluster\'s name, by which others connect (default: "default")',
    )
    parser.argument(
        "--env",
        metavar="K=V",
        action="append",
        default=[],
        type=setting,
        help="an environment variable for the workers; may be given several times",
    )
    parser.argument("--cwd", metavar="DIR", offers="paths", help="their working directory (default: this one)")
    parser.argument("--python", metavar="PATH", offers="paths", help="their interpreter (default: this one)")
    parser.argument(
        "--bind",
        metavar="URL",
        type=bind_address,
        help="where workers on other machines listen, such as tcp://10.0.0.5:20000-20100, or tcp://*:20000-20100 to "
        "choose the ports alone (default: the address that leads here)",
    )
    parser.argument(
        "--listen",
        metavar="URL",
        type=listen_address,
        help="address of this machine, such as tcp://10.0.0.5:7000, at which who has a copy of the connection file "
        "is let in from other machines (default: none)",
    )
    parser.argument(
        "--deploy",
        action="store_true",
        help="send znb and what it needs to the hosts of ssh:…, which need Python alone then; they keep it",
    )


def add_ssh_option(parser: Parser) -> None:
    """Add ``--ssh HOST``."""
    parser.argument(
        "--ssh",
        metavar="HOST",
        help="the machine that the cluster was started on, as ssh calls it, if that is another one: NAME is then a "
        "copy of its connection file",
    )


def start_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``add_place_options`` found, as ``Cluster.start`` takes it."""
    return {
        "on": args.on,
        "name": args.name,
        "env": dict(args.env),
        "cwd": args.cwd,
        "python": args.python,
        "bind": args.bind,
        "listen": args.listen,
        "deploy": args.deploy,
    }


def not_in_force(args: argparse.Namespace) -> str:
    """Return what to say of the options for a new cluster to who gets one that runs; empty if there were none."""
    given = [f"--{name}" for name, value in start_options(args).items() if value and name not in {"name", "on"}]
    if args.on != HERE:
        given.insert(0, f"--on {args.on}")
    return f"{', '.join(given)}: not in force, as it was started before." if given else ""
