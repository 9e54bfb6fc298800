"""Does something once a module has been imported, so that it need not be imported for that.

joblib, for one, has no list of backends that others could add to without importing it, and importing it takes 0.1 s.

Invariants: a hook is in ``sys.meta_path`` until its module comes or it is cancelled, and does nothing to other modules;
what it calls runs once, on the thread that imports. Source: PEP 302 and 451, ``importlib``'s documentation.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["Arrival"]


class Arrival(importlib.abc.MetaPathFinder):
    """Calls something when a module has been imported, or at once if it has been already.

    Args:
        name: The module, which is no submodule.
        call: What to call.
    """

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self._name = name
        self._call = call

    def start(self) -> None:
        """Begin."""
        if self._name in sys.modules:
            self._call()
        else:
            sys.meta_path.insert(0, self)

    def cancel(self) -> None:
        """Call nothing any more. May be called twice."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the protocol's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Find the module as it would be found without this, and see to it that its end is noticed."""
        if fullname != self._name:
            return None
        self.cancel()  # so that the search does not come here again
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)
            return None
        _call_after(spec.loader, self._call)
        return spec


def _call_after(loader: Any, call: Callable[[], object]) -> None:
    """Have a loader call something when it has executed its module."""
    execute = loader.exec_module

    def execute_and_call(module: ModuleType) -> None:
        loader.exec_module = execute
        execute(module)
        call()

    loader.exec_module = execute_and_call
