"""Traces as files: what other tools read, and what this one reads back.

=================== ===== ====== ==========================================================================
suffix               spans samples opened by
=================== ===== ====== ==========================================================================
``.json``            all   all    Perfetto, chrome://tracing; read back
``.speedscope.json`` yes   yes    speedscope
``.otlp.json``       all   no     any OpenTelemetry backend; read back
``.html``            all   all    a browser, without anything else; read back
``.folded``          sums  sums   flamegraph.pl, inferno, speedscope
``.svg``             yes   no     anything that shows pictures
=================== ===== ====== ==========================================================================

"all": with ids, attributes and events, so nothing is lost.

Invariants: a file appears complete or not at all; what is read from a file is checked, and a damaged or foreign one is
a
``TraceFileError`` that says what was expected and what is there.
"""

import importlib
from typing import Any

__all__ = ["FORMATS", "TraceFileError", "flame_svg", "load_all", "parse_all", "render", "save", "send_otlp"]

#: Where the names are; loaded when they are first used, as most processes never save a trace.
_LAZY = {
    "FORMATS": "files",
    "TraceFileError": "files",
    "flame_svg": "picture",
    "load_all": "files",
    "parse_all": "files",
    "render": "files",
    "save": "files",
    "send_otlp": "collector",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
