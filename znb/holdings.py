"""``cluster.put`` for workers on other machines: the memory is copied once to each machine, and from there to the next.

A worker of each machine *holds* a copy, and the others there map it (see ``znb.shared``). The client sends it to the
first machine only; each machine that has it gives it to one other at a time, so that n machines take about log2(n)
turns, and the notebook's own network carries it once. Where workers cannot reach each other the client sends it again.

``_znb_hold``, a request that a worker's I/O thread answers, does one of these:

======== ======================= =====================================================================
argument further ones            does, and replies
======== ======================= =====================================================================
machine                          what tells the worker's machine from others (``znb.tickets.host_id``)
store    key, offset, size       takes a piece (the buffer); the place, once all have come, else nothing
fetch    key, size, address      takes all pieces from the worker there; the place, when it has them
read     key, offset, length     the piece, as a buffer
know     key, place              takes note where the memory is on its machine; nothing
======== ======================= =====================================================================

Invariants: a key is an encoded ticket of the client's; a place is one of the holder's. What a holder that is gone held
is held by another worker of its machine next. The client's I/O thread owns ``Spread``, the worker's ``Holdings``; jobs
that need what has not come yet wait for it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import zmq

from znb.errors import ZnbError
from znb.rpc import Call, Connection, Lost, Reply, Request
from znb.tickets import Ticket, host_id, make_memory, places, seal_memory, write_at
from znb.transport import Reactor

__all__ = ["HOLD", "Holdings", "Spread"]

#: The request's name.
HOLD = "_znb_hold"
#: Bytes of a piece.
PIECE_BYTES = 4 << 20
#: Seconds to find that one machine cannot reach another, which is found once.
REACH_TIMEOUT = 2.0
#: Pieces under way at a time.
WINDOW = 4


# -- the client ----------------------------------------------------------------------------------------------


class Worker(Protocol):
    """What is used of ``znb.link.Link``."""

    connection: Connection
    name: str
    far: bool
    alive: bool


@dataclasses.dataclass(eq=False, slots=True)
class Item:
    """One object that was put.

    Attributes:
        key: Its ticket.
        size: Its bytes.
        memory: Its memory here.
        places: For each machine that has it: the place, and the worker that holds it.
        coming: Machines that it is on its way to, and from where: a machine, or ``""`` for this process.
        wanted: Machines that need it.
    """

    key: bytes
    size: int
    memory: weakref.ref[Any]
    places: dict[str, tuple[bytes, Worker]] = dataclasses.field(default_factory=dict)
    coming: dict[str, str] = dataclasses.field(default_factory=dict)
    wanted: list[str] = dataclasses.field(default_factory=list)


class Spread:
    """Brings what a client puts to the machines of its workers."""

    def __init__(self) -> None:
        self._items: dict[bytes, Item] = {}
        self._machines: dict[Worker, str] = {}
        self._apart: set[tuple[str, str]] = set()  # machines whose workers could not reach each other: from, to

    def offer(self, memory: Any) -> None:
        """Bring memory to every machine that has workers, also to those that come later."""
        item = Item(memory.encoded, memory.ticket.size_bytes, weakref.ref(memory))
        self._items[item.key] = item
        for machine in dict.fromkeys(self._machines.values()):
            self._want(item, machine)

    def forget(self, key: bytes) -> None:
        """Bring it to nobody any more."""
        self._items.pop(key, None)

    def add_worker(self, link: Worker) -> None:
        """A worker serves."""
        if link.far:
            self._ask(link, ["machine"], functools.partial(self._on_machine, link))

    def lose_worker(self, link: Worker, _error: ZnbError) -> None:
        """A worker is gone, and with it what it held."""
        machine = self._machines.pop(link, "")
        for item in list(self._items.values()):
            if machine in item.places and item.places[machine][1] is link:
                del item.places[machine]
                self._want(item, machine)

    def _on_machine(self, link: Worker, reply: Reply | Lost) -> None:
        if isinstance(reply, Lost) or not link.alive or reply.args[0] == host_id():
            return
        machine = self._machines[link] = reply.args[0]
        for item in list(self._items.values()):
            if machine in item.places:
                self._ask(link, ["know", item.key, item.places[machine][0]])
            else:
                self._want(item, machine)

    def _want(self, item: Item, machine: str) -> None:
        if machine not in item.wanted and machine not in item.coming:
            item.wanted.append(machine)
        self._send(item)

    def _send(self, item: Item) -> None:
        """Start what can be started: each machine that has it sends it to one other at a time."""
        for machine in list(item.wanted):
            holder = next((link for link, where in self._machines.items() if where == machine and link.alive), None)
            if holder is None:
                item.wanted.remove(machine)  # until it has workers again
                continue
            source = self._source(item, machine)
            if source is None:
                return
            item.wanted.remove(machine)
            item.coming[machine] = source
            landed = functools.partial(self._on_landed, item, machine, holder)
            if source:
                url = item.places[source][1].connection.url
                self._ask(holder, ["fetch", item.key, item.size, url], landed)
            else:
                Upload(item, holder, landed).start()

    def _source(self, item: Item, machine: str) -> str | None:
        """Return which machine is to send it, ``""`` for this process; ``None`` for none at present."""
        busy = set(item.coming.values())
        near = [where for where, (_, link) in item.places.items() if link.connection.url.startswith("tcp://")]
        near = [where for where in near if (where, machine) not in self._apart]
        free = [where for where in near if where not in busy]
        if near:
            return free[0] if free else None
        return None if "" in busy else ""

    def _on_landed(self, item: Item, machine: str, holder: Worker, reply: Reply | Lost) -> None:
        source = item.coming.pop(machine, "")
        if self._items.get(item.key) is not item:
            return
        if isinstance(reply, Lost) or reply.name != "OK" or not reply.args[0] or not holder.alive:
            if source:
                self._apart.update([(source, machine)] if holder.alive and source in item.places else [])
            if source or not holder.alive:
                self._want(item, machine)
            self._send(item)
            return
        place = reply.args[0]
        item.places[machine] = (place, holder)
        for link, where in self._machines.items():
            if where == machine and link is not holder:
                self._ask(link, ["know", item.key, place])
        self._send(item)

    def _ask(self, link: Worker, args: list[Any], handler: Callable[[Reply | Lost], object] | None = None) -> None:
        def on_event(_call: Call, reply: Reply | Lost) -> None:
            if handler is not None:
                handler(reply)

        link.connection.call(HOLD, args, on_event)


class Upload:
    """Pieces of an object on their way from the client to a worker.

    Args:
        item: The object.
        holder: The worker.
        landed: Called with the last reply, or the first that went wrong.
    """

    def __init__(self, item: Item, holder: Worker, landed: Callable[[Reply | Lost], object]) -> None:
        self._item = item
        self._holder = holder
        self._landed = landed
        self._memory = item.memory()
        self._sent = 0
        self._open = 0

    def start(self) -> None:
        """Send the first pieces."""
        if self._memory is None:  # released meanwhile
            self._end(Lost(ZnbError("it was released")))
            return
        while self._open < WINDOW and self._sent < self._item.size:
            self._next()

    def _next(self) -> None:
        if self._memory is None:
            return
        offset, length = self._sent, min(PIECE_BYTES, self._item.size - self._sent)
        piece = os.pread(self._memory.ticket.fd, length, offset)
        self._sent += length
        self._open += 1
        self._holder.connection.call(
            HOLD, ["store", self._item.key, offset, self._item.size], self._on_reply, buffers=[piece]
        )

    def _on_reply(self, _call: Call, reply: Reply | Lost) -> None:
        self._open -= 1
        if self._memory is None:
            return  # it has ended
        failed = isinstance(reply, Lost) or reply.name != "OK"
        if failed or (self._sent >= self._item.size and not self._open):
            self._end(reply)
        elif self._sent < self._item.size:
            self._next()

    def _end(self, reply: Reply | Lost) -> None:
        self._memory = None
        self._landed(reply)


# -- the worker ----------------------------------------------------------------------------------------------


class Holdings:
    """What a worker holds for its machine.

    Args:
        reactor: Its I/O thread.
        prepare: Gives a socket the keys to reach other workers; ``None`` where there are none.
    """

    def __init__(self, reactor: Reactor, prepare: Callable[[zmq.Socket[bytes]], object] | None) -> None:
        self._reactor = reactor
        self._prepare = prepare
        self._coming: dict[bytes, tuple[int, int]] = {}
        self._held: dict[bytes, int] = {}

    def on_request(self, request: Request) -> None:
        """Answer (see the table)."""
        operation, *args = request.args
        try:
            getattr(self, f"_{operation}")(request, *args)
        except Exception as error:  # noqa: BLE001 - what a peer asks for must not end the worker
            request.fail(type(error).__name__, str(error))

    def release(self, key: bytes) -> None:
        """Let go of what was released where it was put."""
        fd = self._held.pop(key, -1)
        self._drop(key)
        if fd >= 0:
            os.close(fd)

    def _machine(self, request: Request) -> None:
        request.reply(host_id())

    def _store(self, request: Request, key: bytes, offset: int, size: int) -> None:
        if offset == 0:
            self._drop(key)  # what began to come over a connection that broke
        request.reply(self._take(key, offset, size, request.buffers[0]))

    def _know(self, request: Request, key: bytes, place: bytes) -> None:
        places().learn(key, place)
        request.reply(None)

    def _read(self, request: Request, key: bytes, offset: int, length: int) -> None:
        request.reply(None, [os.pread(self._held[key], length, offset)])

    def _fetch(self, request: Request, key: bytes, size: int, url: str) -> None:
        self._drop(key)
        connection = Connection(self._reactor, url, watch=True, prepare=self._prepare, patience=REACH_TIMEOUT)

        def ended(reply: Reply | Lost, place: bytes) -> None:
            connection.close(ZnbError("all pieces are here"))
            if place:
                request.reply(place)
            else:
                self._drop(key)
                reason = str(reply.error) if isinstance(reply, Lost) else f"{reply.args}"
                request.fail("ZnbError", f"{url} does not give the shared object: {reason}")

        Download(connection, key, size, self._take, ended).start()

    def _take(self, key: bytes, offset: int, size: int, piece: Any) -> bytes:
        """Write a piece; return the place once all have come."""
        if key in self._held:
            return _place_of(key, self._held[key])
        fd, missing = self._coming.get(key) or (make_memory(), size)
        write_at(fd, piece, offset)
        missing -= len(piece)
        self._coming[key] = (fd, missing)
        if missing > 0:
            return b""
        del self._coming[key]
        self._held[key] = seal_memory(fd)
        place = _place_of(key, fd)
        places().learn(key, place)
        return place

    def _drop(self, key: bytes) -> None:
        fd, _ = self._coming.pop(key, (-1, 0))
        if fd >= 0:
            os.close(fd)


class Download:
    """Pieces of an object on their way from one worker to another.

    Args:
        connection: To the worker that has it.
        key: The object.
        size: Its bytes.
        take: Writes a piece.
        ended: Called with the last reply and the place, which is empty if it went wrong.
    """

    def __init__(
        self,
        connection: Connection,
        key: bytes,
        size: int,
        take: Callable[[bytes, int, int, Any], bytes],
        ended: Callable[[Reply | Lost, bytes], object],
    ) -> None:
        self._connection = connection
        self._key = key
        self._size = size
        self._take = take
        self._ended = ended
        self._asked = 0
        self._over = False

    def start(self) -> None:
        """Ask for the first pieces."""
        for _ in range(WINDOW):
            self._next()

    def _next(self) -> None:
        if self._asked < self._size:
            offset, self._asked = self._asked, self._asked + PIECE_BYTES
            handler = functools.partial(self._on_reply, offset)
            self._connection.call(HOLD, ["read", self._key, offset, PIECE_BYTES], handler)

    def _on_reply(self, offset: int, _call: Call, reply: Reply | Lost) -> None:
        if self._over:
            return
        buffers: Sequence[Any] = () if isinstance(reply, Lost) or reply.name != "OK" else reply.buffers
        place = self._take(self._key, offset, self._size, buffers[0]) if buffers else b""
        if place or not buffers:
            self._over = True
            self._ended(reply, place)
        else:
            self._next()


def _place_of(key: bytes, fd: int) -> bytes:
    """Return where this process holds what a ticket of another machine means, as an encoded ticket."""
    found = os.fstat(fd)
    ticket = msgspec.msgpack.decode(key, type=Ticket)
    here = {"host": host_id(), "pid": os.getpid(), "fd": fd, "device": found.st_dev, "inode": found.st_ino}
    return msgspec.msgpack.encode(msgspec.structs.replace(ticket, **here))
