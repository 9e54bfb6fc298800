"""What ``znb.connect`` returns: the service as an object, with its own methods, signatures and docs.

=============================== ==================================================================
``svc.add(1, b=2)``              calls, and waits for the result
``svc.add.future(1)``            calls without waiting: a future, also for ``await``
``for line in svc.tail("log")``  reads a stream; ``async for`` too
``svc.add.using(timeout=2)(1)``  with other limits; ``svc.using(…)`` for all methods
``svc["close"]()``               a method whose name the proxy has itself
``svc.add?``, ``help(svc)``      the remote signature and docstring
=============================== ==================================================================

Invariants: wrong arguments and unknown methods are told before anything is sent, where the service has said what it
offers. A proxy may be used by any thread, and survives the restart of its service.
"""

from __future__ import annotations

import difflib
import html
import inspect
import time
import weakref
from collections.abc import Iterable
from time import perf_counter_ns
from typing import Any, Self

from znb import wire
from znb.errors import CallTimeout, ZnbError
from znb.rpc import failures, registry, security, values
from znb.rpc.caller import Caller, Endpoint, Limits, Outgoing, Started
from znb.rpc.client import Call, Lost, Reply
from znb.rpc.description import Description, function_with_source
from znb.rpc.futures import CallFuture
from znb.rpc.hooks import Hook
from znb.rpc.streams import Stream
from znb.spans import RECORDER, Context, record_call
from znb.spans.recorder import Parent

__all__ = ["Proxy", "RemoteMethod", "connect"]


def connect(
    target: str | Iterable[str],
    *,
    timeout: float | None = None,
    item_timeout: float | None = None,
    hooks: Iterable[Hook] = (),
) -> Proxy:
    """Return a proxy for a service.

    Args:
        target: A name, an address, or a list of addresses among which calls are balanced; a call that cannot reach one
            goes to another.
        timeout: Seconds for each call or whole stream; ``None`` for any.
        item_timeout: Seconds for each item of a stream; ``None`` for any.
        hooks: See ``znb.rpc.hooks``.

    Raises:
        ServiceUnavailable: There is no such service.
        ValueError: An address is none.
        AuthError: Its address has the wrong key.

    Example:
        >>> import znb
        >>> @znb.expose
        ... def add(a: int, b: int = 1) -> int:
        ...     "Sum of two numbers."
        ...     return a + b
        >>> svc = znb.connect("add")
        >>> svc.add(1, b=2)
        3
        >>> svc.add.future(1).result()
        2
        >>> svc.close(); znb.unexpose("add")
    """
    addresses = [target] if isinstance(target, str) else list(target)
    if not addresses:
        raise ValueError("connect to what? Expected a name, an address, or a list of addresses; got an empty list")
    name = ""
    if len(addresses) == 1 and "://" not in addresses[0]:
        name = addresses[0]
        addresses = [entry.url for entry in registry.find_service(name)]
    for address in addresses:
        security.check_url(address)
    caller = Caller(name, addresses, Limits(timeout, item_timeout), tuple(hooks))
    description = Description(caller)
    description.fetch()
    return Proxy(caller, description, caller.limits)


class Proxy:
    """A service as an object; see ``connect``."""

    _znb_reserved = frozenset({"close", "using"})

    def __init__(self, caller: Caller, description: Description, limits: Limits, prefix: str = "") -> None:
        self._znb_caller = caller
        self._znb_description = description
        self._znb_limits = limits
        self._znb_prefix = prefix
        if not prefix and limits is caller.limits:
            self._znb_finalizer = weakref.finalize(self, caller.close)
        self.__doc__ = description.help_text(prefix)

    def using(self, *, timeout: float | None = None, item_timeout: float | None = None) -> Proxy:
        """Return a proxy for the same service with other limits."""
        made = Proxy(self._znb_caller, self._znb_description, Limits(timeout, item_timeout), self._znb_prefix)
        made._znb_owner = self  # type: ignore[attr-defined]  # the connections live as long as the first proxy
        return made

    def close(self) -> None:
        """Hang up. May be called twice."""
        self._znb_caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self[name]

    def __getitem__(self, name: str) -> Any:
        path = self._znb_prefix + name
        description = self._znb_description
        if description.known and path not in description.methods and not self._znb_group(path):
            description.fetch()  # it may have been replaced meanwhile
            if path not in description.methods and not self._znb_group(path):
                near = difflib.get_close_matches(path, description.methods, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(description.methods) or 'nothing'}"
                raise AttributeError(f"{description.name} has no method {path!r}; {hint}")
        made: Any
        if path not in description.methods and self._znb_group(path):
            made = Proxy(self._znb_caller, description, self._znb_limits, path + ".")
            made._znb_owner = self
        else:
            made = RemoteMethod(self, path, self._znb_limits)
        if name not in self._znb_reserved:
            self.__dict__[name] = made  # found without __getattr__ from now on
        return made

    def __dir__(self) -> list[str]:
        start = len(self._znb_prefix)
        names = {path[start:].partition(".")[0] for path in self._znb_description.methods if self._znb_in(path)}
        return sorted(names | {"using", "close"})

    def __repr__(self) -> str:
        lines = [f"<service {self._znb_title()}>"]
        lines += [f"  {self._znb_description.headline(path)}" for path in self._znb_paths()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'><code>{html.escape(self._znb_description.headline(path))}</code></td>"
            f"<td style='text-align:left'>{html.escape(self._znb_description.first_line(path))}</td></tr>"
            for path in self._znb_paths()
        )
        title = html.escape(self._znb_title())
        doc = html.escape(self._znb_description.doc.partition("\n")[0])
        return f"<div><b>service {title}</b> {doc}<table>{rows}</table></div>"

    def _znb_title(self) -> str:
        caller = self._znb_caller
        where = ", ".join(endpoint.url for endpoint in caller.endpoints)
        return f"{self._znb_prefix.rstrip('.') or self._znb_description.name} at {where}"

    def _znb_paths(self) -> list[str]:
        return [path for path in self._znb_description.methods if self._znb_in(path)]

    def _znb_in(self, path: str) -> bool:
        return path.startswith(self._znb_prefix)

    def _znb_group(self, path: str) -> bool:
        return any(known.startswith(path + ".") for known in self._znb_description.methods)


class RemoteMethod:
    """A method of a service; calling it calls it there."""

    def __init__(self, proxy: Proxy, path: str, limits: Limits) -> None:
        self._proxy = proxy  # keeps the connections open
        self._caller = proxy._znb_caller
        self._description = proxy._znb_description
        self._limits = limits
        self.__name__ = path.rpartition(".")[2]
        self.__qualname__ = path
        self.__module__ = "znb.remote"
        self.__doc__ = str(self._description.methods.get(path, {}).get("doc", ""))
        signature = self._description.signature(path)
        if signature is not None:
            self.__signature__ = signature
        self._streams = self._description.kind(path) == "stream"
        self._positional = _plain_range(signature)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, and wait for the result; a streaming method returns its ``Stream`` at once."""
        low, high = self._positional
        if kwargs or not low <= len(args) <= high:
            self._check(args, kwargs)
        if self._streams:
            return Stream(self._caller, self.__qualname__, args, kwargs, self._limits, owner=self._proxy)
        result = self._caller.call(self.__qualname__, args, kwargs, self._limits)
        if type(result) is Started:
            stream = Stream(self._caller, self.__qualname__, args, kwargs, self._limits, owner=self._proxy)
            return stream.adopt(result)
        return result

    def future(self, *args: Any, **kwargs: Any) -> CallFuture:
        """Call it without waiting.

        Returns:
            A future of ``concurrent.futures``, which can be awaited as well.

        Raises:
            TypeError: It streams: iterate over what calling it returns.
        """
        low, high = self._positional
        if kwargs or not low <= len(args) <= high:
            self._check(args, kwargs)
        if self._streams:
            raise TypeError(f"{self.__qualname__} streams: iterate over {self.__qualname__}(…), with for or async for")
        if not kwargs and self._limits.timeout is None and (quick := self._caller.pack_quickly(args)) is not None:
            self._caller.note_traced()
            future = _send_quick_future(*quick, self.__qualname__, f"{self._caller.name}.{self.__qualname__}")
        else:
            outgoing = Outgoing(self._caller, self.__qualname__, args, kwargs, self._limits.timeout)
            future = _send_future(self._caller, outgoing)
        future.owner = self._proxy
        if future.done():
            future.owner = None
        return future

    def using(self, *, timeout: float | None = None, item_timeout: float | None = None) -> RemoteMethod:
        """Return the same method with other limits."""
        return RemoteMethod(self._proxy, self.__qualname__, Limits(timeout, item_timeout))

    def __repr__(self) -> str:
        return f"<{self._description.name}: {self._description.headline(self.__qualname__)}>"

    @property
    def __wrapped__(self) -> Any:
        """A function with the remote source, for ``svc.method??`` and ``inspect.getsource``."""
        return function_with_source(self._caller, self._description, self.__qualname__)

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise ``TypeError`` unless the arguments fit the signature, as far as it is known."""
        if kwargs and self._caller.endpoints and self._caller.endpoints[0].zerorpc:
            raise TypeError(
                f"{self.__qualname__} got keyword arguments ({', '.join(kwargs)}), which zerorpc cannot carry; "
                f"pass them by position"
            )
        for attempt in (1, 2):
            signature = self._description.signature(self.__qualname__)
            if signature is None:
                return
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                if attempt == 2:
                    raise TypeError(f"{self.__qualname__}{signature}: {error}") from None
                self._description.fetch()  # it may have been replaced meanwhile
            else:
                return


def _read_ending(call: Call, event: Reply | Lost, what: str) -> tuple[Any, BaseException | None]:
    """Return the result and the error that an event means to a future."""
    if isinstance(event, Lost):
        return None, event.error
    try:
        if event.name == wire.OK:
            return values.decode(event.args, event.buffers)[0], None
        if event.name == wire.ERR:
            return None, failures.restore(values.decode(event.args), event.headers, endpoint=what)
    except ZnbError as error:
        return None, error
    call.abandon()
    return None, TypeError(f"{what} streams: iterate over it, with for or async for")


def _send_quick_future(endpoint: Endpoint, packed: bytes, parent: Parent, method: str, what: str) -> CallFuture:
    future = CallFuture()
    number, began = RECORDER.new_span_id(), perf_counter_ns()

    def on_event(call: Call, event: Reply | Lost) -> None:
        result, error = _read_ending(call, event, what)
        record_call(parent, what, number, began, error)
        future.settle(result, error)

    call = endpoint.connection().call_packed(method, packed, on_event, Context(parent.trace_id, number))

    def abandon() -> None:
        record_call(parent, what, number, began, KeyboardInterrupt())
        call.abandon()

    future.abandon = abandon
    return future


def _send_future(caller: Caller, outgoing: Outgoing) -> CallFuture:
    future = CallFuture()

    def on_event(call: Call, event: Reply | Lost) -> None:
        outgoing.mark("replied_ns")
        result, error = _read_ending(call, event, outgoing.what)
        outgoing.finish(error)
        future.settle(result, error)

    def start(endpoint: Endpoint) -> Call:
        headers: dict[str, Any] = {}
        packed, buffers = outgoing.frames(endpoint, None, headers)
        call = endpoint.connection().call(outgoing.method, packed, on_event, buffers=buffers, headers=headers)
        outgoing.mark("sent_ns")
        endpoint.busy.add(call)
        future.add_done_callback(lambda _future: endpoint.busy.discard(call))
        return call

    try:
        call = caller.try_endpoints(start)
    except BaseException as error:
        outgoing.finish(error)
        raise

    def abandon() -> None:
        outgoing.cancelled()
        call.abandon()

    future.abandon = abandon
    if outgoing.deadline is not None:
        caller.reactor().call_soon(_watch, caller, outgoing, future, call)
    return future


def _watch(caller: Caller, outgoing: Outgoing, future: CallFuture, call: Call) -> None:
    """End a future at its deadline. On the I/O thread."""

    def expire() -> None:
        if not call.ended:
            call.abandon()
            error = CallTimeout(outgoing.what, outgoing.allowed)
            outgoing.finish(error)
            future.settle(None, error)

    if not call.ended and outgoing.deadline is not None:
        timer = caller.reactor().call_later(max(0.0, outgoing.deadline - time.monotonic()), expire)
        reactor = caller.reactor()
        future.add_done_callback(lambda _future: reactor.call_soon(timer.cancel))


# -- how it looks ----------------------------------------------------------------------------------------------


def _plain_range(signature: inspect.Signature | None) -> tuple[int, float]:
    """Return how many positional arguments, alone, fit for sure; an empty range if any call must be looked at."""
    if signature is None:
        return 0, float("inf")
    least, most = 0, 0.0
    for p in signature.parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            most = float("inf")
        elif p.kind is p.KEYWORD_ONLY:
            if p.default is p.empty:
                return 1, 0
        elif p.kind is not p.VAR_KEYWORD:
            most += 1
            least += p.default is p.empty
    return least, most
