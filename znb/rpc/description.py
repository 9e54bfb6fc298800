"""What a service says about itself, as its callers see it: names, signatures, docs, sources, figures.

Invariants: a description is fetched anew before anything is refused because of it, since the service may have been
replaced. Any thread may ask.
"""

from __future__ import annotations

import inspect
import linecache
import textwrap
import time
import types
from typing import TYPE_CHECKING, Any

from znb.errors import CallTimeout, ServiceUnavailable
from znb.rpc import describe, security
from znb.rpc.caller import Caller, Endpoint, Limits, Outgoing, Raised, Started

if TYPE_CHECKING:
    from znb.rpc.proxy import Proxy

__all__ = ["Description", "function_with_source", "inspect_service", "ping", "service_stats"]

#: Methods of a zerorpc server whose docs are asked for one by one, where it cannot tell all at once.
DOCS_MAX = 100
#: Seconds for a description, if calls are given less: one that begins with it is no call.
DESCRIBE_LEAST = 1.0
#: Seconds for a description of the service, which it gives even while all its threads are busy.
DESCRIBE_TIMEOUT = 5.0


def ping(svc: Proxy, *, timeout: float = DESCRIBE_TIMEOUT) -> float:
    """Return the seconds of a round trip that does nothing; it is answered while all threads of the service are busy.

    Raises:
        ServiceUnavailable: Nobody answers.
        CallTimeout: It took longer than ``timeout`` seconds.
    """
    caller = svc._znb_caller
    method = "_zerorpc_ping" if caller.endpoints[0].zerorpc else "_znb_ping"
    began = time.perf_counter()
    caller.call(method, (), {}, Limits(timeout))
    return time.perf_counter() - began


def inspect_service(svc: Proxy) -> dict[str, Any]:
    """Return what the service says of itself now: ``{"name", "doc", "methods": {name: {"doc", "kind", …}}}``.

    ``signature`` of each method is text; see ``znb.rpc.describe`` for the rest.
    """
    told = svc._znb_description
    told.fetch()
    methods = {
        path: {**method, "signature": str(told.signature(path) or "(…)")} for path, method in told.methods.items()
    }
    return {"name": told.name, "doc": told.doc, "methods": methods}


def service_stats(svc: Proxy) -> dict[str, Any]:
    """Return the service's figures (``znb.rpc.service.ServiceStats``, as a dict); znb services only."""
    found: dict[str, Any] = svc._znb_caller.call("_znb_stats", (), {}, Limits(DESCRIBE_TIMEOUT))
    return found


class Description:
    """What the service says about itself, fetched anew when that does not seem to be true any more."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.known = False
        self.name = caller.name
        self.doc = ""
        self.methods: dict[str, dict[str, Any]] = {}
        self._signatures: dict[str, inspect.Signature | None] = {}

    def fetch(self) -> None:
        """Ask the service.

        Raises:
            ServiceUnavailable: Nobody answers.
        """
        self._caller.try_endpoints(self._fetch)

    def told(self) -> dict[str, Any]:
        """Return what is known, as plain data."""
        return {"name": self.name, "doc": self.doc, "methods": self.methods, "known": self.known}

    def learn(self, told: dict[str, Any]) -> None:
        """Take what another has found out (``told``)."""
        self.name, self.doc, self.methods, self.known = told["name"], told["doc"], told["methods"], told["known"]

    def signature(self, method: str) -> inspect.Signature | None:
        """Return a method's signature; ``None`` if it is not known."""
        if method not in self._signatures:
            found = self.methods.get(method)
            told = describe.read_signature(found.get("params"), found.get("returns")) if found is not None else None
            self._signatures[method] = told
        return self._signatures[method]

    def kind(self, method: str) -> str:
        """Return ``call``, ``stream``, or ``""`` if it is not known."""
        return str(self.methods.get(method, {}).get("kind", ""))

    def headline(self, method: str) -> str:
        """Return a method's name and signature."""
        arrow = " → items" if self.kind(method) == "stream" else ""
        return f"{method}{self.signature(method) or '(…)'}{arrow}"

    def first_line(self, method: str) -> str:
        """Return the first line of a method's docs."""
        return str(self.methods.get(method, {}).get("doc", "")).partition("\n")[0]

    def help_text(self, prefix: str) -> str:
        """Return what ``help`` shows of the methods whose names begin so."""
        parts = [f"Service {self.name}", *([self.doc] if self.doc else []), ""]
        for path, method in self.methods.items():
            if path.startswith(prefix):
                parts.append(self.headline(path))
                parts.extend(f"    {line}" for line in str(method.get("doc", "")).splitlines())
                parts.append("")
        return "\n".join(parts)

    def _fetch(self, endpoint: Endpoint) -> None:
        security.check_host(endpoint.url)
        wanted = self._caller.limits.timeout
        limits = Limits(DESCRIBE_TIMEOUT if wanted is None else min(DESCRIBE_TIMEOUT, max(DESCRIBE_LEAST, wanted)))
        answer = self._ask(endpoint, "_znb_inspect", limits)
        if isinstance(answer, Raised) or answer is None:
            endpoint.zerorpc = True
            self._fetch_zerorpc(endpoint, limits)
            return
        endpoint.zerorpc = False
        if isinstance(answer, dict):
            self.name = str(answer.get("name", self.name))
            self.doc = str(answer.get("doc", ""))
            self.methods = {str(key): value for key, value in answer.get("methods", {}).items()}
            self.known = True
            self._signatures.clear()

    def _fetch_zerorpc(self, endpoint: Endpoint, limits: Limits) -> None:
        """Learn what a zerorpc server can tell; its inspection fails on newer Pythons, its list of names does not."""
        answer = self._ask(endpoint, "_zerorpc_inspect", limits)
        if isinstance(answer, dict) and isinstance(answer.get("methods"), dict):
            self.name = str(answer.get("name") or self.name)
            self.methods = {key: _from_zerorpc(value) for key, value in answer["methods"].items()}
            self.known = True
        else:
            names = self._ask(endpoint, "_zerorpc_list", limits)
            if isinstance(names, list):
                public = [str(key) for key in names if not str(key).startswith("_")]
                docs = {key: self._ask(endpoint, "_zerorpc_help", limits, key) for key in public[:DOCS_MAX]}
                told = {key: doc if isinstance(doc, str) else "" for key, doc in docs.items()}
                self.methods = {key: _from_zerorpc({"doc": inspect.cleandoc(told.get(key, ""))}) for key in public}
                self.known = True
        self._signatures.clear()

    def _ask(self, endpoint: Endpoint, method: str, limits: Limits, *args: Any) -> Any:
        outgoing = Outgoing(self._caller, method, args, {}, limits.timeout)
        result = self._caller._exchange(endpoint, outgoing, limits, streams=False)
        if isinstance(result, Started):
            result.line.close()
            return None
        return result


def _from_zerorpc(told: Any) -> dict[str, Any]:
    """Return the description of a method from what ``_zerorpc_inspect`` says of it."""
    params: list[list[Any]] | None = None
    if isinstance(told, dict) and isinstance(told.get("args"), list):
        params = []
        for arg in told["args"]:
            name = str(arg.get("name", "")) if isinstance(arg, dict) else ""
            stars = len(name) - len(name.lstrip("*"))
            kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            kind = kinds[stars] if stars < len(kinds) else inspect.Parameter.VAR_KEYWORD
            if not (isinstance(arg, dict) and name == "self"):
                default = ["value", arg["default"]] if "default" in arg else None
                params.append([name.lstrip("*"), int(kind), default, None])
    doc = str(told.get("doc") or "") if isinstance(told, dict) else ""
    return {"doc": doc, "kind": "", "params": params, "returns": None}


def function_with_source(caller: Caller, description: Description, path: str) -> Any:
    """Return a function that Python's tools find the remote source of, and that cannot be called.

    Raises:
        AttributeError: The service does not tell, because it is written in C or speaks zerorpc.
    """
    try:
        source = caller.call("_znb_source", (path,), {}, Limits(DESCRIBE_TIMEOUT))
    except (NameError, ServiceUnavailable, CallTimeout):
        source = None
    if not isinstance(source, str):
        raise AttributeError(  # noqa: TRY004 - that is what hasattr and inspect ask for
            f"the source of {path} is not known here"
        )
    source = textwrap.dedent(source)
    filename = f"<znb:{description.name}.{path}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    code = (lambda *_a, **_k: None).__code__.replace(co_filename=filename, co_firstlineno=1, co_name=path)
    return types.FunctionType(code, {}, path)
