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

from znb.export.files import FORMATS, TraceFileError, load, render, save
from znb.export.picture import flame_svg

__all__ = ["FORMATS", "TraceFileError", "flame_svg", "load", "render", "save"]
