"""The options of ``map``, checked before anything is started."""

from __future__ import annotations

from znb.checks import check_seconds

__all__ = ["check_map_options"]


def check_map_options(
    *,
    timeout: object,
    chunksize: object,
    buffersize: object,
    retries: object,
    job_timeout: object,
    errors: object,
    retry_on: object,
) -> None:
    """Raise what is wrong with the options of a map, before anything is started.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An option is of another type.
    """
    for name, value, least in (("chunksize", chunksize, 1), ("buffersize", buffersize, 1), ("retries", retries, 0)):
        if value is None and name != "retries":
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer{'' if name == 'retries' else ' or None'}, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if job_timeout is not None:
        check_seconds("job_timeout", job_timeout)
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds or None, got {timeout!r}")
        if not timeout >= 0:
            raise ValueError(f"timeout must not be negative, got {timeout!r}")
    if errors not in {"raise", "return"}:
        raise ValueError(f"errors must be 'raise' or 'return', got {errors!r}")
    for kind in retry_on if isinstance(retry_on, tuple) else (retry_on,):
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"retry_on must be an exception type or a tuple of them, got {kind!r}")
