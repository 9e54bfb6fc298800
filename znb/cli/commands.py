"""Commands as data: a table of what may be typed, for dispatch, help and completion alike.

The notebook's ``%znb`` and ``%%znb`` and the shell's ``znb`` each have a ``CommandTable``. A module adds a command by
declaring a ``Command``; nothing else has to know of it.

Invariants: parsing prints nothing, exits nothing and changes nothing: a wrong word raises ``WrongUsage`` and a wish for
help raises ``HelpWanted``, each with the text to show. No state and no threads. Usage lines are written as docs/API
tables write them: what must be given first, ``[…]`` around what need not be.
"""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

__all__ = ["Command", "CommandTable", "HelpWanted", "Offer", "Parser", "WrongUsage", "nearest", "no_arguments"]

#: What Tab offers for a value.
Offer = Literal["clusters", "methods", "paths", "places", "services", "targets", "variables"]

#: Similarity, of 1, above which a mistyped word is taken for another one (the standard library's default).
SIMILAR = 0.6
#: Columns of a help text; notebooks and terminals both show as many.
HELP_WIDTH = 100
#: Column at which descriptions of options begin.
HELP_INDENT = 26
#: What begins with ``-`` and yet is a value: the targets ``-1``, ``-2:`` and ``-1,0``; numbers such as ``-.5``.
NEGATIVE = re.compile(r"-\.?\d[\d:,.eEjJ_+-]*")


class WrongUsage(Exception):
    """What was typed cannot be meant; nothing has been done.

    Attributes:
        usage: How it is typed right; empty if that would not help.
    """

    def __init__(self, message: str, usage: str = "") -> None:
        super().__init__(message, usage)
        self.usage = usage

    def __str__(self) -> str:
        return f"{self.args[0]}\nusage: {self.usage}" if self.usage else str(self.args[0])


class HelpWanted(Exception):
    """The user asked for help: show ``text``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Parser(argparse.ArgumentParser):
    """The arguments of one command.

    Attributes:
        offers: What Tab offers for the value of an argument, by the argument's ``dest``.
    """

    def __init__(self, prog: str, description: str = "", epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self.offers: dict[str, Offer] = {}
        self._usage_line = ""
        self._positionals.title = "arguments"
        self._negative_number_matcher = re.compile(NEGATIVE.pattern + "$")
        self.add_argument("--help", "-h", action="store_true", help="show this text")

    def argument(self, *names: str, offers: Offer | None = None, **how: Any) -> None:
        """Add an argument as ``add_argument`` does.

        Args:
            names: Its flags, or the name of a positional argument.
            offers: What Tab offers for its value; ``None`` for nothing.
            how: The options of ``add_argument``.
        """
        action = self.add_argument(*names, **how)
        if offers is not None:
            self.offers[action.dest] = offers

    @property
    def usage_line(self) -> str:
        """How the command is typed, without the word ``usage``."""
        # While it parses, argparse makes positional arguments look like something else.
        return self._usage_line or " ".join(
            [self.prog, *(_in_usage(a) for a in (*self.positional, *self.optional) if a.dest != "help")]
        )

    @property
    def positional(self) -> Sequence[argparse.Action]:
        """The arguments that are given without a name, in order."""
        return [action for action in self._actions if not action.option_strings]

    @property
    def optional(self) -> Sequence[argparse.Action]:
        """The arguments that are given by name."""
        return [action for action in self._actions if action.option_strings]

    def option(self, flag: str) -> argparse.Action | None:
        """Return the argument with this flag."""
        return self._option_string_actions.get(flag)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the arguments that ``words`` give.

        Raises:
            HelpWanted: ``--help`` is among them.
            WrongUsage: They are not what the command takes.
        """
        self._usage_line = self.usage_line
        named = words[: words.index("--")] if "--" in words else words
        flags = [word.partition("=")[0] for word in named if word.startswith("-") and not NEGATIVE.fullmatch(word)]
        if "--help" in flags or "-h" in flags:
            raise HelpWanted(self.format_help())
        for flag in flags:
            if flag not in self._option_string_actions and flag != "-":
                valid = [action.option_strings[0] for action in (*self.optional[1:], self.optional[0])]
                raise WrongUsage(f"unknown option {flag}{nearest(flag, valid)}", self.usage_line)
        found, surplus = self.parse_known_intermixed_args(list(words))
        if surplus:
            self.error(f"unexpected {' '.join(surplus)!r}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raise ``WrongUsage`` where argparse would exit."""
        message = message.replace("the following arguments are required:", "missing:").removeprefix("argument ")
        raise WrongUsage(message, self.usage_line)

    def format_help(self) -> str:
        """Return everything there is to say about the command."""
        self.usage = self.usage_line.replace("%", "%%")
        return super().format_help().rstrip() + "\n"


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each option once, as it is best typed."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_WIDTH, max_help_position=HELP_INDENT)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar or action.dest)
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        return action.option_strings[0] + value


def _in_usage(action: argparse.Action) -> str:
    """Return an argument as a usage line shows it."""
    metavar = str(action.metavar or action.dest.upper())
    if not action.option_strings:
        return {"?": f"[{metavar}]", "*": f"[{metavar}…]", "+": f"{metavar}…"}.get(str(action.nargs), metavar)
    flag = action.option_strings[0]
    shown = f"[{flag}]" if action.nargs == 0 else f"[{flag} {metavar}]"
    return shown + "…" * isinstance(action, argparse._AppendAction)


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return what to say after a wrong word: the nearest valid one, or all of them."""
    known = list(valid)
    begun = [name for name in known if word and name.startswith(word)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(word, known, n=1, cutoff=SIMILAR)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def no_arguments(_parser: Parser) -> None:
    """Take no arguments."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something that can be typed.

    Attributes:
        name: Its words, such as ``"cluster start"``.
        summary: What it does, in one line without a full stop, for the list.
        run: Does it. What it is called with is the affair of the table's owner.
        build: Adds its arguments to a parser.
        details: What else a newcomer should know, below the summary in its help.
        examples: Lines that can be typed, each with its reason, at the end of its help.
    """

    name: str
    summary: str
    run: Callable[..., Any]
    build: Callable[[Parser], None] = no_arguments
    details: str = ""
    examples: str = ""

    def parser(self, prefix: str) -> Parser:
        """Return a parser of what follows the command's name.

        Args:
            prefix: What precedes the command's name: ``znb`` or ``%znb``.
        """
        description = f"{self.summary[0].upper()}{self.summary[1:]}."
        if self.details:
            description += f"\n\n{textwrap.fill(self.details, HELP_WIDTH)}"
        examples = "\n".join(f"  {line}" for line in self.examples.splitlines())
        parser = Parser(f"{prefix} {self.name}", description, f"examples:\n{examples}" if examples else "")
        self.build(parser)
        return parser


class CommandTable:
    """The commands that may follow a prefix.

    Args:
        prefix: ``znb``, ``%znb`` or ``%%znb``.
        commands: In the order in which help lists them.
    """

    def __init__(self, prefix: str, commands: Iterable[Command]) -> None:
        self.prefix = prefix
        self.commands = {command.name: command for command in commands}

    def find(self, words: Sequence[str]) -> tuple[Command | None, Sequence[str]]:
        """Return the command that ``words`` begin with, if any, and the words after its name."""
        for length in range(len(words), 0, -1):
            command = self.commands.get(" ".join(words[:length]))
            if command is not None:
                return command, words[length:]
        return None, words

    def next_words(self, words: Sequence[str]) -> Sequence[str]:
        """Return what may follow the first words of a command's name."""
        names = [name.split() for name in self.commands]
        fitting = [name[len(words)] for name in names if len(name) > len(words) and name[: len(words)] == list(words)]
        return list(dict.fromkeys(fitting))

    def parse(self, words: Sequence[str]) -> tuple[Command, argparse.Namespace]:
        """Return the command and the arguments that ``words`` give.

        Raises:
            HelpWanted: By ``help``, ``--help``, a final ``?``, or a name that is not complete.
            WrongUsage: There is no such command, or it does not take these arguments.
        """
        words = _with_plain_help(words)
        command, rest = self.find(words)
        if command is not None:
            return command, command.parser(self.prefix).parse(rest)
        begun = words[: words.index("--help")] if "--help" in words else words
        begun = begun[:-1] if begun[-1:] == ["help"] else begun
        if not begun or self.next_words(begun):
            raise HelpWanted(self.listing(begun))
        known = 0
        while self.next_words(begun[: known + 1]):
            known += 1
        wrong = begun[: known + 1]
        raise WrongUsage(
            f"there is no {' '.join([self.prefix, *wrong])}{self._nearest(wrong)}",
            " ".join([self.prefix, *begun[:known], "|".join(self.next_words(begun[:known])), "…"]),
        )

    def listing(self, words: Sequence[str] = ()) -> str:
        """Return the list of commands that begin with ``words``, a line or two each."""
        begin = " ".join(words)
        shown = [c for name, c in self.commands.items() if not begin or name == begin or name.startswith(f"{begin} ")]
        lines = []
        for command in shown:
            lines += [f"  {command.parser(self.prefix).usage_line}", f"      {command.summary}"]
        return "\n".join(lines) + "\n"

    def _nearest(self, words: Sequence[str]) -> str:
        """Return what to say after words that begin no command's name."""
        *first, last = words
        candidates = {name.split()[-1]: f"{self.prefix} {name}" for name in self.commands}
        candidates |= {word: " ".join([self.prefix, *first, word]) for word in self.next_words(first)}
        begun = [name for name in candidates if last and name.startswith(last)]
        near = begun if len(begun) == 1 else difflib.get_close_matches(last, candidates, n=1, cutoff=SIMILAR)
        return f"; did you mean {candidates[near[0]]}?" if near else ""


def _with_plain_help(words: Sequence[str]) -> list[str]:
    """Return the words with every way to ask for help spelled ``--help`` at the end."""
    plain = list(words)
    if plain[:1] == ["help"]:
        plain = [*plain[1:], "--help"]
    elif plain and plain[-1].endswith("?"):
        plain = [*plain[:-1], *([stem] if (stem := plain[-1].rstrip("?")) else []), "--help"]
    return ["--help" if word == "-h" else word for word in plain]
