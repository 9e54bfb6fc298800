"""The future of a call: of ``concurrent.futures``, and awaitable.

Invariants: cancelling it stops the call on the server. It is resolved on the I/O thread, so its callbacks run there
and must not block.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from typing import Any

from znb.spans import bound

__all__ = ["CallFuture"]


class CallFuture(concurrent.futures.Future[Any]):
    """What ``svc.method.future(…)`` returns: wait for it with ``result()`` or ``await``."""

    def __init__(self) -> None:
        super().__init__()
        self.abandon: Callable[[], object] | None = None
        #: The proxy, which would hang up if it were gone.
        self.owner: object = None

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self).__await__()

    def cancel(self) -> bool:
        """Stop the call, here and on the server; ``False`` if it has ended."""
        cancelled = super().cancel()
        if cancelled:
            self._let_go()
        return cancelled

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """As PEP 3148 has it; what it calls belongs to the present span."""
        super().add_done_callback(bound(fn))

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """Resolve it, unless it was cancelled."""
        self.abandon = self.owner = None
        if self.set_running_or_notify_cancel():
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)

    def _let_go(self) -> None:
        abandon, self.abandon, self.owner = self.abandon, None, None
        if abandon is not None:
            abandon()
