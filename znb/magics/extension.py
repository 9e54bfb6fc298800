"""What ``%load_ext znb`` puts into IPython, and takes out again.

That is two magics, a completer, an input transformer and an error handler.

Invariants: ``unload`` leaves the shell as ``load`` found it. A wrong command does nothing and raises IPython's
``UsageError``, which fails the cell (so Run All stops) without a traceback.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from znb.cli.commands import CommandTable, HelpWanted, WrongUsage
from znb.errors import ZnbError
from znb.magics import cells, clusters, services, streams, tracing
from znb.magics.completion import make_matcher
from znb.magics.failures import ErrorHandler, explain_debug, show_message_only
from znb.magics.session import Session
from znb.widgets import display

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Extension"]

#: What may follow ``%znb``, in the order of the help text.
LINE_COMMANDS = (
    *clusters.COMMANDS,
    *cells.LINE_COMMANDS,
    *services.LINE_COMMANDS,
    *streams.COMMANDS,
    *tracing.LINE_COMMANDS,
)
#: What may follow ``%%znb``.
CELL_COMMANDS = (*cells.CELL_COMMANDS, *services.CELL_COMMANDS, *tracing.CELL_COMMANDS)

#: The name of the magics.
MAGIC = "znb"


class Extension:
    """znb in one shell. Made by ``%load_ext znb``.

    Attributes:
        session: The notebook's clusters.
        line: The line magic's commands.
        cell: The cell magic's.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.session = Session(shell)
        self.line = CommandTable(f"%{MAGIC}", LINE_COMMANDS)
        self.cell = CommandTable(f"%%{MAGIC}", CELL_COMMANDS)
        self._shell = shell
        self._matcher = make_matcher(self.session, self.line, self.cell)
        self._transform = spell_out_help if hasattr(shell, "kernel") else spell_out_typed_help
        self._cells = tracing.TracedCells(shell, self.session)
        self._errors = ErrorHandler(shell, self._cells.failed)

    @staticmethod
    def loaded_in(shell: InteractiveShell) -> Extension | None:
        """Return the extension that is loaded in a shell."""
        magic = shell.magics_manager.magics["line"].get(MAGIC)
        extension = getattr(magic, "extension", None)
        return extension if isinstance(extension, Extension) else None

    def load(self) -> None:
        """Put everything into the shell. Does nothing if it is there."""
        if Extension.loaded_in(self._shell) is not None:
            return

        def znb(line: str, cell: str | None = None) -> Any:
            return self.run(line, cell)

        znb.__doc__ = self.help_text()
        znb.extension = self  # type: ignore[attr-defined]
        self._shell.register_magic_function(znb, "line_cell", MAGIC)  # type: ignore[arg-type]
        if self._shell.Completer is not None:  # a worker's shell has none: nobody types there
            self._shell.Completer.custom_matchers.append(self._matcher)
        self._shell.input_transformers_cleanup.append(self._transform)
        self._errors.install()
        display.install(self._shell)
        self._cells.install()
        self._shell.events.register("pre_run_cell", explain_debug)

    def unload(self) -> None:
        """Take everything out of the shell, and let go of the session's clusters."""
        for kind in ("line", "cell"):
            self._shell.magics_manager.magics[kind].pop(MAGIC, None)
        if self._shell.Completer is not None:
            self._shell.Completer.custom_matchers.remove(self._matcher)
        self._shell.input_transformers_cleanup.remove(self._transform)
        self._errors.remove()
        display.remove(self._shell)
        self._cells.remove()
        self._shell.events.unregister("pre_run_cell", explain_debug)
        for name in self.session.close():
            print(f"Let go of the cluster {name!r}. It ends now unless it is kept or used elsewhere.")

    def help_text(self) -> str:
        """Return the list of all commands."""
        return (
            f"In a line of a cell:\n\n{self.line.listing()}\n"
            f"As the first line of a cell:\n\n{self.cell.listing()}\n"
            f"Each has --help, such as %{MAGIC} cluster start --help. Tab completes commands, options and names.\n"
        )

    def run(self, line: str, cell: str | None) -> Any:
        """Do what a magic's line says.

        Args:
            line: What follows the magic's name.
            cell: The lines below it; ``None`` for the line magic.

        Returns:
            The magic's value.
        """
        try:
            words = _split(line)
            if words in ([], ["help"], ["--help"], ["-h"]):
                raise HelpWanted(self.help_text())
            command, args = (self.line if cell is None else self.cell).parse(words)
            args.cell = cell
            return command.run(self.session, args)
        except HelpWanted as wanted:
            print(wanted.text, end="")
        except WrongUsage as wrong:
            raise UsageError(str(wrong)) from None
        except (ZnbError, KeyboardInterrupt) as error:
            show_message_only(error)
            raise
        return None


def _split(line: str) -> list[str]:
    """Return the words of a line, with quotes as in a shell."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise WrongUsage(f"{line}: {error}") from None


def spell_out_help(lines: list[str]) -> list[str]:
    r"""Rewrite a cell that asks for help, before IPython makes something else of it.

    ``%znb cluster start?`` would be taken for a question about a variable ``start``, and ``%%znb remote --help`` alone
    in its cell would be refused for its missing body.

    Examples:
        >>> spell_out_help(["%znb cluster start?"])
        ['%znb cluster start --help\n']
        >>> spell_out_help(["%%znb remote --help"])
        ['%%znb remote --help\n', '\n']
    """
    filled = [line for line in lines if line.strip()]
    if len(filled) != 1:
        return lines
    text = filled[0].strip()
    words = text.rstrip("?").split()
    asks = text.endswith("?")
    if not words or words[0] not in {f"%{MAGIC}", f"%%{MAGIC}"}:
        return lines
    line = " ".join([*words, "--help"]) if asks else text
    return [f"{line}\n", "\n"] if words[0].startswith("%%") else [f"{line}\n"] if asks else lines


def spell_out_typed_help(lines: list[str]) -> list[str]:
    r"""Do so where a cell comes line by line, in a terminal: the first line of a cell magic is not yet the cell.

    Examples:
        >>> spell_out_typed_help(["%%znb remote"])
        ['%%znb remote']
        >>> spell_out_typed_help(["%%znb remote?"])
        ['%%znb remote --help\n', '\n']
    """
    asks = any(line.rstrip().endswith("?") or "--help" in line.split() for line in lines)
    return spell_out_help(lines) if asks else lines
