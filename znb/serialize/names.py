"""Which modules, functions and classes peers can import by name, and which must travel as definitions.

Invariant: "importable" is decided anew at each look-up (a module may be reloaded or its attribute rebound at any
time), so an object that no longer is what its name says never goes by reference. Any thread may call.
"""

from __future__ import annotations

import sys
import types
import typing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["MAIN_MODULES", "VARIABLES", "Importables"]

#: Names of the module that the interpreter itself runs; every process has its own.
MAIN_MODULES = frozenset({"__main__", "__mp_main__"})

#: Kinds of type variables: told by identity, so they are definitions as classes are.
VARIABLES: tuple[type, ...] = tuple(
    kind
    for name in ("TypeVar", "ParamSpec", "TypeVarTuple", "NewType")
    if (kind := getattr(typing, name, None)) is not None
)


class Importables:
    """Answers whether peers can import something by name.

    Args:
        by_value: Module names whose contents travel as definitions although they could be imported here; their
            submodules are included. The collection is read at each question, so it may grow later.
    """

    def __init__(self, by_value: Collection[str] = ()) -> None:
        self.by_value = by_value
        self._real: dict[str, types.ModuleType] = {}

    def module(self, module: types.ModuleType) -> bool:
        """Whether peers get this module by importing its name."""
        name = getattr(module, "__name__", None)
        return isinstance(name, str) and sys.modules.get(name) is module and self._importable(name, module)

    def name_of(self, namespace: dict[str, object]) -> str | None:
        """Return the name of the importable module whose globals this is, or ``None``."""
        name = namespace.get("__name__")
        if not isinstance(name, str):
            return None
        module = sys.modules.get(name)
        if module is None or getattr(module, "__dict__", None) is not namespace:
            return None
        return name if self._importable(name, module) else None

    def reaches(self, obj: object) -> bool:
        """Whether importing a function's or class's module and looking up its name gives this very object."""
        name = getattr(obj, "__module__", None)
        path = getattr(obj, "__name__" if type(obj) in VARIABLES else "__qualname__", None)
        if not isinstance(name, str) or not isinstance(path, str):
            return False
        return self.finds(name, path, obj)

    def finds(self, name: str, path: str, obj: object) -> bool:
        """Whether peers find ``obj`` at the dotted ``path`` of module ``name``."""
        module = sys.modules.get(name)
        if module is None or not self._importable(name, module):
            return False
        found: object = module
        for part in path.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                return False
        return found is obj

    def _importable(self, name: str, module: types.ModuleType) -> bool:
        if name in MAIN_MODULES or (self.by_value and self._is_by_value(name)):
            return False
        if self._real.get(name) is module:
            return True
        if getattr(module, "__spec__", None) is None and not self._made_by_parent(name, module):
            return False
        self._real[name] = module
        return True

    def _made_by_parent(self, name: str, module: types.ModuleType) -> bool:
        """Whether importing a package makes this spec-less module (``six.moves``, ``torch.classes``)."""
        package, _, last = name.rpartition(".")
        parent = sys.modules.get(package)
        return (
            parent is not None
            and getattr(parent, "__dict__", {}).get(last) is module
            and self._importable(package, parent)
        )

    def _is_by_value(self, name: str) -> bool:
        while name:
            if name in self.by_value:
                return True
            name = name.rpartition(".")[0]
        return False
