"""Which services this process has called: whoever reads a trace goes on there.

Invariants: at most ``KEPT_MAX`` addresses are kept, the latest. Any thread may call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

__all__ = ["CALLED", "Called"]

#: Addresses kept.
KEPT_MAX = 64


class Called:
    """The services that one process has called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: dict[str, None] = {}

    def note(self, addresses: Iterable[str]) -> None:
        """Note that services are called."""
        with self._lock:
            for address in addresses:
                self._addresses.pop(address, None)
                self._addresses[address] = None
            while len(self._addresses) > KEPT_MAX:
                del self._addresses[next(iter(self._addresses))]

    def forget(self, address: str) -> None:
        """Forget a service that does not answer, until it is called again."""
        with self._lock:
            self._addresses.pop(address, None)

    def addresses(self) -> list[str]:
        """Return their addresses, the latest last."""
        with self._lock:
            return list(self._addresses)


#: Those of this process.
CALLED = Called()
