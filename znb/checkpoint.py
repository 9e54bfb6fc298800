"""``map(..., checkpoint="run.db")``: finished results are kept in a file, and the same call resumes after a crash.

The file is an SQLite database in WAL mode, locked as long as a map uses it::

    PRAGMA application_id = "znbc", user_version = 1
    run(function BLOB, label TEXT)                                 one row: fingerprint and name of the function
    results(position INTEGER PRIMARY KEY, item BLOB, value BLOB)   fingerprint of the item, pickle of the result

Invariants: a result is committed before it is yielded, so the end of this process loses none that was seen; failures
are not kept, they run again; a file that is not a checkpoint is never written to. Owning thread: the consumer's.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from znb.errors import SerializationError, ZnbError
from znb.fingerprint import fingerprint

__all__ = ["Checkpoint", "CheckpointedMap"]

#: Marks the file as ours: "znbc".
APPLICATION_ID = 0x7A6E6263
VERSION = 1
#: What every SQLite file begins with.
MAGIC = b"SQLite format 3\0"
#: Where its header has the application id, in bytes.
APPLICATION_ID_AT = 68
#: Results read at a time.
BLOCK = 256


class Checkpoint:
    """The file of one map.

    Args:
        path: Where it is, or is to be.
        function: What is mapped.

    Attributes:
        stored: Positions of items that have a result which was not yielded yet.
        missing: Positions of items that run.
        abandoned: Whether its map was cancelled while another thread took results.

    Raises:
        ZnbError: The file is something else, is damaged, is in use, or was made with another function.
    """

    def __init__(self, path: str | os.PathLike[str], function: Callable[..., Any]) -> None:
        self.path = Path(path)
        self._label = getattr(function, "__qualname__", None) or type(function).__qualname__
        self.stored: collections.deque[int] = collections.deque()
        self.missing: collections.deque[int] = collections.deque()
        self.abandoned = False
        self._found = 0
        self._closed = False
        self._lock = threading.RLock()
        self._running: dict[int, tuple[int, bytes]] = {}
        is_new = self._check_header()
        digest = fingerprint(function)
        self._database = self._open()
        try:
            if is_new:
                self._create(digest)
            self._check(digest)
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise self._refuse(f"it is damaged ({error})") from error
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        with self._lock:
            self._closed = True
            self._database.close()

    def __repr__(self) -> str:
        return os.fspath(self.path)

    # -- what runs -----------------------------------------------------------------------------------------

    def select(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items that have no result yet; note which those are, and which have one.

        Raises:
            ZnbError: An item is not what it was when its result was kept.
        """
        index = 0
        for position, item in enumerate(items):
            digest = fingerprint(item)
            row = self._database.execute("SELECT item FROM results WHERE position = ?", (position,)).fetchone()
            if row is None:
                self._running[index] = (position, digest)
                index += 1
                self.missing.append(position)
                yield item
            elif row[0] == digest:
                self._found += 1
                self.stored.append(position)
            else:
                raise self._refuse(f"item {position} is not what it was when {self._label} was run for this file")

    def take_found(self) -> int:
        """Return how many items have been found to have a result, since the last call."""
        found, self._found = self._found, 0
        return found

    def keep(self, results: Iterable[tuple[int, Any]]) -> None:
        """Keep results of items that ``select`` yielded, given by their number in that order; none after ``close``.

        A thread that sees to the end of a map may be here as the one that takes its results ends it.
        """
        rows = []
        for index, value in results:
            position, digest = self._running.pop(index)
            rows.append((position, digest, self._dump(value, position)))
        with self._lock:
            if not self._closed:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)

    def drop(self, index: int) -> None:
        """Note that an item failed: it has no result."""
        self._running.pop(index, None)

    def load(self, positions: list[int]) -> list[Any]:
        """Return kept results."""
        found = self._database.execute(
            "SELECT value FROM results WHERE position BETWEEN ? AND ? ORDER BY position", (positions[0], positions[-1])
        )
        try:
            return [pickle.loads(value) for (value,) in found]
        except (AttributeError, ImportError, pickle.UnpicklingError) as error:
            raise self._refuse(f"its results cannot be loaded here ({error})") from error

    def _dump(self, value: Any, position: int) -> bytes:
        try:
            return pickle.dumps(value, 5)  # classes of a notebook by name: they are those of the kernel that resumes
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise SerializationError(
                f"the result of item {position}", f"it cannot be kept in {self.path.name} ({error})"
            ) from error

    # -- the file ------------------------------------------------------------------------------------------

    def _check_header(self) -> bool:
        """Look at the file without touching it; return whether it is new."""
        try:
            with self.path.open("rb") as file:
                header = file.read(100)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise self._refuse(f"it cannot be read ({error.strerror})") from error
        if not header:
            return True
        identity = int.from_bytes(header[APPLICATION_ID_AT : APPLICATION_ID_AT + 4], "big")
        if not header.startswith(MAGIC) or identity != APPLICATION_ID:
            raise self._refuse("it is not a checkpoint, and is left as it is")
        return False

    def _open(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(self.path, timeout=0, check_same_thread=False)
        except sqlite3.OperationalError as error:  # its folder is missing, or may not be written to
            hint = "It is made where it is to be; its folder must be there, and yours to write to"
            raise self._refuse(f"it cannot be made ({error})", hint=hint) from None
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("BEGIN IMMEDIATE")  # takes the lock, and keeps it
            database.commit()
        except sqlite3.OperationalError as error:
            database.close()
            if "locked" in str(error):
                raise self._refuse("another map uses it now", hint="Wait for that, or pass another name") from error
            raise self._refuse(f"it cannot be opened ({error})") from error
        except sqlite3.DatabaseError as error:
            database.close()
            raise self._refuse(f"it is damaged ({error})") from error
        return database

    def _create(self, digest: bytes) -> None:
        with self._database:
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.execute(f"PRAGMA user_version = {VERSION}")
            self._database.execute("CREATE TABLE run (function BLOB NOT NULL, label TEXT NOT NULL)")
            self._database.execute(
                "CREATE TABLE results (position INTEGER PRIMARY KEY, item BLOB NOT NULL, value BLOB NOT NULL)"
            )
            self._database.execute("INSERT INTO run VALUES (?, ?)", (digest, self._label))

    def _check(self, digest: bytes) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise self._refuse(f"it has format {version}, and this is a znb that knows format {VERSION}")
        (state,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise self._refuse(f"it is damaged ({state})")
        function, label = self._database.execute("SELECT function, label FROM run").fetchone()
        if function != digest:
            changed = "was changed since" if label == self._label else f"is another one: this is {self._label}"
            raise self._refuse(f"the function that it was made with, {label}, {changed}")

    def _refuse(self, reason: str, *, hint: str = "Delete the file to start anew, or pass another name") -> ZnbError:
        return ZnbError(f"cannot use the checkpoint {self.path}: {reason}. {hint}")


class CheckpointedMap(Iterator[Any]):
    """The results of a map with a checkpoint: kept ones and new ones, in their order.

    Args:
        file: The checkpoint.
        start: Starts the map over the items that have no result.
        ordered: Whether results come in the order of the items.
    """

    def __init__(self, file: Checkpoint, start: Callable[[], Any], *, ordered: bool) -> None:
        try:
            inner = start()
        except BaseException:
            file.close()
            raise
        self._file = file
        self._inner = inner
        # It refers to nothing here, so it ends when it is dropped.
        self._results = _merge(file, inner, ordered=ordered)
        next(self._results)

    def __iter__(self) -> Iterator[Any]:  # noqa: PYI034 - the generator, which is quicker and ends when it is dropped
        return self._results

    def __next__(self) -> Any:
        return next(self._results)

    def __repr__(self) -> str:
        return f"{repr(self._inner)[:-1]}, checkpoint {self._file}>"

    def _ipython_display_(self) -> None:
        self._inner._ipython_display_()

    def cancel(self) -> None:
        """Cancel what is left. May be called twice, and on any thread."""
        try:
            self._results.close()
        except ValueError:  # another thread takes results just now
            self._file.abandoned = True
            self._inner.cancel()

    close = cancel


def _merge(file: Checkpoint, inner: Any, *, ordered: bool) -> Generator[Any, None, None]:
    """Yield ``None`` once, then kept results and those of ``inner``."""
    with contextlib.closing(file), contextlib.closing(inner):
        yield None
        while True:
            yield from _kept(file, file.missing[0] if ordered and file.missing else None)
            try:
                value = next(inner)
            except StopIteration:
                if file.abandoned:
                    return
                break
            yield from _kept(file, file.missing[0] if ordered else None)  # found on the way to that one
            file.missing.popleft()
            yield value
            del value
        yield from _kept(file, None)


def _kept(file: Checkpoint, before: int | None) -> Generator[Any, None, None]:
    """Yield kept results, up to a position."""
    stored = file.stored
    while stored and (before is None or stored[0] < before):
        block = [stored.popleft()]
        while stored and len(block) < BLOCK and stored[0] == block[-1] + 1 and (before is None or stored[0] < before):
            block.append(stored.popleft())
        yield from file.load(block)
