"""``znb start``, ``list``, ``status`` and ``stop``: clusters outside a notebook."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

import msgspec

from znb.cli.commands import Command, Parser, WrongUsage
from znb.cli.tables import cluster_table, count_workers
from znb.cli.values import add_place_options, add_ssh_option, not_in_force, start_options
from znb.cluster import Cluster
from znb.connection import list_clusters

__all__ = ["COMMANDS"]

#: Seconds between two looks of ``znb status --watch``.
WATCH_EVERY = 1.0
#: Moves the terminal's cursor to the top and clears what is below it.
CLEAR_SCREEN = "\x1b[H\x1b[J"


def _start(args: argparse.Namespace) -> None:
    cluster = Cluster.start(args.n, keep=True, **start_options(args))
    try:
        name, count, reused = cluster.name, len(cluster), cluster.reused
    finally:
        cluster.close()
    workers = count_workers(count)
    print(f"{name} was running already, with {workers}." if reused else f"Started {name} with {workers}.")
    if reused and not_in_force(args):
        print(not_in_force(args))
    print(f"From a notebook:  %znb cluster connect {name}")
    print(f'From Python:      znb.Cluster.connect("{name}")')
    print(f"To end it:        znb stop {name}")


def _list(_args: argparse.Namespace) -> None:
    print(cluster_table(Cluster.list()) or "No clusters. `znb start` starts one.")


def _status(args: argparse.Namespace) -> None:
    with contextlib.closing(Cluster.connect(args.which, observe=True, ssh=args.ssh)) as cluster:
        if args.watch:
            with contextlib.suppress(KeyboardInterrupt):
                _watch(cluster, as_json=args.json)
        elif args.json:
            print(msgspec.json.format(msgspec.json.encode(cluster.status()), indent=2).decode())
        else:
            print(cluster.status())


def _watch(cluster: Cluster, *, as_json: bool) -> None:
    """Show the status again and again: redrawn in a terminal, one after the other in a pipe."""
    redraw = sys.stdout.isatty() and not as_json
    while True:
        status = cluster.status()
        text = msgspec.json.encode(status).decode() if as_json else str(status)
        print(f"{CLEAR_SCREEN}{text}\nCtrl-C ends this." if redraw else text, flush=True)
        time.sleep(WATCH_EVERY)


def _stop(args: argparse.Namespace) -> None:
    if args.all and args.name:
        raise WrongUsage("give either NAME or --all", "znb stop [NAME|--all]")
    running = [entry.name for entry in list_clusters() if entry.state == "alive"]
    if not args.all and args.name is None and len(running) > 1:
        raise WrongUsage(f"which one? There run {', '.join(running)}", "znb stop [NAME|--all]")
    names = [args.name] if args.name else running
    for name in names:
        Cluster.connect(name, observe=True).stop()
        print(f"Stopped {name}.")
    if not names:
        print("No cluster was running.")


def _status_arguments(parser: Parser) -> None:
    parser.argument("which", metavar="NAME", nargs="?", help="its name, or its connection file (default: the newest)")
    add_ssh_option(parser)
    parser.argument("--watch", action="store_true", help="show it anew every second, until Ctrl-C")
    parser.argument("--json", action="store_true", help="as JSON; with --watch one line each second")


def _stop_arguments(parser: Parser) -> None:
    parser.argument("name", metavar="NAME", nargs="?", help="which one (may be left out if only one runs)")
    parser.argument("--all", action="store_true", help="every cluster of yours on this machine")


#: Commands of the shell that have to do with clusters.
COMMANDS = (
    Command(
        "start",
        "start a cluster that runs until it is stopped",
        _start,
        add_place_options,
        "If a cluster of the name runs already, it is left as it is.",
        "znb start 4\nznb start 2 --name night --env OMP_NUM_THREADS=1\n"
        "znb start --on ssh:alpha*4,beta*4 --bind tcp://*:20000-20100",
    ),
    Command("list", "show all your clusters, clean up after those that died", _list),
    Command(
        "status",
        "show what each worker is doing",
        _status,
        _status_arguments,
        examples="znb status\nznb status night --watch\nznb status night --json | jq .workers[].state",
    ),
    Command("stop", "end a cluster's workers", _stop, _stop_arguments),
)
