"""What this process exposes: ``expose``, ``unexpose``, and services as context managers.

Invariants: a name stands for one service of this process; exposing it again replaces what is behind it, and calls in
flight go on. Everything is closed when the interpreter ends. Any thread may call.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable
from typing import Any

from znb.errors import ServiceUnavailable, ZnbError
from znb.rpc import registry, security
from znb.rpc.hooks import Hook
from znb.rpc.service import MAX_BYTES, QUEUE, THREADS, Service

__all__ = ["Host", "expose", "host", "serve", "unexpose"]


class Host:
    """The services of one process, by name."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._services: dict[str, Service] = {}
        self._pid = os.getpid()
        self._at_exit = False

    @property
    def services(self) -> dict[str, Service]:
        """A copy of what is exposed."""
        with self._lock:
            self._check_pid()
            return dict(self._services)

    def serve(self, obj: Any, name: str, bind: str | None, options: dict[str, Any]) -> Service:
        """Expose an object, or replace the one of that name."""
        with self._lock:
            self._check_pid()
            known = self._services.get(name)
            if known is not None and (bind is None or bind in {known.url, known._bind}):
                known.replace(obj)
                return known
            made = Service(obj, name=name, bind=bind, **options).start()
            if known is not None:
                known.close()
            self._services[name] = made
            if not self._at_exit:
                self._at_exit = True
                atexit.register(self.close)
            return made

    def withdraw(self, name: str) -> None:
        """End a service.

        Raises:
            ServiceUnavailable: This process has none of that name.
        """
        with self._lock:
            self._check_pid()
            service = self._services.pop(name, None)
        if service is None:
            has = ", ".join(self._services) or "none"
            raise ServiceUnavailable(name, "this process exposes no service of this name", hint=f"it has: {has}")
        service.close()

    def close(self) -> None:
        """End every service. May be called twice."""
        with self._lock:
            self._check_pid()
            services, self._services = self._services, {}
        for service in services.values():
            service.close()

    def _check_pid(self) -> None:
        """Forget, in a forked child, what the parent exposes."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._services = {}


#: The services of this process. ``expose`` is a decorator, so there is nobody who could hold them.
host = Host()


def expose(
    obj: Any = None,
    *,
    name: str | None = None,
    bind: str | None = None,
    on: Any = None,
    threads: int = THREADS,
    queue: int = QUEUE,
    max_bytes: int = MAX_BYTES,
    hooks: Iterable[Hook] = (),
    keys: bool | str | security.Keys | None = None,
    insecure: bool = False,
) -> Any:
    """Make an object callable from other processes: ``@znb.expose``, ``@znb.expose(name=…)`` or ``znb.expose(obj)``.

    The object itself is not changed. Of a module its public functions are offered, of a class those of an instance
    made without arguments, of a dict its values. Exposing a name again replaces what is behind it.

    Args:
        obj: A function, class, instance, module or dict.
        name: What callers say; ``None`` for the object's own name.
        bind: Where to listen, such as ``"tcp://127.0.0.1:4242"``; ``None`` for a socket that only this user reaches.
        on: Workers to expose it on instead, one replica each (``cluster[:]``); ``None`` for this process.
        threads: Calls that may run at the same time; 1 serialises them.
        queue: Calls that may wait for a thread.
        max_bytes: Bytes of msgpack in one message.
        hooks: See ``znb.rpc.hooks``.
        keys: ``True`` for new keys, or a file to keep them in: needed to be reached from other machines.
        insecure: Whether other machines may call without keys.

    Returns:
        The object; without one, a decorator.

    Raises:
        ZnbError: It has no public methods, or no name.
        AuthError: Other machines could reach it, and nothing protects it.
    """
    options = {
        "threads": threads,
        "queue": queue,
        "max_bytes": max_bytes,
        "hooks": tuple(hooks),
        "keys": _keys(keys),
        "insecure": insecure,
    }
    if obj is None:
        return lambda given: _expose(given, name, bind, on, options)
    return _expose(obj, name, bind, on, options)


def serve(obj: Any, *, name: str | None = None, bind: str | None = None, **options: Any) -> Service:
    """Expose an object as ``expose`` does, and return the running ``Service``, which the caller closes."""
    options["keys"] = _keys(options.get("keys"))
    return Service(obj, name=name or name_of(obj), bind=bind, **options).start()


def unexpose(name: str) -> None:
    """End a service of this process.

    Raises:
        ServiceUnavailable: It has none of that name.
    """
    host.withdraw(name)


def name_of(obj: Any) -> str:
    """Return the name that an object has by itself.

    Raises:
        ZnbError: It has none.
    """
    found = getattr(obj, "__name__", None) or (None if isinstance(obj, dict) else type(obj).__name__)
    if not isinstance(found, str) or not registry.NAME_PATTERN.fullmatch(found):
        raise ZnbError(f"{obj!r:.60} has no name of its own to be called by; give it one: name='…'")
    return found


def _expose(obj: Any, name: str | None, bind: str | None, on: Any, options: dict[str, Any]) -> Any:
    called = registry.check_service_name(name or name_of(obj))
    if on is None:
        host.serve(obj, called, bind, options)
    else:
        on.call(_expose_here, obj, called, bind, {**options, "group": security.new_group()})
    return obj


def _expose_here(obj: Any, name: str, bind: str | None, options: dict[str, Any]) -> str:
    """Expose a replica; runs on a worker."""
    return host.serve(obj, name, bind, options).address


def _keys(keys: Any) -> security.Keys | None:
    if keys is None or keys is False:
        return None
    if keys is True:
        return security.make_keys()
    return keys if isinstance(keys, security.Keys) else security.load_keys(keys)
