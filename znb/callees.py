"""Brings what services have recorded of calls that this process, or those that it called, made of them.

A service is asked when somebody wants to see a trace, not before: ``collect`` goes from one to those that it says it
has called, until there are no more. A service that is a worker's, or this process's own, is read anyway; what comes
twice is told apart by its process.

Invariants: nobody waits longer than was allowed; one that does not answer, or does not tell (an older one, or one that
anybody may call), is left alone until it is called again, or for some seconds; no connection is kept. Any thread may
call; one at a time collects.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
import time
from pathlib import Path

import msgspec

from znb import rpc
from znb.errors import CallTimeout, ServiceUnavailable, ZnbError
from znb.rpc.callers import CALLED
from znb.traces import Store

__all__ = ["Callees"]

logger = logging.getLogger("znb.traces")

#: Services that are asked at the same time.
ASKED_AT_ONCE = 16
#: Seconds for which one that did not answer in time is left alone.
LATE_FOR = 10.0


class Callees:
    """Reads the services that a trace leads to.

    Args:
        store: Takes what comes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._keys: dict[str, str] = {}
        self._late: dict[str, float] = {}

    def collect(self, timeout: float) -> bool:
        """Bring everything that was recorded there until now; return whether all that was in time."""
        deadline = time.monotonic() + timeout
        with self._lock, concurrent.futures.ThreadPoolExecutor(ASKED_AT_ONCE, "znb-callees") as pool:
            now = time.monotonic()
            self._late = {address: until for address, until in self._late.items() if until > now}
            asked = set(self._late)
            while todo := {*CALLED.addresses(), *self._store.called} - asked:
                if time.monotonic() > deadline:
                    return False
                asked |= todo
                # All at once: one that is out of reach must not keep the others' spans away.
                list(pool.map(self._read, todo, [deadline] * len(todo)))
            return not self._late

    def read(self, address: str, timeout: float) -> None:
        """Bring what one process has recorded.

        Raises:
            ZnbError: It does not answer, or does not tell.
        """
        with self._lock:
            self._read_all(address, time.monotonic() + timeout)

    def _read(self, address: str, deadline: float) -> None:
        """Bring what one process has recorded, if it tells; note if it does not in time."""
        try:
            self._read_all(address, deadline)
        except CallTimeout:
            logger.debug("%s does not say in time what it has recorded", address)
            self._late[address] = time.monotonic() + LATE_FOR
        except Exception as error:  # noqa: BLE001 - whatever it answers, there is nothing to be had
            logger.debug("%s does not say what it has recorded: %s", address, error)
            CALLED.forget(address)
            self._store.called.discard(address)
            if isinstance(error, ServiceUnavailable) and address in self._keys:
                self._store.lose(self._keys.pop(address), str(error.fields.get("reason", error)))

    def _read_all(self, address: str, deadline: float) -> None:
        path = address.partition("#")[0].removeprefix("ipc://")
        if path.startswith("/") and not Path(path).exists():  # a caller would wait for it to come back
            raise ServiceUnavailable(address, "its process has ended")
        with contextlib.closing(rpc.Caller([address], [address], rpc.Limits(), ())) as caller:
            more = True
            while more:
                request = self._store.request_for(self._keys.get(address, ""), with_open=True)
                sent = time.perf_counter_ns()
                # With lists in place of tuples, as any msgpack has them.
                arguments = (msgspec.msgpack.decode(msgspec.msgpack.encode(request)),)
                left = max(0.001, deadline - time.monotonic())
                answer = caller.call("_znb_spans", arguments, {}, rpc.Limits(left))
                if not isinstance(answer, bytes | memoryview):
                    raise ZnbError(f"expected spans from {address}, got {type(answer).__name__}")
                batch = self._store.take_encoded(answer, sent, time.perf_counter_ns(), request)
                if batch is None:
                    return
                self._keys[address] = batch.process.key
                more = batch.more
