"""A service: an object's methods at an address, run on a bounded pool of threads and one event loop.

Which thread runs a call:

=========================== ============================================================================
method                       runs on
=========================== ============================================================================
usually quick (AT_ONCE)      the thread that received it, if a place is free (see ``znb.rpc.express``)
any other                    a thread of the pool
coroutine, async generator   the event loop
introspection, ping          the thread that received it, always
=========================== ============================================================================

A call for which there is no thread waits; beyond ``queue`` waiting calls it waits for ``HOLD`` seconds at most and is
then told, and beyond twice as many it is told at once: nothing grows without bound.

Invariants: calls in flight keep the methods that they began with when the service is replaced; the services own
methods (``_zerorpc_…``, ``_znb_…``) answer while all threads are busy. The crew's owner runs ``_dispatch``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import math
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import zmq

from znb import wire
from znb.checks import check_count
from znb.errors import ServiceUnavailable, ZnbError
from znb.profiler import SAMPLER
from znb.rpc import describe, failures, registry, security
from znb.rpc.crew import Crew, Pool
from znb.rpc.eventloop import EventLoop
from znb.rpc.express import Batch, Express
from znb.rpc.hooks import Hook, Hooks, process_hooks
from znb.rpc.request import Request
from znb.rpc.server import Server, ServerStats
from znb.rpc.work import CallStopped, Entry, Work, pack_value
from znb.spans import follow_threads
from znb.transport import is_local

__all__ = ["Service", "ServiceStats"]

#: Seconds that a call beyond a full queue is held back before it is told.
HOLD = 2.0
#: Threads that run calls, unless told otherwise.
THREADS = 8
#: Calls that may wait for a thread, unless told otherwise.
QUEUE = 1000
#: Bytes of msgpack in one message, unless told otherwise.
MAX_BYTES = 64_000_000
#: Seconds between looks whether a service that has been replaced has calls left.
RETIRE_INTERVAL = 0.1
#: Seconds without a call after which a service that has been replaced closes.
RETIRE_AFTER = 60.0


class ServiceStats(NamedTuple):
    """A snapshot of a service.

    Attributes:
        server: Its callers and open calls.
        running: Calls that run on threads.
        waiting: Calls that wait for a thread.
        coroutines: Calls that run on the event loop.
        refused: Calls that were told that it is busy.
        calls: Calls that each method has ended, by name.
    """

    server: ServerStats
    running: int
    waiting: int
    coroutines: int
    refused: int
    calls: dict[str, int]


class Service:
    """An object's methods, callable from other processes.

    ``start`` makes it so and ``close`` ends it; it is a context manager as well.

    Args:
        obj: A function, class, instance, module or dict.
        name: What callers say.
        bind: Where to listen; ``None`` for a socket in the runtime directory.
        threads: Calls that may run at the same time; 1 serialises them.
        queue: Calls that may wait for a thread.
        max_bytes: Bytes of msgpack in one message, arrays and large bytes not counted.
        hooks: See ``znb.rpc.hooks``.
        keys: Whoever has the public one may call, from other machines too; ``None`` for no keys.
        insecure: Whether it may be reached from other machines without keys.
        group: Equal for replicas of one service; ``None`` if it is the only one.
    """

    log = logging.getLogger("znb.rpc")
    crew: Crew
    server: Server

    def __init__(
        self,
        obj: Any,
        *,
        name: str,
        bind: str | None = None,
        threads: int = THREADS,
        queue: int = QUEUE,
        max_bytes: int = MAX_BYTES,
        hooks: Iterable[Hook] = (),
        keys: security.Keys | None = None,
        insecure: bool = False,
        group: str | None = None,
    ) -> None:
        self.name = registry.check_service_name(name)
        self.hooks = Hooks(hooks, process_hooks)
        self.url = ""
        self.asked_url = bind
        self._queue = check_count("queue", queue)
        self._keys = keys
        self._given_keys = keys
        self._insecure = insecure
        self._group = group or security.new_group()
        self._refused = 0
        self._closed = False
        self._idle_looks = 0
        self._file: Path | None = None
        self._max_bytes = check_count("max_bytes", max_bytes)
        self.pool = Pool(threads, f"znb-{name}")
        self.loop = EventLoop(f"znb-{name}-loop")
        self._entries: dict[str, Entry] = {}
        self._doc = ""
        self._description: dict[str, Any] = {}
        self.replace(obj)

    # -- any thread ----------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """What callers on any machine need: the URL, and the public key if there is one."""
        return self._address(platform.node())

    def _address(self, host: str) -> str:
        key = f"#{self._keys.public.hex()}" if self._keys is not None else ""
        return security.callable_url(self.url, host) + key

    @property
    def methods(self) -> dict[str, describe.Method]:
        """What it offers."""
        return {name: entry.method for name, entry in self._entries.items()}

    def __repr__(self) -> str:
        return f"<Service {self.name!r} at {self.address or 'no address yet'}: {', '.join(self._entries)}>"

    def __enter__(self) -> Self:
        if not self.url:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def check_door(self) -> None:
        """Raise ``AuthError`` if other machines could reach it, and nothing protects it."""
        if self.asked_url is not None:
            security.check_bind(self.asked_url, self._keys, insecure=self._insecure)

    def start(self) -> Service:
        """Listen, and be found by name.

        Raises:
            AuthError: Other machines could reach it, and nothing protects it.
            ZnbError: The address cannot be bound.
        """
        self.check_door()
        SAMPLER.install()
        follow_threads()
        url = self.asked_url or registry.default_url(self.name)
        if self._keys is None and not self.asked_url and url.startswith("tcp://"):
            self._keys = security.make_keys()  # it can be reached from outside, where its address tells the key
        self.crew = Crew(f"znb-{self.name}")
        self.server = Server(self.crew, self._dispatch, raw=True, max_bytes=self._max_bytes, express=self._express)
        self.crew.start()
        try:
            prepare = security.server_options(self._keys)
            self.url = self.crew.wait_call(self.server.bind, url, prepare)
            self._publish()
        except zmq.ZMQError as error:
            self.close()
            raise ZnbError(f"{self.name} cannot listen at {url}: {error}") from error
        except BaseException:
            self.close()
            raise
        return self

    def has_door(self, bind: str | None, options: dict[str, Any]) -> bool:
        """Whether it listens where, and lets in whom, these options say.

        Args:
            bind: As for the constructor; ``None`` for an address of its own choice.
            options: The constructor's; ``True`` for keys of its own choice.
        """
        keys = options.get("keys")
        same_place = bind in {None, self.url, self.asked_url}
        same_keys = self._keys is not None if keys is True else keys == self._given_keys
        insecure, most = options.get("insecure", False), options.get("max_bytes", MAX_BYTES)
        return same_place and same_keys and insecure == self._insecure and most == self._max_bytes

    def replace(self, obj: Any, options: dict[str, Any] | None = None) -> None:
        """Offer another object from now on; calls in flight end with the one they began with.

        Args:
            obj: As for the constructor.
            options: Those of the constructor that may change: ``threads``, ``queue``, ``hooks`` and ``group``.

        Raises:
            ZnbError: It has no public methods.
        """
        methods = describe.methods_of(obj, self.name)
        if options is not None:
            queue = check_count("queue", options.get("queue", QUEUE))
            self.pool.resize(options.get("threads", THREADS))
            self._queue = queue
            self.hooks = Hooks(options.get("hooks", ()), process_hooks)
            self._group = options.get("group") or self._group
        known = self._entries
        self._entries = {
            key: known[key] if key in known and known[key].method.function is method.function else Entry(method)
            for key, method in methods.items()
        }
        self._doc = (inspect.getdoc(obj) or "") if not isinstance(obj, dict) else ""
        self._description = describe.describe(self.name, self._doc, methods)
        if self.url:
            self._publish()

    def retire(self, successor: Service) -> None:
        """Offer what the successor does, be found no more, and close when no calls are left.

        Callers that are connected go on here: a connection that closes just when a call comes in would lose it. So it
        is closed only when nothing came for a while; at once if it lets in others than the successor does.
        """
        self._entries = {name: Entry(entry.method) for name, entry in successor._entries.items()}
        self._doc = successor._doc
        self._description = successor._description
        self._file = None  # of this name and process there is one, and it is the successor's now
        patience = RETIRE_AFTER if self._keys == successor._keys else RETIRE_INTERVAL
        self.crew.call_soon(self._close_when_idle, math.ceil(patience / RETIRE_INTERVAL), -1)

    def _close_when_idle(self, looks: int, calls: int) -> None:
        """Close after so many looks in a row at which nothing ran, and nothing had since the one before."""
        busy = self.server.stats().requests or self.pool.running or self.pool.waiting or self.loop.running
        ended = sum(entry.calls for entry in self._entries.values())
        self._idle_looks = 0 if busy or ended != calls else self._idle_looks + 1
        if self._idle_looks >= looks:
            self.close()
        else:
            self.crew.call_later(RETIRE_INTERVAL, self._close_when_idle, looks, ended)

    def _withdraw(self) -> None:
        if self._file is not None:
            registry.withdraw(self._file)
        self._file = None

    def close(self) -> None:
        """Stop listening, stop what runs and end the threads. May be called twice."""
        if self._closed or not hasattr(self, "crew"):
            return
        self._closed = True
        self._withdraw()
        self.crew.stop()
        self.loop.close()
        self.pool.close()

    def stats(self) -> ServiceStats:
        """Return what it does."""
        calls = {name: entry.calls for name, entry in self._entries.items()}
        pool = self.pool
        return ServiceStats(self.server.stats(), pool.running, pool.waiting, self.loop.running, self._refused, calls)

    def _publish(self) -> None:
        line = self._doc.partition("\n")[0]
        self._file = registry.publish(
            self.name, self._address("127.0.0.1"), group=self._group, doc=line, methods=sorted(self._entries)
        )

    # -- the crew's owner ----------------------------------------------------------------------------------

    def _dispatch(self, request: Request) -> None:
        entry = self._entries.get(request.method)
        if entry is None:
            self._answer_itself(request)
            return
        work = Work(self, request, entry)
        request.on_cancel = work.cancel
        kind = entry.method.kind
        if kind in {"coroutine", "async stream"}:
            if self.loop.running >= 2 * self._queue:
                self._refuse(work)
            else:
                self.loop.submit(work.run_async())
        else:
            self._queue_up(work)

    def _express(self, peer: bytes, event: wire.Event) -> bool:
        """Take an event the short way, if it can go there; return whether that was all."""
        if event.name == wire.CALLS:
            Batch(self, peer, wire.decode_calls(event.args), event.headers).run()
            return True
        entry = self._entries.get(event.name)
        headers = event.headers
        if (
            entry is None
            or not entry.quick
            or "znb" not in headers
            or type(headers.get("message_id")) is not int
            or not _EXPRESS_HEADERS.issuperset(headers)
            or self.hooks.all
            or not self.pool.take_place()
        ):
            return False
        self._run_express(Express(self, peer, event, entry))
        return True

    def run_quickly(self, peer: bytes, event: wire.Event, batch: Batch) -> bool:
        """Run a call of a batch, the short way or the long one; return whether this thread still owns the socket."""
        entry = self._entries.get(event.name)
        if entry is not None and entry.quick and not self.hooks.all and self.pool.take_place():
            return self._run_express(Express(self, peer, event, entry, batch))
        self.server.take_request(peer, event)
        return True

    def _run_express(self, trip: Express) -> bool:
        self.crew.lend(trip.overrun)
        try:
            trip.run()
        except BaseException as error:  # noqa: BLE001 - it was stopped after its end, if that can be
            trip.error = error
        still_owner = False
        free = True
        try:
            still_owner = self.crew.regain()
            free = trip.end(still_owner=still_owner)
        except CallStopped:
            self.log.debug("%s was stopped just after its end", trip)
        if free:
            self.pool.give_back()
        return still_owner

    def _queue_up(self, work: Work) -> None:
        waiting = self.pool.waiting
        if waiting >= 2 * self._queue:
            self._refuse(work)
            return
        self.pool.submit(work.run)
        if waiting >= self._queue:
            self.crew.call_later(HOLD, self._refuse_if_waiting, work)

    def _refuse_if_waiting(self, work: Work) -> None:
        if self.pool.remove(work.run):
            self._refuse(work)

    def _refuse(self, work: Work) -> None:
        self._refused += 1
        busy = ServiceUnavailable(
            self.name,
            f"it is busy: running {self.pool.running}, waiting {self.pool.waiting} (its queue= is {self._queue})",
            hint="Try again later, or expose it with more threads= or a longer queue=",
        )
        work.span.end(busy)
        failures.fail(work.request, busy, service=self.name)

    def _answer_itself(self, request: Request) -> None:
        answer = _OWN.get(request.method)
        try:
            if answer is None:
                raise NameError(self._unknown(request.method))
            args = msgspec.msgpack.decode(request.args) if isinstance(request.args, msgspec.Raw) else request.args
            first = args[0] if isinstance(args, list) and args else None
            buffers: list[Any] = []
            packed = pack_value(answer(self, first), buffers if request.from_znb else None, where="result")
            request.reply(msgspec.Raw(packed), buffers)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's to hear
            failures.fail(request, error, service=self.name)

    def _unknown(self, method: str) -> str:
        near = difflib.get_close_matches(method, self._entries, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(self._entries))}"
        return f"{self.name} has no method {method!r}; {hint}"

    def _entry(self, method: Any) -> Entry:
        try:
            return self._entries[method]
        except (KeyError, TypeError):
            raise NameError(self._unknown(str(method))) from None

    def _source(self, method: Any) -> str | None:
        try:
            return inspect.getsource(inspect.unwrap(self._entry(method).method.function))
        except (OSError, TypeError):  # written in C, or typed into a console
            return None

    def _spans(self, request: Any) -> bytes:
        if self._insecure and self._keys is None and not is_local(self.url):
            raise PermissionError(f"{self.name} has no keys, so it does not tell strangers what it does")
        # By name, because traces are made of what is here.
        found: bytes = importlib.import_module("znb.traces").FEED.answer_encoded(request)
        return found

    def _numbers(self) -> dict[str, Any]:
        stats = self.stats()
        return {**stats._asdict(), "server": stats.server._asdict()}


#: Headers of a request that may be answered at once: nothing that asks for more than the result.
_EXPRESS_HEADERS = frozenset({"message_id", "v", "znb", "items", "kw", "trace", "traceparent", "tracestate"})

#: What every service answers itself, at once, also while all threads are busy.
_OWN: dict[str, Callable[[Service, Any], Any]] = {
    "_zerorpc_ping": lambda service, _: ["pong", service.name],
    "_zerorpc_name": lambda service, _: service.name,
    "_zerorpc_list": lambda service, _: sorted(service._entries),
    "_zerorpc_help": lambda service, method: service._entry(method).method.doc,
    "_zerorpc_args": lambda service, method: describe.zerorpc_args(service._entry(method).method),
    "_zerorpc_inspect": lambda service, _: describe.zerorpc_inspect(service.name, service.methods),
    "_znb_inspect": lambda service, _: service._description,
    "_znb_source": Service._source,
    "_znb_spans": Service._spans,
    "_znb_stats": lambda service, _: service._numbers(),
    "_znb_ping": lambda _service, _: None,
}
