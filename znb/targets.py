"""Which workers a user means: ``all``, ``any``, ``0``, ``0,2``, ``1:3``, ``-1``, ``w0``.

Pure; the same grammar serves ``--on``, ``cluster[...]`` and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from znb.errors import NoWorkers

__all__ = ["Target", "select"]

#: What a user may write to name workers.
Target = int | slice | str | Sequence[int | str]


def select(target: Target, names: Sequence[str], least_busy: Callable[[Sequence[str]], str]) -> tuple[str, ...]:
    """Return the names that ``target`` means, in the cluster's order as given, each once.

    Args:
        target: See the module's first line; also a list of such.
        names: The cluster's workers, in order.
        least_busy: Chooses for ``any``.

    Raises:
        NoWorkers: The cluster has none.
        IndexError: A number is out of range.
        KeyError: A name is not a worker's.
        TypeError: ``target`` is of another type.

    Examples:
        >>> select("0,2", ["w0", "w1", "w2"], min)
        ('w0', 'w2')
        >>> select(-1, ["w0", "w1", "w2"], min)
        ('w2',)
    """
    if not names:
        raise NoWorkers("the cluster has no workers; scale it up first: cluster.scale(2)")
    chosen: dict[str, None] = {}
    for part in _parts(target):
        chosen.update(dict.fromkeys(_select_one(part, names, least_busy)))
    if not chosen:
        raise NoWorkers(f"{target!r} names none of the {len(names)} workers: {', '.join(names)}")
    return tuple(chosen)


def _parts(target: Target) -> Sequence[int | slice | str]:
    if isinstance(target, str):
        return [part.strip() for part in target.split(",") if part.strip()]
    if isinstance(target, int | slice):
        return [target]
    if isinstance(target, Sequence):
        return [part for item in target for part in _parts(item)]
    raise TypeError(f"expected a worker's name, number or slice, or a list of them, got {target!r}")


def _select_one(
    part: int | slice | str, names: Sequence[str], least_busy: Callable[[Sequence[str]], str]
) -> Sequence[str]:
    if isinstance(part, slice):
        return names[part]
    if isinstance(part, int):
        return [_at(part, names)]
    if part == "all":
        return names
    if part == "any":
        return [least_busy(names)]
    if part in names:
        return [part]
    if ":" in part:
        try:
            bounds = [int(bound) if bound.strip() else None for bound in part.split(":")]
        except ValueError:
            bounds = []
        if len(bounds) in {2, 3}:
            return names[slice(*bounds)]
    elif part.lstrip("-").isdigit():
        return [_at(int(part), names)]
    raise KeyError(f"no worker {part!r}; there are {', '.join(names)} (also: all, any, 0, 0,2, 1:3, -1)")


def _at(index: int, names: Sequence[str]) -> str:
    try:
        return names[index]
    except IndexError:
        raise IndexError(f"no worker number {index}; there are {len(names)}: {', '.join(names)}") from None
