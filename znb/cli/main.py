"""The command line's entry: finds the command, runs it, and turns what happens into an exit status.

Invariants: what was asked for goes to stdout, everything else to stderr; both are plain text unless stdout is a
terminal. A reader that goes away (``znb list | head -1``) is no error.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from znb import __version__
from znb.cli import clusters, services, streams, traces
from znb.cli.commands import Command, CommandTable, HelpWanted, Parser, WrongUsage
from znb.cli.values import at_least_one
from znb.errors import AuthError, ProtocolError, RemoteError, ZnbError
from znb.launchers import PlaceError

__all__ = ["main", "run"]

#: It is done.
DONE = 0
#: The remote code raised.
RAISED = 1
#: The command line is wrong.
WRONG_USAGE = 2
#: Nobody answers there, or it took too long.
UNREACHABLE = 3
#: The other side, or the file system's permissions, do not allow it.
REFUSED = 4
#: What shells report for a program that Ctrl-C has ended.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; ``None`` for this process's.

    Returns:
        The exit status (see the constants above).
    """
    try:
        status = run(list(sys.argv[1:] if argv is None else argv), CommandTable("znb", COMMANDS))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return status


def run(words: Sequence[str], table: CommandTable) -> int:
    """Run a command of ``table``, and return the exit status."""
    try:
        if words in (["--version"], ["-V"]):
            print(f"znb {__version__}")
            return DONE
        command, args = table.parse(words)
        return int(command.run(args) or DONE)
    except HelpWanted as wanted:
        general = not words or words[0] in {"help", "--help", "-h"}
        print(f"{INTRODUCTION}{wanted.text}{HINT}" if general and len(words) < 2 else wanted.text, end="")
        return DONE
    except WrongUsage as wrong:
        return _fail(wrong, WRONG_USAGE)
    except RemoteError as error:
        return _fail(error, RAISED)
    except (AuthError, ProtocolError) as error:
        return _fail(error, REFUSED)
    except PlaceError as error:
        return _fail(error, WRONG_USAGE)
    except ZnbError as error:
        return _fail(error, UNREACHABLE)
    except KeyboardInterrupt:
        return INTERRUPTED


def _fail(error: Exception, status: int) -> int:
    # Messages name the notebook's commands; here they have the same names without the first word.
    text = re.sub(r"%znb cluster (start|list|status|stop)\b", r"znb \1", str(error))
    print(f"znb: {text}", file=sys.stderr)
    return status


def _demo(args: argparse.Namespace) -> int:
    from znb.demo import run_demo  # noqa: PLC0415 - needs tqdm, which no other command does

    return run_demo(args.n)


def _demo_arguments(parser: Parser) -> None:
    parser.argument(
        "n", metavar="N", nargs="?", type=at_least_one, help="number of workers (default: one per usable CPU)"
    )


#: What stands above and below the list of commands.
INTRODUCTION = "Distributed computing for notebooks and scripts.\n\n"
HINT = "\nEach has --help, such as znb start --help. In a notebook: %load_ext znb, then %znb.\n"

#: What may follow ``znb``, in the order of the help text.
COMMANDS = (
    Command(
        "demo",
        "start workers, measure the standard library's source on them, compare with a serial run",
        _demo,
        _demo_arguments,
    ),
    *clusters.COMMANDS,
    *services.COMMANDS,
    *streams.COMMANDS,
    *traces.COMMANDS,
)
