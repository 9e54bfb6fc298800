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
import functools
import html
import inspect
import re
import time
import weakref
from collections.abc import Iterable
from time import perf_counter_ns
from typing import Any, Self

from znb import wire
from znb.checks import check_seconds
from znb.errors import CallTimeout, ZnbError
from znb.rpc import failures, security, values
from znb.rpc.caller import Caller, Endpoint, Limits, Outgoing, Started, locate
from znb.rpc.client import Call, Lost, Reply
from znb.rpc.description import Description, function_with_source
from znb.rpc.futures import CallFuture
from znb.rpc.hooks import Hook, check_hooks
from znb.rpc.streams import Stream
from znb.rpc.tries import Tries
from znb.spans import RECORDER, Context, record_call
from znb.spans.recorder import Parent

__all__ = ["Proxy", "RemoteMethod", "connect"]

#: A host and a port, without what makes an address of them.
_BARE = re.compile(r"[^/]+:\d+")


def connect(
    target: str | Iterable[str],
    *,
    timeout: float | None = None,
    item_timeout: float | None = None,
    hooks: Iterable[Hook] = (),
) -> Proxy:
    """Return a proxy for a service.

    Args:
        target: A name, an address, or a list of them among which calls are balanced; a call that cannot reach one goes
            to another.
        timeout: Seconds for each call or whole stream; ``None`` for any.
        item_timeout: Seconds for each item of a stream; ``None`` for any.
        hooks: See ``znb.rpc.hooks``.

    Raises:
        ServiceUnavailable: There is no such service.
        ValueError: An address is none, or a limit not positive.
        TypeError: An argument is of another type.
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
    targets = [target] if isinstance(target, str) else list(target)
    if not targets:
        raise ValueError("connect to what? Expected a name, an address, or a list of them; got an empty list")
    for text in targets:
        if not isinstance(text, str):
            raise TypeError(f"connect to what? Expected a name, an address, or a list of them; got {text!r:.100}")
        if "://" in text:
            security.check_url(text)
        elif _BARE.fullmatch(text):
            raise ValueError(f"expected an address such as tcp://{text}, or a name; got {text!r}")
    limits = _limits(timeout, item_timeout)
    caller = Caller(targets, locate(targets), limits, check_hooks(hooks))
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
        self._znb_owner: Proxy | None = None
        if not prefix and limits is caller.limits:
            self._znb_finalizer = weakref.finalize(self, caller.close)
        self.__doc__ = description.help_text(prefix)

    def using(self, *, timeout: float | None = None, item_timeout: float | None = None) -> Proxy:
        """Return a proxy for the same service with other limits."""
        return self._znb_derive(_limits(timeout, item_timeout), self._znb_prefix)

    def _znb_derive(self, limits: Limits, prefix: str) -> Proxy:
        """Return a proxy for the same service, or a group of its methods, with these limits."""
        made = Proxy(self._znb_caller, self._znb_description, limits, prefix)
        made._znb_owner = self  # the connections live as long as the first proxy
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as what leads to the service: the copy has connections of its own."""
        if self._znb_owner is not None:
            return Proxy._znb_derive, (self._znb_owner, self._znb_limits, self._znb_prefix)
        caller = self._znb_caller
        endpoints = [(endpoint.address, endpoint.zerorpc) for endpoint in caller.endpoints]
        hooks = caller.hooks.own
        return _copied, (caller.targets, endpoints, caller.limits, hooks, self._znb_description.told())

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

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"{name!r} cannot be set: a service has methods alone, and they are over there")
        super().__setattr__(name, value)

    #: Else Python would call ``self[0]``, ``self[1]`` and so on.
    __iter__ = None

    def __getitem__(self, name: str) -> Any:
        if not isinstance(name, str):
            raise TypeError(f"expected the name of a method, such as svc['add'], got {name!r:.100}")
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
            made = self._znb_derive(self._znb_limits, path + ".")
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


# It has no docstring, which IPython would show below that of each method.
class RemoteMethod:  # noqa: D101
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
            self.__dict__["__call__"] = _call_with(signature, weakref.ref(self))
        self._streams = self._description.kind(path) == "stream"
        self._positional = _plain_range(signature)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
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

    def future(self, /, *args: Any, **kwargs: Any) -> CallFuture:
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
            future = _send_quick_future(
                self._caller, *quick, self.__qualname__, f"{self._caller.name}.{self.__qualname__}"
            )
        else:
            outgoing = Outgoing(self._caller, self.__qualname__, args, kwargs, self._limits.timeout, detached=True)
            future = _send_future(self._caller, outgoing)
        future.owner = self._proxy
        if future.done():
            future.owner = None
        return future

    def using(self, *, timeout: float | None = None, item_timeout: float | None = None) -> RemoteMethod:
        """Return the same method with other limits."""
        return RemoteMethod(self._proxy, self.__qualname__, _limits(timeout, item_timeout))

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteMethod, (self._proxy, self.__qualname__, self._limits)

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


def _copied(
    targets: tuple[str, ...],
    endpoints: list[tuple[str, bool | None]],
    limits: Limits,
    hooks: tuple[Hook, ...],
    told: dict[str, Any],
) -> Proxy:
    """Return the copy of a proxy; connects when it is first used."""
    caller = Caller(targets, [address for address, _ in endpoints], Limits(*limits), hooks)
    for endpoint, (_, zerorpc) in zip(caller.endpoints, endpoints, strict=True):
        endpoint.zerorpc = zerorpc
    description = Description(caller)
    description.learn(told)
    return Proxy(caller, description, caller.limits)


def _limits(timeout: float | None, item_timeout: float | None) -> Limits:
    """Return limits if they are such.

    Raises:
        TypeError: One is not a number.
        ValueError: One is not positive.
    """
    for name, value in (("timeout", timeout), ("item_timeout", item_timeout)):
        if value is not None:
            check_seconds(name, value)
    return Limits(timeout, item_timeout)


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


class _QuickCall:
    """The call of a future that needs nothing special.

    Its handlers are methods, because functions that know each other live until the collector runs.
    """

    __slots__ = (
        "_began",
        "_caller",
        "_endpoint",
        "_method",
        "_number",
        "_packed",
        "_parent",
        "_tries",
        "_what",
        "future",
    )

    def __init__(
        self, caller: Caller, endpoint: Endpoint, packed: bytes, parent: Parent, method: str, what: str
    ) -> None:
        self._caller = caller
        self._endpoint = endpoint
        self._packed = packed
        self._parent = parent
        self._method = method
        self._what = what
        self._tries: Tries | None = None
        self._number, self._began = RECORDER.new_span_id(), perf_counter_ns()
        self.future = CallFuture()

    def send(self, endpoint: Endpoint) -> Call:
        context = Context(self._parent.trace_id, self._number)
        return endpoint.connection().call_packed(self._method, self._packed, self._on_event, context)

    def _on_event(self, call: Call, event: Reply | Lost) -> None:
        if self._tries is None and isinstance(event, Lost):
            self._tries = Tries(self._caller, self.future, self.send)
            self.future.add_done_callback(self._tries.ended)
        ending = event if self._tries is None else self._tries.heard(event, self._endpoint)
        if ending is None:
            return
        result, error = _read_ending(call, ending, self._what)
        record_call(self._parent, self._what, self._number, self._began, error)
        self.future.settle(result, error)

    def abandon(self, first: Call) -> None:
        record_call(self._parent, self._what, self._number, self._began, KeyboardInterrupt())
        (self._tries or first).abandon()


def _send_quick_future(
    caller: Caller, endpoint: Endpoint, packed: bytes, parent: Parent, method: str, what: str
) -> CallFuture:
    quick = _QuickCall(caller, endpoint, packed, parent, method, what)
    future = quick.future
    future.abandon = functools.partial(quick.abandon, quick.send(endpoint))
    return future


def _send_future(caller: Caller, outgoing: Outgoing) -> CallFuture:
    future = CallFuture()

    def on_event(call: Call, event: Reply | Lost) -> None:
        ending = tries.heard(event)
        if ending is None:
            return
        outgoing.mark("replied_ns")
        result, error = _read_ending(call, ending, outgoing.what)
        outgoing.finish(error)
        future.settle(result, error)

    def start(endpoint: Endpoint) -> Call:
        headers: dict[str, Any] = {}
        packed, buffers = outgoing.frames(endpoint, None, headers)
        call = endpoint.connection().call(outgoing.method, packed, on_event, buffers=buffers, headers=headers)
        outgoing.mark("sent_ns")
        return call

    tries = Tries(caller, future, start)
    future.add_done_callback(tries.ended)
    try:
        caller.try_endpoints(tries.at)
    except BaseException as error:
        tries.ended()
        outgoing.finish(error)
        raise

    def abandon() -> None:
        outgoing.cancelled()
        tries.abandon()

    future.abandon = abandon
    if outgoing.deadline is not None:
        caller.reactor().call_soon(_watch, caller, outgoing, future, tries)
    return future


def _watch(caller: Caller, outgoing: Outgoing, future: CallFuture, tries: Tries) -> None:
    """End a future at its deadline. On the I/O thread."""

    def expire() -> None:
        if not future.done():
            tries.abandon()
            error = CallTimeout(outgoing.what, outgoing.allowed)
            outgoing.finish(error)
            future.settle(None, error)

    if not future.done() and outgoing.deadline is not None:
        timer = caller.reactor().call_later(max(0.0, outgoing.deadline - time.monotonic()), expire)
        reactor = caller.reactor()
        future.add_done_callback(lambda _future: reactor.call_soon(timer.cancel))


# -- how it looks ----------------------------------------------------------------------------------------------


def _call_with(signature: inspect.Signature, method: weakref.ref[RemoteMethod]) -> Any:
    """Return what IPython finds when it asks how a method is called; a weak reference, so that proxies end in time."""

    def call(*args: Any, **kwargs: Any) -> Any:
        """Call self as a function."""
        return method()(*args, **kwargs)  # type: ignore[misc]  # it was asked for its attribute just now

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


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
