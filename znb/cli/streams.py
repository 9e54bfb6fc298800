"""``znb publish`` and ``znb subscribe``: poke and watch streams."""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import json
import sys
import time
from typing import Any

from znb.cli.commands import Command, Parser
from znb.cli.values import at_least_one, seconds
from znb.errors import CallTimeout
from znb.pubsub import Message, publish, subscribe
from znb.pubsub.messages import check_topic
from znb.pubsub.places import EVERYWHERE
from znb.pubsub.process import streams

__all__ = ["COMMANDS"]

#: Characters of a value that a line shows.
VALUE_WIDTH = 200


def literal(text: str) -> Any:
    """Return the Python literal that ``text`` is, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def beginning(text: str) -> str:
    """Return the beginning of a topic.

    Raises:
        argparse.ArgumentTypeError: It cannot be one.
    """
    try:
        check_topic(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def topic(text: str) -> str:
    """Return a topic.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text:
        raise argparse.ArgumentTypeError("a topic has at least one character")
    return beginning(text)


def _publish(args: argparse.Namespace) -> None:
    publish(args.topic, literal(args.value), at=args.url)
    if args.url != EVERYWHERE:
        return  # there it is kept for those who come later
    publisher = streams.publisher
    publisher.close()
    if not publisher.heard(args.topic):
        print(
            f"znb: nobody subscribes to {args.topic!r} on this machine, so nobody has got it, and it is not kept; "
            "publish it at a cluster or a service to have it kept for those who come later",
            file=sys.stderr,
        )


def _subscribe(args: argparse.Namespace) -> None:
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    left = args.count
    with subscribe(*args.topics, at=args.url) as messages:
        while left is None or left > 0:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                message = next(messages) if wait is None else messages.wait_message(wait)
            except CallTimeout:
                if left is None:
                    return
                raise
            print(_as_json(message) if args.json else _as_line(message), flush=True)
            left = None if left is None else left - 1


def _as_line(message: Message) -> str:
    when = dt.datetime.fromtimestamp(message.time).strftime("%H:%M:%S.%f")[:-3]  # noqa: DTZ006 - the user's clock
    text = str(message.value) if isinstance(message.value, str) else repr(message.value)
    text = text if len(text) <= VALUE_WIDTH else f"{text[: VALUE_WIDTH - 1]}…"
    lost = f"  ({message.dropped} dropped before this)" if message.dropped else ""
    return f"{when}  {message.topic}  {message.source}  {text}{lost}"


def _as_json(message: Message) -> str:
    fields = ("topic", "source", "time", "number", "dropped", "value")
    return json.dumps({name: getattr(message, name) for name in fields}, default=repr, ensure_ascii=False)


def _url_argument(parser: Parser, what: str) -> None:
    parser.argument("url", metavar="URL", help=f"{what}: `local`, the name of a cluster or service, or an address")


def _publish_arguments(parser: Parser) -> None:
    _url_argument(parser, "where to publish")
    parser.argument("topic", metavar="TOPIC", type=topic, help="what it is about, such as loss")
    parser.argument("value", metavar="VALUE", help="a Python literal, else text")


def _subscribe_arguments(parser: Parser) -> None:
    _url_argument(parser, "where to listen")
    parser.argument("topics", metavar="TOPIC", nargs="*", type=beginning, help="beginnings of topics (default: all)")
    parser.argument("--json", action="store_true", help="one JSON object per line")
    parser.argument("--count", metavar="N", type=at_least_one, help="end after N messages")
    parser.argument("--timeout", metavar="S", type=seconds, help="end after S seconds")


#: What may follow ``znb``.
COMMANDS = (
    Command(
        "publish",
        "publish a value on a topic",
        _publish,
        _publish_arguments,
        "`local` is this user's processes on this machine. Whoever subscribes gets it.",
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
