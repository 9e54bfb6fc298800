"""A Jupyter-native distributed computing environment over ZeroMQ.

Names are loaded when they are first used, so that ``import znb`` takes milliseconds.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from znb.cluster import Cluster
    from znb.errors import (
        AuthError,
        CallTimeout,
        Cancelled,
        NoWorkers,
        ProtocolError,
        RemoteError,
        SerializationError,
        ServiceUnavailable,
        WorkerLost,
        ZnbError,
    )
    from znb.magics import load_ipython_extension, unload_ipython_extension
    from znb.pubsub import publish, subscribe
    from znb.rpc import Hook, connect, current_call, expose, serve, unexpose
    from znb.spans import span, traced
    from znb.tracing import Trace, trace
    from znb.widgets.stream import stream

#: Where each public name lives, grouped by what it is for.
_HOMES = {
    "znb.cluster": ("Cluster",),
    "znb.errors": (
        "AuthError",
        "CallTimeout",
        "Cancelled",
        "NoWorkers",
        "ProtocolError",
        "RemoteError",
        "SerializationError",
        "ServiceUnavailable",
        "WorkerLost",
        "ZnbError",
    ),
    "znb.magics": ("load_ipython_extension", "unload_ipython_extension"),
    "znb.pubsub": ("publish", "subscribe"),
    "znb.rpc": ("Hook", "connect", "current_call", "expose", "serve", "unexpose"),
    "znb.spans": ("span", "traced"),
    "znb.tracing": ("Trace", "trace"),
    "znb.widgets.stream": ("stream",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "AuthError",
    "CallTimeout",
    "Cancelled",
    "Cluster",
    "Hook",
    "NoWorkers",
    "ProtocolError",
    "RemoteError",
    "SerializationError",
    "ServiceUnavailable",
    "Trace",
    "WorkerLost",
    "ZnbError",
    "connect",
    "current_call",
    "expose",
    "load_ipython_extension",
    "publish",
    "serve",
    "span",
    "stream",
    "subscribe",
    "trace",
    "traced",
    "unexpose",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'znb' has no attribute {name!r}")
    if sys.is_finalizing():  # importing fails then, in words that explain nothing
        raise AttributeError(f"znb.{name} was never used and cannot be loaded any more: the interpreter is ending")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
