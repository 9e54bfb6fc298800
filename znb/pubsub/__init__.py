"""Publish and subscribe: streams of values from any process to any other, lossy by design, and every loss counted.

============== =================================================================================
``process``     ``publish``: this process's publisher, made with its first message
``publisher``   the publishing end: a ROUTER, and who reads
``board``       what was published: a ring, and the last value of each topic; pure
``subscriber``  ``subscribe``: messages as the user gets them
``feed``        the receiving end: finds publishers, and keeps what has come
``places``      where publishers are found
``ledger``      how much was published, readable after a kill
``home``        where this process is, as it was told
``messages``    what the two ends say to each other; pure
============== =================================================================================

What must arrive does not belong here: it is a job or a call.
"""

import importlib
from typing import Any

__all__ = ["Message", "Subscription", "publish", "streams", "subscribe"]

#: Where the names are; a worker that publishes nothing does not load them.
_HOMES = {
    "Message": "subscriber",
    "Subscription": "subscriber",
    "publish": "process",
    "streams": "process",
    "subscribe": "subscriber",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
