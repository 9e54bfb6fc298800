"""The notebook's ``%znb`` and ``%%znb``, loaded by ``%load_ext znb``.

``extension`` connects the commands to IPython, ``session`` knows the notebook's clusters, ``completion`` answers Tab,
``failures`` shows errors, ``clusters`` and ``cells`` hold the commands. Each command is declared once, as a
``znb.cli.commands.Command``, in the tables of ``extension``; dispatch, help and completion read it from there.

Everything here runs on the kernel's main thread, except where a function says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from znb.magics.extension import Extension

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add ``%znb`` and ``%%znb`` to a shell; ``%load_ext znb`` calls this."""
    Extension(shell).load()


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take them away again, and let go of the session's clusters; ``%unload_ext znb`` calls this."""
    extension = Extension.loaded_in(shell)
    if extension is not None:
        extension.unload()
