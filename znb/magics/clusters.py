"""``%znb cluster …``: start, connect, list, status, scale, restart, stop."""

from __future__ import annotations

import argparse

from IPython.display import display

from znb.cli.commands import Command, Parser, WrongUsage
from znb.cli.tables import cluster_table, count_workers
from znb.cli.values import add_place_options, add_ssh_option, not_in_force, not_negative, start_options
from znb.cluster import DEFAULT_NAME, Cluster
from znb.connection import find_cluster, list_clusters
from znb.magics.session import Session

__all__ = ["COMMANDS"]


def _start(session: Session, args: argparse.Namespace) -> None:
    name = args.name or DEFAULT_NAME
    cluster = session.held(name)
    reused = cluster is not None
    if cluster is None:
        cluster = Cluster.start(args.n, keep=args.keep, **start_options(args))
        reused = cluster.reused
    if reused:
        print(f"{_running_already(cluster, args.n)} {not_in_force(args)}".rstrip())
    _show(session, cluster)


def _running_already(cluster: Cluster, wanted: int | None) -> str:
    count = len(cluster)
    text = (
        f"The cluster {cluster.name!r} is running already, with {count_workers(count)} and their variables. "
        "`%znb cluster restart` gives fresh workers."
    )
    if wanted is not None and wanted != count:
        text += f" `%znb cluster scale {wanted}` changes their number."
    return text


def _connect(session: Session, args: argparse.Namespace) -> None:
    if args.ssh and not args.which:
        raise WrongUsage("--ssh leads to the machine of a connection file: give its copy as well")
    file = find_cluster(args.which)
    cluster = session.held(file.name)
    if cluster is None or cluster.identity != file.identity:
        cluster = Cluster.connect(args.which or file.name, ssh=args.ssh)
    _show(session, cluster)


def _show(session: Session, cluster: Cluster) -> None:
    note = session.adopt(cluster)
    display(cluster)  # type: ignore[no-untyped-call]
    if note:
        print(note)


def _list(_session: Session, _args: argparse.Namespace) -> None:
    print(cluster_table(Cluster.list()) or "No clusters. `%znb cluster start` starts one.")


def _status(session: Session, _args: argparse.Namespace) -> None:
    display(session.cluster())  # type: ignore[no-untyped-call]


def _scale(session: Session, args: argparse.Namespace) -> None:
    cluster = session.cluster()
    before = len(cluster)
    cluster.scale(args.n)
    print(f"The cluster {cluster.name!r} has {count_workers(len(cluster))} now; it had {before}.")


def _restart(session: Session, args: argparse.Namespace) -> None:
    chosen = session.workers(args.targets)
    session.cluster().restart(args.targets if args.targets != "any" else chosen.names)
    print(f"Restarted {', '.join(chosen.names)}: their variables are gone.")


def _stop(session: Session, args: argparse.Namespace) -> None:
    if args.all and args.name:
        raise WrongUsage("give either NAME or --all", "%znb cluster stop [NAME|--all]")
    if args.all:
        names = [entry.name for entry in list_clusters() if entry.state == "alive"]
    else:
        names = [args.name or session.cluster().name]
    for name in names:
        cluster = session.held(name)
        (cluster if cluster is not None else Cluster.connect(name)).stop()
        print(f"Stopped the cluster {name!r}.")
    if not names:
        print("No cluster was running.")


def _start_arguments(parser: Parser) -> None:
    add_place_options(parser)
    parser.argument("--keep", action="store_true", help="let it run on when this notebook's kernel has ended")


def _connect_arguments(parser: Parser) -> None:
    parser.argument(
        "which",
        metavar="NAME|FILE",
        nargs="?",
        offers="clusters",
        help="the cluster's name, or its connection file (default: the newest cluster)",
    )
    add_ssh_option(parser)


def _scale_arguments(parser: Parser) -> None:
    parser.argument("n", metavar="N", type=not_negative, help="number of workers to have")


def _restart_arguments(parser: Parser) -> None:
    parser.argument(
        "targets",
        metavar="TARGETS",
        nargs="?",
        default="all",
        offers="targets",
        help="which: all (default), any, 0, 0,2, 1:3, -1, or a name such as w0",
    )


def _stop_arguments(parser: Parser) -> None:
    parser.argument("name", metavar="NAME", nargs="?", offers="clusters", help="which one (default: this notebook's)")
    parser.argument("--all", action="store_true", help="every cluster of yours on this machine")


#: What may follow ``%znb cluster``.
COMMANDS = (
    Command(
        "cluster start",
        "start N worker processes, and bind `cluster` in this notebook",
        _start,
        _start_arguments,
        "The workers end with this notebook's kernel, unless --keep says otherwise. If a cluster of the name runs "
        "already, it is used as it is.",
        "%znb cluster start            as many workers as usable CPUs\n"
        "%znb cluster start 4          four of them\n"
        "%znb cluster start 2 --name night --keep --env OMP_NUM_THREADS=1",
    ),
    Command(
        "cluster connect",
        "attach this notebook to a running cluster",
        _connect,
        _connect_arguments,
        "For a second notebook, and for the time after a kernel restart: the workers keep their variables.",
        "%znb cluster connect          the newest\n%znb cluster connect night\n"
        "%znb cluster connect copy.json --ssh alpha      one that was started on alpha",
    ),
    Command(
        "cluster list",
        "show all your clusters, clean up after those that died",
        _list,
    ),
    Command("cluster status", "show what each worker is doing", _status),
    Command(
        "cluster scale",
        "add or remove workers until there are N",
        _scale,
        _scale_arguments,
        "The last ones go first. Those that stay keep their variables.",
        "%znb cluster scale 8",
    ),
    Command(
        "cluster restart",
        "replace workers by fresh processes of the same names",
        _restart,
        _restart_arguments,
        "What they run is killed, and their variables are gone.",
        "%znb cluster restart          all of them\n%znb cluster restart w0",
    ),
    Command(
        "cluster stop",
        "end a cluster's workers",
        _stop,
        _stop_arguments,
        examples="%znb cluster stop             this notebook's\n%znb cluster stop --all",
    ),
)
