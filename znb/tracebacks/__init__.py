"""Exceptions cross processes: their own type, their own frames, and where they were raised.

``capture`` turns an exception into an ``ErrorRecord`` in the process that raised it, ``encode_record`` and
``decode_record`` take it over the wire as msgpack, and ``restore`` makes an exception of it that Python, IPython,
pytest, logging and pdb show as if its frames had been here.

=============== ==========================================================================================
``record``      the record and its text; needs no pickle to be shown
``frames``      frames: read from a traceback, and made again
``sources``     the source lines that frames need: collected there, put into ``linecache`` here
``values``      type, arguments and attributes: taken apart there, put together here
``capture``     exception → record; never raises
``restore``     record → exception
``render``      what IPython shows for a restored exception
``failures``    the same error from several workers, folded; different ones, grouped
=============== ==========================================================================================

Not owned by a thread. ``restore`` unpickles, may import and reads source files: call it on the thread that wants the
exception, not on the I/O thread.

Frames are made here and not by tblib 3.2 because its frames carry the line columns of its own stub (so Python marks
the wrong part of the line), start at the failing line (so pytest and IPython lose what stands above it) and keep the
frames, and all variables, of whoever rebuilt them alive through ``f_back``.
"""

from znb.tracebacks.capture import HIDDEN_MODULES, capture
from znb.tracebacks.failures import Failure, combine, fold, raise_for
from znb.tracebacks.record import ErrorRecord, Origin, Place, decode_record, encode_record
from znb.tracebacks.render import render, show_in_shell
from znb.tracebacks.restore import detach, restore

__all__ = [
    "HIDDEN_MODULES",
    "ErrorRecord",
    "Failure",
    "Origin",
    "Place",
    "capture",
    "combine",
    "decode_record",
    "detach",
    "encode_record",
    "fold",
    "raise_for",
    "render",
    "restore",
    "show_in_shell",
]
