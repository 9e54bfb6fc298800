"""A home for workers on the hosts of an engine: which worker goes where, and what becomes of it when a host is gone.

=========== =============================================== ==================================================
a host is    because                                         its workers
=========== =============================================== ==================================================
opening      its agent was started                           wait for it
up           the agent has said hello, and was welcomed      are made there
down         the line to its agent ended, or was silent      are dead, replaced where there is a free place
failed       its agent never came to say hello               cannot be started: the user is told why
=========== =============================================== ==================================================

A host that is down is tried again, after longer and longer pauses. A worker goes to where its last process was if that
has a place, else to the host with the largest share of free places; if there are none it waits. Only where hosts do not
come and go (``Engine.elastic``), and there are more workers than places in all, hosts take more than they have places.

Invariants: those of ``znb.home``. Everything runs on the head's one thread, but the methods that ``Desk`` names.
"""

from __future__ import annotations

import functools
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from znb.connection import WorkerSpec
from znb.control import ZygoteConfig
from znb.errors import NoWorkers, ProtocolError
from znb.home import Kin
from znb.keys import WorkerKeys
from znb.launchers import line
from znb.launchers.board import Board
from znb.launchers.engine import Engine
from znb.launchers.far import FarProcess, Host, Inbox, choose_host, compare_versions, refuse_wire, waiting_text
from znb.launchers.forwards import Forwards, reach
from znb.lifecycle import DeathCertificate
from znb.signs import Sign

__all__ = ["HostsHome"]

#: Seconds for an engine to offer hosts before it is spoken of.
PATIENCE = 2.0
#: Seconds before a host that is down is tried again, at first and at most.
RETRY_AFTER, RETRY_MAX = 1.0, 8.0
#: Seconds that agents have to leave at the end.
LEAVE_TIMEOUT = 5.0


class HostsHome:
    """Workers on the hosts of an engine.

    Args:
        engine: The engine.
        config: What the head was told.
        keys: Whom workers let in.
        selector: Watches the lines; the values of its keys are called with the event mask.
        note: Told what the user may be waiting for.
    """

    def __init__(
        self,
        engine: Engine,
        config: ZygoteConfig,
        keys: WorkerKeys,
        selector: selectors.BaseSelector,
        note: Callable[[str], object],
    ) -> None:
        self._engine = engine
        self._config = config
        self._keys = keys
        self._selector = selector
        self._note = note
        self.notes: tuple[str, ...] = ()
        self.elastic = engine.elastic and not engine.on_demand
        self.closed = False
        self._closing_until: float | None = None
        self._hosts: dict[str, Host] = {}
        self._waiting: list[FarProcess] = []
        self._last: dict[str, str] = {}
        self._failure = ""
        self._said = ""
        self._complete = False
        self._beat_at = 0.0
        self._board = Board(config.name, Path(config.socket_dir))
        self.post = Inbox(selector).post
        self._forwards = Forwards(engine, self.post)
        self._patient_until = time.monotonic() + PATIENCE
        engine.open(self)

    # -- the desk: any thread --------------------------------------------------------------------------------

    def offer(self, host: str, slots: int, *, more: bool = False) -> None:
        """There is a host, which has room for so many workers; with ``more`` another one follows at once."""
        self.post(self._on_offer, host, slots, more)

    def complete(self) -> None:
        """Every host that there is has been offered; there may be none."""
        self.post(setattr, self, "_complete", True)

    def withdraw(self, host: str, reason: str) -> None:
        """A host is gone for good, and its workers with it."""
        self.post(self._on_withdraw, host, reason)

    def fail(self, reason: str) -> None:
        """There will be no (more) hosts."""
        self.post(self._on_fail, reason)

    def notice(self, text: str) -> None:
        """Something that the user waits for takes its time."""
        self.post(self._note, text)

    # -- the home --------------------------------------------------------------------------------------------

    def make(self, spec: WorkerSpec, kin: Kin) -> FarProcess:
        """Make a process, on the host that suits it best, as soon as that is there."""
        if self._failure:
            raise NoWorkers(self._failure)
        process = FarProcess(self, spec, kin)
        self._waiting.append(process)
        self.post(self._settle)
        self.post(lambda: self._engine.want(self._count()))
        return process

    def change_keys(self, keys: WorkerKeys) -> None:
        """Have processes that are made from now on let in whom these keys name."""
        self._keys = keys
        for host in self._hosts.values():
            if host.state == "up":
                self.send(host, line.Keys(keys))

    def has_process(self, pid: int) -> bool:  # noqa: ARG002 - its workers are elsewhere
        """Return that none is."""
        return False

    def places(self) -> int | None:
        """Return how many workers it has places for; ``None`` if that is not known yet."""
        failed = [host for host in self._hosts.values() if host.state == "failed"]
        if failed or self._failure:
            raise NoWorkers(self._failure or "no workers could be started")
        if self._engine.on_demand and not self._hosts:
            raise NoWorkers(f"how many workers? {self._config.launcher} gives as many as it is asked for")
        if not self._complete or any(not host.slots for host in self._hosts.values()):
            return None
        return sum(host.slots for host in self._hosts.values())

    def demand(self, workers: int) -> None:
        """The jobs there are could use so many workers."""
        self._engine.demand(workers)

    def reap(self) -> None:
        """Take note of commands that have ended, so that they are no zombies; their lines say the rest."""
        for host in self._hosts.values():
            if host.carrier is not None:
                host.carrier.running()

    @property
    def _unheard(self) -> bool:
        """Whether the engine has said nothing yet."""
        return not (self._hosts or self._complete or self._failure)

    def next_due(self) -> float:
        """Return the monotonic time at which ``check_time`` has something to do; infinity for never."""
        if self.closed:
            return float("inf")
        due = [host.due for host in self._hosts.values() if host.state in {"opening", "down"}]
        if any(host.state == "up" for host in self._hosts.values()):
            due.append(self._beat_at)
        if self._closing_until is not None:
            due.append(self._closing_until)
        if self._unheard:
            due.append(self._patient_until)
        return min(due, default=float("inf"))

    def check_time(self, now: float) -> None:
        """Beat, find out who does not, and try again what has failed."""
        if self._closing_until is not None and now >= self._closing_until and not self.closed:
            self._finish_closing()
            return
        if now >= self._patient_until and self._unheard:
            self._patient_until = float("inf")
            self._note(f"waiting for {self._config.launcher} to say which hosts there are")
        beat = now >= self._beat_at
        if beat:
            self._beat_at = now + min(line.BEAT, self._config.lease / 4)
        for host in list(self._hosts.values()):
            if host.state == "up" and beat:
                if now - host.heard > self._config.lease:
                    self._lose(host, f"{host.name} has not been heard of for {self._config.lease:g} s")
                else:
                    self.send(host, line.Beat())
            elif host.state == "opening" and now >= host.due:
                self._lose(host, f"{host.name} did not answer within {self._config.timeout:g} s")
            elif host.state == "down" and now >= host.due:
                self._open(host)

    def kill_all(self) -> None:
        """Hang up on every agent; they kill their workers."""
        for host in self._hosts.values():
            if host.carrier is not None:
                host.carrier.kill()

    def close(self) -> None:
        """Let every agent go, and give back what the engine has allocated. May be called twice."""
        if self._closing_until is not None:
            return
        self._closing_until = time.monotonic() + LEAVE_TIMEOUT
        for host in list(self._hosts.values()):
            if host.state == "up":
                self.send(host, line.Leave())
            elif host.end is not None:
                self._hang_up(host)
        self._check_closed()

    def _check_closed(self) -> None:
        if self._closing_until is not None and not any(host.end is not None for host in self._hosts.values()):
            self._finish_closing()

    def _finish_closing(self) -> None:
        for host in self._hosts.values():
            self._hang_up(host)
        self._engine.close()
        self.closed = True

    # -- workers ---------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Give those that wait a host, as far as there are any."""
        for process in list(self._waiting):
            host = self._choose(process.spec.name)
            if host is None:
                continue
            self._waiting.remove(process)
            process.place = host
            self._last[process.spec.name] = host.name
            host.workers[process.key] = process
            self._ask(host, process)
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        """Say which workers wait, if it is not that their hosts are being reached for."""
        names = [process.spec.name for process in self._waiting]
        text = waiting_text(names, self._hosts.values(), "" if self._engine.on_demand else self._config.launcher)
        if text and text != self._said:
            self._note(text)
        self._said = text

    def _choose(self, name: str) -> Host | None:
        last = self._hosts.get(self._last.get(name, ""))
        return choose_host(self._hosts.values(), last, self._count(), crowded=not self._engine.elastic)

    def _count(self) -> int:
        """Return how many processes there are, or shall be."""
        return len(self._waiting) + sum(len(host.workers) for host in self._hosts.values())

    def _ask(self, host: Host, process: FarProcess) -> None:
        if host.state == "up" and not process.asked:
            process.asked = True
            self.send(host, line.Make(process.spec.name, process.spec.generation))

    def forget(self, process: FarProcess, reason: str) -> None:
        """Take a process for dead."""
        if process in self._waiting:
            self._waiting.remove(process)
        elif process.place is None or process.place.workers.pop(process.key, None) is None:
            return
        self._bury(process, process.certify(reason))

    def _bury(self, process: FarProcess, certificate: DeathCertificate) -> None:
        self._board.take_down(process.key)
        self._forwards.release(process.key)
        process.kin.on_dead(process, certificate)

    # -- hosts -----------------------------------------------------------------------------------------------

    def _on_offer(self, name: str, slots: int, more: bool) -> None:  # noqa: FBT001
        self._complete = not more
        known = self._hosts.get(name)
        if known is not None:
            known.slots = slots or known.slots
        elif self._closing_until is None:
            host = self._hosts[name] = Host(name, slots)
            self._open(host)
        self._settle()

    def _on_withdraw(self, name: str, reason: str) -> None:
        host = self._hosts.pop(name, None)
        if host is not None:
            self._hang_up(host)
            self._bury_all(host, f"was lost: {reason}")
            self._check_closed()
            if self._closing_until is None:
                self._engine.want(self._count())
                self._settle()

    def _on_fail(self, reason: str) -> None:
        self._failure = reason
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            process.kin.on_failed(process, reason)

    def _open(self, host: Host) -> None:
        host.state = "opening"
        host.due = time.monotonic() + self._config.timeout
        host.hello = None
        try:
            host.carrier = self._engine.start_agent(host.name)
        except (OSError, ValueError) as error:
            self._lose(host, f"{host.name}: {error}")
            return
        host.end = line.LineEnd(host.carrier.read_fd, host.carrier.write_fd, line.FromAgent, greeting=line.GREETING)
        self._selector.register(host.end.read_fd, selectors.EVENT_READ, functools.partial(self._on_line, host))

    def send(self, host: Host, message: msgspec.Struct) -> None:
        """Send a message to a host's agent, if it has one."""
        if host.end is None:
            return
        try:
            host.end.send(message)
            self._watch(host)
        except OSError as error:
            self.post(self._lose, host, f"the line to {host.name} broke: {error}", host.end)

    def _watch(self, host: Host) -> None:
        if host.end is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if host.end.backlog else 0)
            key = self._selector.get_key(host.end.read_fd)
            if key.events != events:
                self._selector.modify(host.end.read_fd, events, key.data)

    def _on_line(self, host: Host, mask: int) -> None:
        if host.end is None:
            return
        try:
            if mask & selectors.EVENT_WRITE:
                host.end.flush()
                self._watch(host)
            messages = host.end.receive() if mask & selectors.EVENT_READ else []
        except (OSError, ProtocolError) as error:
            self._lose(host, f"the line to {host.name} ended" if isinstance(error, OSError) else str(error))
            return
        host.heard = time.monotonic()
        for message in messages:
            self._on_message(host, message)

    def _on_message(self, host: Host, message: line.FromAgent) -> None:
        if isinstance(message, line.Hello):
            self._on_hello(host, message)
            return
        if isinstance(message, line.Beat):
            return
        record = message.certificate if isinstance(message, line.Dead) else message
        process = host.workers.get((record.name, record.generation))
        if process is None:
            return
        match message:
            case line.Made():
                process.pid = message.pid
            case line.Ready():
                self._on_ready(host, process, message)
            case line.Found():
                self._on_found(host, process, message.sign)
            case line.Failed():
                del host.workers[record.name, record.generation]
                process.kin.on_failed(process, f"{message.reason} (on {host.name})")
            case line.Dead():
                del host.workers[record.name, record.generation]
                intentional = message.certificate.intentional or bool(process.intent)
                self._bury(process, msgspec.structs.replace(message.certificate, intentional=intentional))
                self._settle()

    def _on_found(self, host: Host, process: FarProcess, sign: Sign) -> None:
        """Put up where something of a worker is found, with an address that leads there from here."""

        def put_up(leads: Sequence[str] | None) -> None:
            if leads is not None:  # else the engine has said why
                self._board.put_up(process.key, msgspec.structs.replace(sign, url="".join(leads)))

        self._forwards.lead(host, process, f"{sign.kind} {sign.key}", (sign.url,) if sign.url else (), put_up)

    def _on_ready(self, host: Host, process: FarProcess, message: line.Ready) -> None:
        urls = (message.calls, message.jobs)

        def ready(leads: Sequence[str] | None) -> None:
            if leads is None:
                process.signal(9)
                del host.workers[process.key]
                process.kin.on_failed(process, f"{host.name} cannot be reached from here at {message.calls}")
                return
            process.spec = msgspec.structs.replace(process.spec, calls=leads[0], jobs=leads[1], events="")
            process.ready = True
            process.kin.on_ready(process)

        self._forwards.lead(host, process, "itself", urls, ready)

    # -- beginning and end of a line -------------------------------------------------------------------------

    def _on_hello(self, host: Host, hello: line.Hello) -> None:
        if refusal := refuse_wire(host.name, hello):
            self._lose(host, refusal)
            return
        host.hello = hello
        host.slots = host.slots or hello.cpus
        self.notes += tuple(note for note in compare_versions(host.name, hello) if note not in self.notes)
        if hello.probe:
            threading.Thread(target=self._try, args=(host, hello), name="znb-probe", daemon=True).start()
        else:
            self._on_tried(host, hello, reached=False)

    def _try(self, host: Host, hello: line.Hello) -> None:
        """Find out whether the host can be reached directly. On a thread of its own."""
        reached = reach(hello.address, hello.probe, hello.secret)
        self.post(functools.partial(self._on_tried, host, hello, reached=reached))

    def _on_tried(self, host: Host, hello: line.Hello, *, reached: bool) -> None:
        if host.hello is not hello or host.state != "opening":
            return
        asked, _, ports = self._config.bind.removeprefix("tcp://").rpartition(":")
        address = f"[{hello.address}]" if ":" in hello.address else hello.address
        host.reached = "directly" if reached else "forward"
        if asked not in {"", "*"}:
            address, host.reached = asked, "asked"
        elif not reached:
            address = "127.0.0.1"
        self._welcome(host, f"tcp://{address}:{ports or '*'}")

    def _welcome(self, host: Host, bind: str) -> None:
        config = self._config
        host.state, host.was_up, host.failures = "up", True, 0
        self.send(host, line.Welcome(
            cluster=config.name, keys=self._keys, bind=bind, entry=config.entry, preload=config.preload,
            env=config.env, cwd=config.cwd, fork=config.fork, lease=config.lease,
        ))  # fmt: skip
        for process in list(host.workers.values()):
            self._ask(host, process)
        self._settle()
        self._beat_at = 0.0

    def _lose(self, host: Host, reason: str, end: line.LineEnd | None = None) -> None:
        """Take note that a host has gone, or never came."""
        if host.name not in self._hosts or (end is not None and host.end is not end):
            return
        closing = self._closing_until is not None
        errors = host.last_words() if not closing else ""
        reason = self._engine.explain(host.name) or reason
        self._hang_up(host)
        if closing:
            self._check_closed()
            return
        if not host.was_up:
            self._give_up(host, f"{reason}{errors}")
            return
        host.state = "down"
        host.due = time.monotonic() + min(RETRY_AFTER * 2**host.failures, RETRY_MAX)
        host.failures += 1
        self._bury_all(host, ": ".join(["was lost", reason, *errors.splitlines()[-1:]]))
        self._settle()

    def _give_up(self, host: Host, reason: str) -> None:
        """Do without a host that never came: the user is told, and only others that came later can do without it."""
        workers, host.workers = host.workers, {}
        if self._engine.elastic and any(
            other.state in {"opening", "up"} for other in self._hosts.values() if other is not host
        ):
            del self._hosts[host.name]
            for process in workers.values():
                process.place = None
            self._waiting.extend(workers.values())
            self._note(f"{host.name} cannot be used: {reason}")
            self._settle()
            return
        host.state = "failed"
        for process in workers.values():
            process.kin.on_failed(process, reason)
        self._on_fail(reason)

    def _bury_all(self, host: Host, reason: str) -> None:
        workers, host.workers = host.workers, {}
        for process in workers.values():
            self._bury(process, process.certify(reason))

    def _hang_up(self, host: Host) -> None:
        """Close the line to a host's agent."""
        if host.end is not None:
            self._selector.unregister(host.end.read_fd)
            host.end.close()
            host.end = None
        if host.carrier is not None:
            host.carrier.kill()
            host.carrier = None
        self._forwards.drop(host.name)
