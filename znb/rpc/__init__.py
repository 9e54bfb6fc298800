"""Calls over ROUTER/DEALER: zerorpc v3 channels with credit flow control (see ``znb.wire`` for the bytes).

==================================== ===================================================================
``client`` ``server`` ``request``     channels: both ends of the protocol on the I/O thread
``values`` ``tables`` ``failures``    plain values, arrays and frames, exceptions; never a pickle
``host`` ``service`` ``work``         ``expose``: an object's methods at an address
``crew`` ``express`` ``eventloop``    the threads and the loop that run them
``proxy`` ``caller`` ``line``         ``connect``: the service as an object
``tries`` ``silence``                 calls that do not arrive, or are not answered
``streams`` ``futures``               what its methods return, besides values
``oneway``                           zerorpc's PUSH/PULL and PUB/SUB
``describe`` ``description``          what a service says about itself: told, and heard
``registry``                         services by name
``hooks`` ``security``                before and after each call; keys
==================================== ===================================================================

The names of services are loaded when they are first used, so that a worker that exposes nothing does not wait for
them.
"""

import importlib
from typing import Any

from znb.rpc.client import Call, Connection, Lost, Reply
from znb.rpc.request import GateClosed, Request
from znb.rpc.server import Server

__all__ = [
    "Call",
    "Caller",
    "Connection",
    "GateClosed",
    "Hook",
    "Limits",
    "Lost",
    "Proxy",
    "Reply",
    "Request",
    "Server",
    "Service",
    "connect",
    "current_call",
    "expose",
    "find_service",
    "inspect_service",
    "list_services",
    "ping",
    "process_hooks",
    "publisher",
    "puller",
    "pusher",
    "serve",
    "service_stats",
    "subscriber",
    "unexpose",
]

#: Where the names of services are.
_LAZY = {
    "Caller": "caller",
    "Hook": "hooks",
    "Limits": "caller",
    "Proxy": "proxy",
    "Service": "service",
    "connect": "proxy",
    "current_call": "hooks",
    "expose": "host",
    "find_service": "registry",
    "inspect_service": "description",
    "list_services": "registry",
    "ping": "description",
    "process_hooks": "hooks",
    "publisher": "oneway",
    "puller": "oneway",
    "pusher": "oneway",
    "serve": "host",
    "service_stats": "description",
    "subscriber": "oneway",
    "unexpose": "host",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
