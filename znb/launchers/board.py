"""The signs that a head has put up for workers on other machines (see ``znb.signs``).

::

    <sockets>/w0.1.<key>.events               where its streams are, and the cluster whose keys lead there
    <runtime>/<key>.<cluster>.w0.1.service    as for a service of this machine, but for its address and its process

Invariants: a file appears whole. A worker's signs go with its process; those of a head that was killed are removed by
whoever finds them, as the process that they name is the head. The head's thread owns it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from znb.rundir import SERVICE_SUFFIX, runtime_dir, write_private
from znb.signs import Sign

__all__ = ["Board"]


class Board:
    """Signs of one cluster's workers.

    Args:
        cluster: Its name.
        sockets: Its directory of sockets.
    """

    def __init__(self, cluster: str, sockets: Path) -> None:
        self._cluster = cluster
        self._sockets = sockets
        self._files: dict[tuple[str, int], dict[tuple[str, str], Path]] = {}

    def put_up(self, owner: tuple[str, int], sign: Sign) -> None:
        """Put a sign up, or take it down if it leads nowhere.

        Args:
            owner: The worker's name and generation.
            sign: With an address that leads there from here.
        """
        path = self._path_of(owner, sign)
        if not sign.url:
            self._files.get(owner, {}).pop((sign.kind, sign.key), None)
            path.unlink(missing_ok=True)
            return
        self._files.setdefault(owner, {})[sign.kind, sign.key] = path
        try:
            content = f"{sign.url}#{self._cluster}".encode() if sign.kind == "events" else _relocate(sign, owner[0])
            write_private(path, content)
        except (OSError, KeyError, msgspec.DecodeError) as error:  # a full disk, say: it is not found, but goes on
            sys.stderr.write(f"{path}: {error}\n")

    def take_down(self, owner: tuple[str, int]) -> None:
        """Take down what is up of a worker, which is gone."""
        for path in self._files.pop(owner, {}).values():
            path.unlink(missing_ok=True)

    def _path_of(self, owner: tuple[str, int], sign: Sign) -> Path:
        worker = f"{owner[0]}.{owner[1]}"
        key = sign.key.replace("/", "_")
        if sign.kind == "events":
            return self._sockets / f"{worker}.{key}.events"
        return runtime_dir() / f"{key}.{self._cluster}.{worker}{SERVICE_SUFFIX}"


def _relocate(sign: Sign, worker: str) -> bytes:
    """Return a service's record with its address as seen from here, and this process as the one that it ends with."""
    record = msgspec.json.decode(sign.record, type=dict[str, object])
    key = str(record["url"]).partition("#")[2]
    url = f"{sign.url}#{key}" if key else sign.url
    here = {"url": url, "host": os.uname().nodename, "pid": os.getpid(), "worker": f"{worker} on {record['host']}"}
    return msgspec.json.encode({**record, **here})
