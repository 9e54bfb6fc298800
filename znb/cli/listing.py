"""What services offer, as text for people, and what is known of those that run.

A record of a running service is plain data: ``{"name", "urls", "pids", "doc", "methods": {…}, "error"}``, where
*methods* is as ``znb.rpc.inspect_service`` returns it, and *error* says why that could not be had; else it is empty.
"""

from __future__ import annotations

import concurrent.futures
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from znb.errors import ZnbError
from znb.rpc.description import inspect_service
from znb.rpc.proxy import connect
from znb.rpc.registry import ServiceFile, list_services

__all__ = ["look_at_services", "methods_text", "service_text", "services_text"]

#: Seconds that a service has to describe itself; it does so while all its threads are busy.
PATIENCE = 2.0
#: Services that are asked at the same time.
ASKED_AT_ONCE = 16
#: Columns of a signature in a list, above which its doc goes to the next line.
SIGNATURE_WIDTH = 48


def look_at_services() -> list[dict[str, Any]]:
    """Return a record of each running service of this user, by name; of one name the newest."""
    by_name: dict[str, list[ServiceFile]] = {}
    for entry in list_services():
        by_name.setdefault(entry.name, []).append(entry)
    replicas = [[e for e in entries if e.group == entries[-1].group] for _, entries in sorted(by_name.items())]
    with concurrent.futures.ThreadPoolExecutor(ASKED_AT_ONCE, "znb-look") as pool:
        return list(pool.map(_look, replicas))


def _look(replicas: Sequence[ServiceFile]) -> dict[str, Any]:
    known = replicas[-1]
    record: dict[str, Any] = {
        "name": known.name,
        "urls": [entry.url for entry in replicas],
        "pids": [entry.pid for entry in replicas],
        "workers": [entry.worker for entry in replicas],
        "doc": known.doc,
        "methods": {name: {"signature": "(…)", "doc": "", "kind": ""} for name in known.methods},
        "error": "",
    }
    try:
        with connect([entry.url for entry in replicas], timeout=PATIENCE) as proxy:
            told = inspect_service(proxy)
    except ZnbError as error:
        return {**record, "error": str(error)}
    return {**record, "doc": told["doc"], "methods": told["methods"]}


def services_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a list of services with their methods; empty if there are none."""
    return "\n".join(line for record in records for line in _service_lines(record))


def _service_lines(record: Mapping[str, Any]) -> list[str]:
    whose = [worker or f"pid {pid}" for pid, worker in zip(record["pids"], record["workers"], strict=True)]
    where = f"{record['urls'][0]}, {whose[0]}" if len(whose) == 1 else f"{len(whose)} replicas: {', '.join(whose)}"
    first = str(record["doc"]).partition("\n")[0]
    lines = [f"{record['name']}  {where}", *([f"  {first}"] if first else [])]
    if record["error"]:
        lines.append(f"  It does not answer: {record['error']}")
    return [*lines, *textwrap.indent(methods_text(record), "  ").splitlines()]


def methods_text(described: Mapping[str, Any]) -> str:
    """Return the signatures of a service's methods, and the first lines of their docs beside them."""
    rows = [(headline(name, told), str(told["doc"]).partition("\n")[0]) for name, told in described["methods"].items()]
    width = min(SIGNATURE_WIDTH, max((len(signature) for signature, _ in rows), default=0))
    lines = []
    for signature, doc in rows:
        if len(signature) > width and doc:
            lines += [signature, f"{'':{width}}  {doc}"]
        else:
            lines.append(f"{signature:{width}}  {doc}".rstrip())
    return "\n".join(lines)


def service_text(described: Mapping[str, Any], *, alone: bool = False) -> str:
    """Return all that a service says about itself.

    Args:
        described: What ``inspect_service`` returned.
        alone: Whether to leave out what it says of itself as a whole.
    """
    parts = [] if alone else [f"Service {described['name']}", *([described["doc"]] if described["doc"] else []), ""]
    for name, told in described["methods"].items():
        parts += [headline(name, told), *([textwrap.indent(told["doc"], "    ")] if told["doc"] else []), ""]
    return "\n".join(parts).rstrip("\n")


def headline(name: str, told: Mapping[str, Any]) -> str:
    """Return a method's name and signature, and whether it streams."""
    return f"{name}{told['signature']}{' → items' * (told['kind'] == 'stream')}"
