"""Calling services from a line of text: arguments read, results shown, failures told.

What the shell's ``znb call`` and the notebook's ``%znb call`` have in common. Values go in as Python literals (what is
none is a string) or as JSON, and come out likewise: text as it is, other values as ``repr`` shows them, nothing for
``None``; an item of a stream as soon as it is there.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import pprint
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import zmq

from znb.cli.commands import Parser, WrongUsage
from znb.cli.values import seconds
from znb.errors import ZnbError
from znb.rpc.failures import is_remote
from znb.rpc.proxy import Proxy, connect
from znb.rpc.streams import Stream
from znb.tracebacks import detach

__all__ = [
    "add_call_options",
    "call",
    "keyword",
    "opened",
    "read_arguments",
    "read_literal",
    "remote_text",
    "show_items",
    "to_json",
]

#: What a literal that a shell has cut at a space begins with, and what it should end with.
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


# -- in ----------------------------------------------------------------------------------------------------------


def add_call_options(parser: Parser) -> None:
    """Add what may be said of a call besides its arguments."""
    parser.argument(
        "--kw", metavar="NAME=VALUE", action="append", default=[], type=keyword, help="a keyword argument; repeatable"
    )
    parser.argument(
        "--timeout", metavar="S", type=seconds, help="give up after S seconds, for a whole stream too (default: never)"
    )


def keyword(text: str) -> tuple[str, str]:
    """Return name and text of a keyword argument."""
    name, equals, value = text.partition("=")
    if equals and name.isidentifier():
        return name, value
    raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as b=2, got {text!r}")


def read_arguments(args: argparse.Namespace, *, as_json: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and keyword arguments that a parsed line has.

    Raises:
        WrongUsage: One is no JSON, or a literal that was cut.
    """
    read = read_json if as_json else read_literal
    return [read(text) for text in args.args], {name: read(text) for name, text in args.kw}


def read_literal(text: str) -> Any:
    """Return the value of a Python literal; of anything else the text.

    Raises:
        WrongUsage: It seems to be the first part of a list that was cut at a space.

    Examples:
        >>> read_literal("[1, 2]"), read_literal("2024-01-31"), read_literal("'1'")
        ([1, 2], '2024-01-31', '1')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        closing = _BRACKETS.get(text[:1])
        if closing is not None and closing not in text:
            raise WrongUsage(
                f"{text} begins a list that does not end: put it in quotes if it has spaces, such as '[1, 2]'"
            ) from None
        return text


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        WrongUsage: It is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise WrongUsage(f"with --json an argument is JSON, such as 1 or '\"text\"'; {text} is not: {error}") from None


# -- there -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(target: str, timeout: float | None = None) -> Iterator[Proxy]:
    """Connect to a service by name or URL for as long as the block runs.

    Raises:
        WrongUsage: What was typed is no address.
        ServiceUnavailable: Nobody answers there.
    """
    try:
        proxy = connect(target, timeout=timeout)
    except (ValueError, zmq.ZMQError) as error:  # of a host whose name is not known, too
        raise WrongUsage(f"cannot connect to {target}: {error}") from error
    with proxy:
        yield proxy


def call(proxy: Proxy, method: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a method; a stream is returned as it is.

    Raises:
        WrongUsage: The service has no such method, or it does not take these arguments, or they cannot travel.
        Exception: What the method raised.
    """
    try:
        made = proxy[method]
        if isinstance(made, Proxy):
            raise WrongUsage(f"{method} is a group of methods: {', '.join(made._znb_paths())}")
        return made(*args, **kwargs)
    except (AttributeError, TypeError, ValueError) as error:
        if is_remote(error):
            raise
        raise WrongUsage(str(error)) from error


def remote_text(error: BaseException) -> str:
    """Return the traceback of what remote code raised, without this process's frames."""
    detach(error)
    if not hasattr(error, "znb_origin"):
        error.__traceback__ = None  # zerorpc sends text, which is a note
    return "".join(traceback.format_exception(error)).rstrip()


# -- out ---------------------------------------------------------------------------------------------------------


def show_items(result: Any, show: Callable[[Any], object]) -> None:
    """Show a result, or each item of a stream as it comes; the stream ends with this call, however it is left."""
    if not isinstance(result, Stream):
        show(result)
        return
    with result:
        for item in result:
            show(item)


def show(value: Any) -> None:
    """Print a value for people, or for the next program in a pipe."""
    if value is None:
        return
    if isinstance(value, str):
        print(value, end="" if value.endswith("\n") else "\n", flush=True)
    elif sys.stdout.isatty():
        print(pprint.pformat(value, width=shutil.get_terminal_size().columns), flush=True)
    else:
        print(repr(value), flush=True)


def show_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print(to_json(value), flush=True)


def to_json(value: Any) -> str:
    """Return a value as JSON: dates, sets, bytes, arrays and frames as what comes nearest.

    Raises:
        ZnbError: JSON has nothing like it.

    Examples:
        >>> to_json({"mean": 1.5, "of": {1}})
        '{"mean": 1.5, "of": [1]}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ZnbError(f"the result cannot be written as JSON ({error}); leave --json out to see it") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):  # a frame; a series
        return value.to_dict("records") if hasattr(value, "columns") else value.to_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    return msgspec.to_builtins(value)
