"""Where this process's streams are to be found, and what it is called: told by whoever starts the process.

Apart from ``process``, so that a worker can say so without loading what publishing needs.

Invariants: what a parent was told does not hold for its forked children. Set before anybody publishes.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from znb.serialize import Codec

__all__ = ["Address", "Home", "home"]


class Address(NamedTuple):
    """A process.

    Attributes:
        url: Where it publishes.
        source: What it is called.
        cluster: The cluster that it belongs to; empty for none.
    """

    url: str
    source: str
    cluster: str = ""


class Home:
    """This process, as others see it.

    Attributes:
        codec: Writes and reads what is not plain; the process's own, so that its classes stay its classes.
    """

    def __init__(self) -> None:
        self.codec = Codec()
        self._address: Address | None = None
        self._pid = 0

    def settle(self, url: str, source: str, codec: Codec, cluster: str = "") -> None:
        """Say where this process is found, and what it is called."""
        self._address, self._pid, self.codec = Address(url, source, cluster), os.getpid(), codec

    @property
    def address(self) -> Address | None:
        """What was said; ``None`` for a process that finds an address itself."""
        return self._address if self._pid == os.getpid() else None


#: This process. ``publish`` is called from anywhere, so there is nobody who could hold it.
home = Home()
