"""What this process exposes: ``expose``, ``unexpose``, and services as context managers.

Exposing a name again keeps its address and its callers if the *door* stays: where it listens, who may come in. With
another door a new service opens, and the old one ends when the calls that it has are done.

Invariants: a name stands for one service of this process; calls in flight go on when it is replaced, unless its
address is needed for another door. Everything is closed when the interpreter ends. Any thread may call.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterable
from typing import Any, Literal

from znb.current import current
from znb.errors import ServiceUnavailable, ZnbError
from znb.rpc import registry, security
from znb.rpc.hooks import Hook, check_hooks
from znb.rpc.service import MAX_BYTES, QUEUE, THREADS, Service

__all__ = ["Host", "check_shared", "expose", "host", "serve", "unexpose"]

logger = logging.getLogger("znb.rpc")


class Host:
    """The services of one process, by name."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._services: dict[str, Service] = {}
        self._retired: list[Service] = []
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
            if known is not None and known.has_door(bind, options):
                known.replace(obj, options)
                return known
            made = Service(obj, name=name, bind=bind, **_with_keys(options))
            made.check_door()
            if known is not None and bind is not None and bind in {known.url, known.asked_url}:
                self._services.pop(name).close()  # there is one address, which it would keep
                known = None
            made.start()
            self._services[name] = made
            if known is not None:
                known.retire(made)
                self._retired = [*(old for old in self._retired if not old.closed), known]
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
            services = [*self._services.values(), *self._retired]
            self._services, self._retired = {}, []
        for service in services:
            service.close()

    def _check_pid(self) -> None:
        """Forget, in a forked child, what the parent exposes."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._services, self._retired = {}, []


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
    made without arguments, of a dict its values. Exposing a name again replaces what is behind it, and calls in flight
    end with what they began with.

    Args:
        obj: A function, class, instance, module or dict.
        name: What callers say; ``None`` for the object's own name.
        bind: Where to listen, such as ``"tcp://127.0.0.1:4242"`` (``*`` for any free port); ``None`` for a socket that
            only this user reaches.
        on: Workers to expose it on instead, one replica each: ``"all"``, ``"any"``, ``0``, ``"0,2"``, ``"1:3"``, a name
            (of the cluster that this process started or connected to last), or ``cluster[:]``; ``None`` for this
            process. The process that replaces a worker exposes it again, with an object of its own, as long as this
            process holds the cluster.
        threads: Calls that may run at the same time; 1 serialises them.
        queue: Calls that may wait for a thread; those beyond it wait 2 s at most, and are then refused.
        max_bytes: Bytes of msgpack in one message.
        hooks: See ``znb.rpc.hooks``.
        keys: ``True`` for new keys, or a file to keep them in: needed to be reached from other machines.
        insecure: Whether other machines may call without keys.

    Returns:
        The object; without one, a decorator.

    Raises:
        ZnbError: It has no public methods, or no name; or its address is taken.
        AuthError: Other machines could reach it, and nothing protects it.
        NoWorkers: ``on`` needs a cluster, and this process has none.
    """
    options = {
        "threads": threads,
        "queue": queue,
        "max_bytes": max_bytes,
        "hooks": check_hooks(hooks),
        "keys": _load(keys),
        "insecure": insecure,
    }
    if obj is None:
        return lambda given: _expose(given, name, bind, on, options)
    return _expose(obj, name, bind, on, options)


def serve(obj: Any, *, name: str | None = None, bind: str | None = None, **options: Any) -> Service:
    """Expose an object as ``expose`` does, and return the running ``Service``, which the caller closes."""
    return Service(obj, name=name or name_of(obj), bind=bind, **_with_keys(options)).start()


def unexpose(name: str, *, on: Any = None) -> None:
    """End a service of this process, or of workers.

    Args:
        name: Its name.
        on: The workers, as for ``expose``; ``None`` for this process, or where it was exposed with ``on``.

    Raises:
        ServiceUnavailable: There is none of that name.
    """
    workers = workers_of(on) if on is not None else None if name in host.services else _where_placed(name)
    if workers is None:
        host.withdraw(name)
    else:
        workers.forget_call(name)
        workers.call(_withdraw_here, name)


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
        workers = workers_of(on)
        check_shared(bind, workers)
        made = {**_with_keys(options), "group": security.new_group()}
        placed = workers.call_anew(called, _expose_here, obj, called, bind, made)
        addresses = list(placed.values()) if isinstance(placed, dict) else [placed]
        if workers.headed_here:
            registry.wait_found(called, addresses)
        else:
            there = "callers on the machine where the cluster was started find %s by name; from here it is called at %s"
            logger.warning(there, called, ", ".join(addresses))
    return obj


def workers_of(on: Any) -> Any:
    """Return the workers that ``on`` means: some already, or a target of the current cluster.

    Raises:
        NoWorkers: It is a target, and this process has no cluster.
        KeyError: There is no worker of that name.
        IndexError: There is none of that number.
    """
    return on if hasattr(on, "call") else current.cluster()[on]


def _where_placed(name: str) -> Any:
    """Return the workers on which this process has exposed a service; ``None`` if there are none."""
    found = (cluster.placed(name) for cluster in current.clusters())
    return next((workers for workers in found if workers is not None), None)


def check_shared(bind: str | None, workers: Any) -> None:
    """Raise ``ZnbError`` for one address that several workers are to listen at."""
    if bind is not None and len(workers) > 1 and not bind.endswith((":*", ":0")):
        raise ZnbError(
            f"{len(workers)} workers cannot all listen at {bind}; leave bind= out, or give a free port to each: "
            f"'tcp://127.0.0.1:*'"
        )


def _expose_here(obj: Any, name: str, bind: str | None, options: dict[str, Any]) -> str:
    """Expose a replica; runs on a worker."""
    return host.serve(obj, name, bind, options).address


def _withdraw_here(name: str) -> None:
    """End a replica; runs on a worker."""
    host.withdraw(name)


def _load(keys: Any) -> security.Keys | Literal[True] | None:
    """Return the keys of a file, or those given; ``True`` for keys that are still to be made."""
    if keys is None or keys is False:
        return None
    return keys if keys is True or isinstance(keys, security.Keys) else security.load_keys(keys)


def _with_keys(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a service with the keys themselves."""
    keys = _load(options.get("keys"))
    return {**options, "keys": security.make_keys() if keys is True else keys}
