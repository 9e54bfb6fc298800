"""Failures of several workers, each distinct one shown once.

Workers that ran the same cell mostly fail alike. One distinct failure is raised as itself, its note naming all workers;
several are raised as an ``ExceptionGroup``, so that ``except*`` works.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from znb.tracebacks.record import ErrorRecord, Origin
from znb.tracebacks.render import Renderer
from znb.tracebacks.restore import restore, set_origin
from znb.tracebacks.values import Codec, safe_str

__all__ = ["Failure", "combine", "fold", "raise_for"]


class Failure(Protocol):
    """What one worker failed with (``znb.link.Failed``)."""

    @property
    def error(self) -> BaseException:
        """What to raise here."""

    @property
    def record(self) -> ErrorRecord | None:
        """As it was captured there; ``None`` where the failure is not the remote code's."""


def fold(records: Iterable[ErrorRecord]) -> list[tuple[ErrorRecord, list[str]]]:
    """Return each distinct record once, in the order they came, with the names of the workers that sent it."""
    folded: dict[str, tuple[ErrorRecord, list[str]]] = {}
    for record in records:
        _, workers = folded.setdefault(record.fingerprint, (record, []))
        workers.append(record.worker)
    return [(record, sorted(workers, key=_natural)) for record, workers in folded.values()]


def combine(failures: Mapping[str, Failure], *, of: int) -> BaseException:
    """Return what to raise for the failures of several workers.

    Args:
        failures: By worker's name; at least one.
        of: How many workers were asked.

    Returns:
        The error, where they all failed alike; otherwise a group of the distinct ones.
    """
    if not failures:
        raise ValueError("expected at least one failure, got none")
    folded: dict[str, tuple[BaseException, list[str]]] = {}
    for worker in sorted(failures, key=_natural):
        failure = failures[worker]
        folded.setdefault(_key(failure), (failure.error, []))[1].append(worker)
    errors = [_naming(error, workers) for error, workers in folded.values()]
    return _one_or_group(errors, len(failures), of)


def raise_for(records: Iterable[ErrorRecord], codec: Codec, *, of: int | None = None) -> None:
    """Raise what the records tell; return if there are none.

    Args:
        records: One for each worker that failed.
        codec: Decodes them.
        of: How many workers were asked; ``None`` for as many as there are records.
    """
    found = list(records)
    if not found:
        return
    errors = [_naming(restore(record, codec), workers) for record, workers in fold(found)]
    raise _one_or_group(errors, len(found), of or len(found))


def _one_or_group(errors: list[BaseException], failed: int, of: int) -> BaseException:
    if len(errors) == 1:
        return errors[0]
    kinds = f" with {len(errors)} different errors" if len(errors) < failed else ""
    group = BaseExceptionGroup(f"{failed} of {of} workers failed{kinds}", errors)
    object.__setattr__(group, "_render_traceback_", Renderer(group))
    return group


def _naming(error: BaseException, workers: list[str]) -> BaseException:
    """Name all workers that failed with an error."""
    origin = error.__dict__.get("znb_origin")
    if isinstance(origin, Origin):
        also = tuple(worker for worker in workers if worker != origin.caller.worker)
        set_origin(error, Origin(origin.place, origin.via, also))
    return error


def _key(failure: Failure) -> str:
    if failure.record is not None:
        return failure.record.fingerprint
    return f"{type(failure.error).__module__}.{type(failure.error).__qualname__}: {safe_str(failure.error)}"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which ``w2`` comes before ``w10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
