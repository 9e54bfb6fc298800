"""What is no span here, and yet has children: a span of OpenTelemetry's, the script, and tracing that is off."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

__all__ = ["OFF", "OFF_STATE", "Adopted", "adopt_active", "program_name"]

#: ``tracestate`` of calls whose caller has tracing switched off: the callee records nothing of them either.
OFF_STATE: Final = "znb=off"

#: The script that is a notebook's kernel.
LAUNCHER: Final = "ipykernel_launcher.py"


class Adopted:
    """A parent that is not znb's."""

    __slots__ = ("live", "span_id", "trace_id", "used")

    def __init__(self, trace_id: int, span_id: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.live = 0
        self.used = True


#: The parent of what is not to be recorded, recognised by its trace, 0.
OFF: Final = Adopted(0, 0)


def adopt_active() -> Adopted | None:
    """Return the active span of OpenTelemetry, if the program uses it and is in one."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    found = api.get_current_span().get_span_context()
    return Adopted(found.trace_id, found.span_id) if found.is_valid else None


def program_name() -> str:
    """Return what the script is called whose calls belong to no span."""
    name = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python").name
    return "outside of cells" if name == LAUNCHER else name
