"""Code objects: the global names they reach, their bytes, and the source text behind them.

Code travels by ``marshal`` (version 2, whose output depends on the value alone, not on reference counts, so that it
can be hashed): 1.2 µs to dump and 1.4 to load, where dill takes 96 and 16 µs and cloudpickle 14. Marshalled code is
for one minor version of Python; definitions carry theirs and refuse to load on another.

Owned by a codec; callers hold its lock.
"""

from __future__ import annotations

import linecache
import marshal
import opcode
import os
import types
import weakref

__all__ = ["CodeFacts", "Codes", "register_source"]

#: Longest source text of one cell that travels with a definition, in characters: a cell is a few kB, and what is
#: larger is generated code that nobody reads in a traceback.
SOURCE_LIMIT = 256 * 1024

#: Version of marshal's format: the last one without references, whose bytes are a function of the value.
_MARSHAL_VERSION = 2

#: Instructions whose argument indexes ``co_names`` and that touch globals. ``LOAD_NAME`` is how a class body inside a
#: function reads them.
_NAME_OPS = frozenset(
    opcode.opmap[name]
    for name in (
        "STORE_GLOBAL",
        "DELETE_GLOBAL",
        "LOAD_NAME",
        "LOAD_FROM_DICT_OR_GLOBALS",
    )
    if name in opcode.opmap
)
_LOAD_GLOBAL = opcode.opmap["LOAD_GLOBAL"]
_EXTENDED_ARG = opcode.EXTENDED_ARG


class CodeFacts:
    """What a definition needs to know of a code object.

    Attributes:
        data: Its marshalled form.
        names: Global names that it, or code nested in it, reads, writes or deletes.
        attributes: Every other name in it; attribute accesses are among them.
        filenames: Files that it, or code nested in it, says it comes from.
    """

    __slots__ = ("attributes", "data", "filenames", "names")

    def __init__(self, code: types.CodeType) -> None:
        self.data = marshal.dumps(code, _MARSHAL_VERSION)
        names: dict[str, None] = {}
        attributes: dict[str, None] = {}
        filenames: dict[str, None] = {}
        pending = [code]
        while pending:
            each = pending.pop(0)
            filenames[each.co_filename] = None
            names.update(dict.fromkeys(_names_reached(each)))
            attributes.update(dict.fromkeys(each.co_names))
            pending += [const for const in each.co_consts if isinstance(const, types.CodeType)]
        self.names = tuple(names)
        self.attributes = tuple(attributes)
        self.filenames = tuple(filenames)


def _names_reached(code: types.CodeType) -> list[str]:
    """Return the global names in one code object, in order of appearance (``dis`` would cost 5 ms to import)."""
    names = code.co_names
    if not names:
        return []
    found = []
    raw = code.co_code
    high = 0
    for position in range(0, len(raw), 2):
        operation = raw[position]
        argument = raw[position + 1] | high
        high = argument << 8 if operation == _EXTENDED_ARG else 0
        if operation == _LOAD_GLOBAL:
            found.append(names[argument >> 1])  # the lowest bit says whether a NULL is pushed
        elif operation in _NAME_OPS:
            found.append(names[argument])
    return found


class Codes:
    """Facts of the code objects seen, kept as long as the code objects live."""

    def __init__(self) -> None:
        self._facts: dict[int, tuple[weakref.ref[types.CodeType], CodeFacts]] = {}
        self._real: set[str] = set()

    def facts(self, code: types.CodeType) -> CodeFacts:
        """Return the facts of a code object, found out at most once."""
        known = self._facts.get(id(code))
        if known is not None and known[0]() is code:
            return known[1]
        facts = CodeFacts(code)
        key = id(code)
        table = self._facts

        def forget(reference: weakref.ref[types.CodeType]) -> None:
            if key in table and table[key][0] is reference:
                del table[key]

        table[key] = (weakref.ref(code, forget), facts)
        return facts

    def source(self, filename: str) -> str | None:
        """Return the text of a file that exists in ``linecache`` alone, as cells do; ``None`` for any other."""
        if filename in self._real:
            return None
        entry = linecache.cache.get(filename)
        if entry is None or len(entry) != 4:  # absent, or to be had lazily from a module's loader
            return None
        if entry[1] is not None and os.path.exists(filename):  # noqa: PTH110 pathlib costs 3 ms at import
            self._real.add(filename)
            return None
        text = "".join(entry[2])
        return text if len(text) <= SOURCE_LIMIT else None


def register_source(filename: str, text: str) -> None:
    """Make tracebacks and ``inspect.getsource`` here find the text of a peer's cell."""
    if not os.path.exists(filename):  # noqa: PTH110 as above
        # No modification time: checkcache keeps such entries.
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
