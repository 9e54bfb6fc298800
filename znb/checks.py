"""What users pass, checked where they pass it: the error says which argument it was, what was expected, and what came.

Pure. Without these, a wrong type is found deep in a thread or another process, and the message speaks of that place.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["check_bind", "check_count", "check_listen", "check_mapping", "check_seconds", "check_text", "check_workers"]


#: Where workers may listen: a name, an IPv4 address, an IPv6 one in brackets or ``*``; and a port, a range or ``*``.
BIND = re.compile(r"tcp://(?P<host>\*|[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\])(:(?P<ports>\*|\d{1,5}(-\d{1,5})?))?")
#: The highest port there is.
PORT_MAX = 65535


def check_bind(name: str, value: object, example: str = "tcp://10.0.0.5:20000-20100") -> str:
    """Return an address to listen at, with its ports: one, a range, or ``*`` for any.

    Raises:
        TypeError: It is not text.
        ValueError: It is no such address.
    """
    found = BIND.fullmatch(check_text(name, value, example).strip())
    ports = (found["ports"] if found is not None else None) or "*"
    first, _, last = ports.partition("-")
    if found is None or (ports != "*" and not 0 < int(first) <= int(last or first) <= PORT_MAX):
        raise ValueError(
            f"{name} must be an address of tcp, with a port or a range of ports, such as {example}, or "
            f"tcp://*:20000-20100 to choose the ports alone; got {value!r}"
        )
    return f"tcp://{found['host']}:{ports}"


def check_listen(value: object) -> str:
    """Return an address that others are told to come to, with its ports.

    Raises:
        TypeError: It is not text.
        ValueError: It is no such address, or every one of this machine's.
    """
    url = check_bind("listen", value, "tcp://10.0.0.5:7000")
    if url.startswith(("tcp://*", "tcp://0.0.0.0:", "tcp://[::]:")):
        raise ValueError(f"listen must name the address at which others reach this machine, got {value!r}")
    return url


def check_text(name: str, value: object, example: str) -> str:
    """Return ``value`` if it is text that is not empty.

    Raises:
        TypeError: It is something else.
        ValueError: It is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text such as {example!r}, got {value!r}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty; it is text such as {example!r}")
    return value


def check_seconds(name: str, value: object) -> float:
    """Return ``value`` if it is a positive, finite number of seconds.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not positive, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
    return value


def check_count(name: str, value: object) -> int:
    """Return ``value`` if it is a whole number from 1 on.

    Raises:
        ValueError: It is something else.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1 on, got {value!r}")
    return value


def check_workers(n: object) -> int:
    """Return ``n`` if it can be a number of workers.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is negative.
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"the number of workers must be an integer, got {n!r}")
    number = operator.index(n)
    if number < 0:
        raise ValueError(f"the number of workers must not be negative, got {number}")
    return number


def check_mapping(name: str, value: object, example: str) -> Mapping[str, Any]:
    """Return ``value`` if it maps texts to something; ``None`` is an empty mapping.

    Raises:
        TypeError: It is something else, or one of its keys is not text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping such as {example}, got {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} must have names as its keys, as in {example}, got the key {key!r}")
    return value
