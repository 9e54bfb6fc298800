"""``%znb stream``: what is published, live below the cell."""

from __future__ import annotations

import argparse
from typing import Any

from znb.cli.commands import Command, Parser
from znb.magics.session import Session
from znb.pubsub.places import EVERYWHERE
from znb.widgets.kinds import KINDS

__all__ = ["COMMANDS"]


def _stream(_session: Session, args: argparse.Namespace) -> Any:
    from znb.widgets.stream import stream  # noqa: PLC0415 - widgets take 100 ms to load, which `%load_ext` need not wait for

    return stream(*args.topics, kind=args.kind, x=args.x, at=args.at)


def _stream_arguments(parser: Parser) -> None:
    parser.argument("topics", metavar="TOPIC", nargs="+", help="beginnings of topics: loss means loss/train too")
    parser.argument("--kind", metavar="KIND", choices=KINDS, help=f"{', '.join(KINDS)} (default: what fits the values)")
    parser.argument(
        "--x", metavar="KEY", help="the key that is the horizontal axis (default: one that counts, else time)"
    )
    parser.argument(
        "--at",
        metavar="WHERE",
        default=EVERYWHERE,
        help="a cluster, a service or an address (default: all on this machine)",
    )


#: Line magics for streams.
COMMANDS = (
    Command(
        "stream",
        "show what is published on topics, live",
        _stream,
        _stream_arguments,
        'Publish with `znb.publish("loss", 0.25)`, from this notebook, a worker, a job, a service or a script.',
        "%znb stream loss              lines, one for each key and worker\n%znb stream note --kind log   a log",
    ),
)
