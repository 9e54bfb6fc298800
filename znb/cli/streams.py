"""``znb publish`` and ``znb subscribe``: poke and watch streams."""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import json
import sys
import time
from typing import Any

import msgspec

from znb.cli.calls import to_json
from znb.cli.commands import Command, Parser, WrongUsage
from znb.cli.values import at_least_one, seconds
from znb.errors import CallTimeout, ZnbError
from znb.pubsub import Message, publish, streams, subscribe
from znb.pubsub.places import EVERYWHERE

__all__ = ["COMMANDS"]

#: Characters of a value that a line shows.
VALUE_WIDTH = 200
#: Seconds in which the last values from before come, so that they can be put in order.
GATHER_TIME = 0.2


def literal(text: str) -> Any:
    """Return the Python literal that ``text`` is, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _publish(args: argparse.Namespace) -> None:
    try:
        publish(args.topic, literal(args.value), at=args.url)
    except ValueError as error:
        raise WrongUsage(str(error), "znb publish URL TOPIC VALUE") from None
    if args.url == EVERYWHERE and not streams.close():
        print(
            f"znb: nobody subscribes to {args.topic!r} on this machine, so nobody has got it; values end with the "
            "process that publishes them. What is published to a cluster or a service is kept for those who come later",
            file=sys.stderr,
        )


def _subscribe(args: argparse.Namespace) -> None:
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    left = args.count
    try:
        messages = subscribe(*args.topics, at=args.url)
    except ValueError as error:
        raise WrongUsage(str(error), "znb subscribe URL [TOPIC…]") from None
    with messages:
        ready: list[Message] = []
        first = True
        while left is None or left > 0:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                if not ready:
                    ready = [next(messages) if wait is None else messages.wait_message(wait)]
            except CallTimeout:
                if left is None:
                    return
                raise
            if first:  # what was said before comes from each process by itself
                first = False
                time.sleep(GATHER_TIME if wait is None else min(wait, GATHER_TIME))
                ready = sorted(ready + messages.take_nowait(), key=lambda message: message.time)
            message = ready.pop(0)
            print(_as_json(message) if args.json else _as_line(message), flush=True)
            left = None if left is None else left - 1


def _as_line(message: Message) -> str:
    when = dt.datetime.fromtimestamp(message.time).strftime("%H:%M:%S.%f")[:-3]  # noqa: DTZ006 - the user's clock
    text = _text(message)
    text = text if len(text) <= VALUE_WIDTH else f"{text[: VALUE_WIDTH - 1]}…"
    lost = f"  ({message.dropped} dropped before this)" if message.dropped else ""
    whose = f"{message.cluster}/{message.source}" if message.cluster else message.source
    return f"{when}  {message.topic}  {whose}  {text}{lost}"


def _text(message: Message) -> str:
    """Return a value as text that can be printed."""
    try:
        text = message.value if isinstance(message.value, str) else repr(message.value)
    except Exception as error:  # noqa: BLE001 - a value of any class; the others are still wanted
        text = f"a value that cannot be shown: {type(error).__name__}: {error}"
    return text.encode(errors="backslashreplace").decode()


def _as_json(message: Message) -> str:
    """Return a message as one line of JSON; a value that JSON has nothing like is its text, and that is said."""
    fields = ("topic", "source", "cluster", "time", "number", "dropped")
    head = {name: getattr(message, name) for name in fields}
    try:
        line = json.dumps({**head, "value": msgspec.json.decode(to_json(message.value))}, ensure_ascii=False)
        line.encode()
    except (ZnbError, ValueError, RecursionError):
        return json.dumps({**head, "value": _text(message), "value_is": "repr"}, ensure_ascii=False)
    return line


def _url_argument(parser: Parser, what: str) -> None:
    parser.argument("url", metavar="URL", help=f"{what}: `local`, the name of a cluster or service, or an address")


def _publish_arguments(parser: Parser) -> None:
    _url_argument(parser, "where to publish")
    parser.argument("topic", metavar="TOPIC", help="what it is about, such as loss")
    parser.argument("value", metavar="VALUE", help="a Python literal, else text")


def _subscribe_arguments(parser: Parser) -> None:
    _url_argument(parser, "where to listen")
    parser.argument("topics", metavar="TOPIC", nargs="*", help="beginnings of topics (default: all)")
    parser.argument(
        "--json", action="store_true", help="one JSON object per line; value_is: repr marks text for want of JSON"
    )
    parser.argument("--count", metavar="N", type=at_least_one, help="end after N messages")
    parser.argument("--timeout", metavar="S", type=seconds, help="end after S seconds")


#: What may follow ``znb``.
COMMANDS = (
    Command(
        "publish",
        "publish a value on a topic",
        _publish,
        _publish_arguments,
        "`local` is this user's processes on this machine: whoever subscribes now gets it. A cluster or a service\n"
        "keeps the last value of each topic for those who subscribe later.",
        "znb publish local loss 0.25\nznb publish local note \"{'epoch': 3, 'loss': 0.12}\"",
    ),
    Command(
        "subscribe",
        "print what is published, as it comes",
        _subscribe,
        _subscribe_arguments,
        "The last value of each topic comes first. What was lost on the way is counted and said.",
        "znb subscribe local                 everything on this machine\n"
        "znb subscribe night loss --json     what the cluster `night` publishes on loss…",
    ),
)
