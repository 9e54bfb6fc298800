"""What Tab offers after ``%znb`` and ``%%znb``: commands, options, and the names of workers, clusters and variables.

IPython's ``complete_command`` hook would do for commands, but jedi's guesses at ``%znb`` as a Python expression are
shown beside its answers; a matcher that suppresses the others is the way to be alone (IPython 8.6 and newer).

Runs on the kernel's main thread, between cells. Never waits for a worker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.completer import SimpleCompletion, context_matcher

from znb.cli.commands import CommandTable, Offer, Parser
from znb.cli.values import launchers
from znb.connection import list_clusters
from znb.magics.session import Session
from znb.rpc.registry import list_services

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult

__all__ = ["complete", "make_matcher"]

#: A line that a magic of ours begins, up to the cursor; a line magic may also be assigned.
BEFORE_CURSOR = re.compile(r"\s*(?:[\w.,\s]+=\s*)?(?P<magic>%{1,2})znb\s+(?P<rest>.*)")
#: Words for workers that every cluster knows.
TARGETS = ("all", "any")


def make_matcher(
    session: Session, line: CommandTable, cell: CommandTable
) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """Return a matcher for ``IPCompleter.custom_matchers``."""

    @context_matcher(identifier="znb", priority=100)  # type: ignore[untyped-decorator]
    def znb_matcher(context: CompletionContext) -> SimpleMatcherResult:
        found = BEFORE_CURSOR.fullmatch(context.text_until_cursor)
        above = context.full_text.split("\n")[: context.cursor_line]
        if found is None or (found["magic"] == "%%" and any(text.strip() for text in above)):
            return {"completions": []}
        table = line if found["magic"] == "%" else cell
        fragment, offered = complete(table, found["rest"], lambda offer: names_for(session, offer))
        return {
            "completions": [SimpleCompletion(text=text, type="magic") for text in offered],
            "matched_fragment": fragment,
            "suppress": True,
            "ordered": True,
        }

    return znb_matcher  # type: ignore[no-any-return]


def complete(table: CommandTable, text: str, names: Callable[[Offer], Iterable[str]]) -> tuple[str, Sequence[str]]:
    """Return what Tab offers after a magic's name.

    Args:
        table: The commands.
        text: From behind the magic's name to the cursor.
        names: Returns what there is of a kind.

    Returns:
        The fragment before the cursor that is to be replaced, and what may replace it.
    """
    words = text.split()
    fragment = words.pop() if words and not text[-1].isspace() else ""
    if words[:1] == ["help"]:
        words = words[1:]
    command, rest = table.find(words)
    if command is None:
        firsts = table.next_words(words)
        return fragment, [w for w in [*firsts, *(["help"] if not words else [])] if w.startswith(fragment)]
    return _arguments(command.parser(table.prefix), rest, fragment, names)


def _arguments(
    parser: Parser, given: Sequence[str], fragment: str, names: Callable[[Offer], Iterable[str]]
) -> tuple[str, Sequence[str]]:
    """Return what Tab offers after a command's name and some of its arguments."""
    flag, equals, value = fragment.partition("=")
    expecting = parser.option(flag if equals else given[-1]) if equals or given else None
    if expecting is not None and expecting.nargs != 0:
        return _value(parser.offers.get(expecting.dest), value if equals else fragment, names)
    flags = [
        action.option_strings[0]
        for action in parser.optional
        if not (set(action.option_strings) & set(given)) or isinstance(action.default, list)
    ]
    flags = [flag for flag in flags if flag.startswith(fragment)]
    if fragment.startswith("-"):
        return fragment, flags
    last, offered = _value(parser.offers.get(_next_positional(parser, given)), fragment, names)
    new = [name for name in offered if name not in given]
    # Without any offer IPython would offer Python's keywords.
    return last, [*new, *(flag for flag in flags if flag != "--help")] or flags


def _next_positional(parser: Parser, given: Sequence[str]) -> str:
    """Return the ``dest`` of the argument that comes next without a flag; empty if there is none."""
    taken, expecting = 0, False
    for word in given:
        action = parser.option(word.partition("=")[0])
        if action is not None:
            expecting = action.nargs != 0 and "=" not in word
        else:
            taken += not expecting
            expecting = False
    for action in parser.positional:
        if taken == 0 or action.nargs in {"*", "+"}:
            return action.dest
        taken -= 1
    return ""


def _value(offer: Offer | None, fragment: str, names: Callable[[Offer], Iterable[str]]) -> tuple[str, Sequence[str]]:
    """Return what Tab offers for a value, the last of a list with commas if it is one."""
    if offer is None:
        return fragment, []
    if offer == "paths":
        return fragment, paths(fragment)
    *before, last = fragment.split(",")
    return last, [name for name in names(offer) if name.startswith(last) and name not in before]


def names_for(session: Session, offer: Offer) -> Sequence[str]:
    """Return the names of a kind that the notebook knows, best first."""
    if offer == "variables":
        return session.own_variables()
    if offer == "targets":
        return [*TARGETS, *(session.current.names if session.current is not None else ())]
    if offer == "clusters":
        return [entry.name for entry in reversed(list_clusters()) if entry.state == "alive"]
    if offer == "services":
        return list(dict.fromkeys(entry.name for entry in list_services()))
    if offer == "methods":
        return list(dict.fromkeys(f"{entry.name}.{method}" for entry in list_services() for method in entry.methods))
    return launchers()


def paths(fragment: str) -> list[str]:
    """Return the files and directories whose paths begin with ``fragment``."""
    folder, _, begin = fragment.rpartition("/")
    try:
        where = Path(f"{folder}/" if "/" in fragment else ".").expanduser()
        found = sorted(os.scandir(where), key=lambda entry: entry.name)
    except (OSError, RuntimeError):  # no such directory; no such user's home
        return []
    prefix = fragment[: len(fragment) - len(begin)]
    return [
        f"{prefix}{entry.name}{'/' * entry.is_dir()}"
        for entry in found
        if entry.name.startswith(begin) and (begin or not entry.name.startswith("."))
    ]
