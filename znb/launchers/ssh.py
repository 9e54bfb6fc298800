"""Workers on hosts that ssh leads to, with the system's OpenSSH client: ``--on ssh:HOST[*N][,HOST[*N]…]``.

One ssh runs for each host, and its standard input and output are the line to the agent there. So everything that the
user has set up for ssh holds: config, agent, jump hosts, known hosts. It asks for nothing: a password or an unknown
host key is an error that says so. Where an address cannot be reached directly, connections go through the same ssh,
from sockets in the cluster's directory, so that no port is opened on either side but on the host's loopback.

Invariants: keys go through ssh's standard input only. When the head ends or the connection breaks, ssh ends, and the
agent with its workers. Source: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from znb.control import ZygoteConfig
from znb.errors import ZnbError
from znb.launchers import PlaceError
from znb.launchers.deploy import Archive, deploy, prelude
from znb.launchers.engine import AGENT, Desk, EngineBase, ProcessLine, remote_command
from znb.launchers.local import LocalLauncher
from znb.launchers.tunnel import OPTIONS, cancel, forward

__all__ = ["SshEngine", "SshLauncher", "parse_hosts"]

#: Hosts that are sent what they need at a time.
SENDERS = 8
#: A host, as ssh takes it, and how many workers it has places for.
HOST = re.compile(r"(?P<host>[^\s*,\x00-\x1f\x7f-][^\s*,\x00-\x1f\x7f]*)(\*(?P<slots>[1-9]\d{0,3}))?")


def parse_hosts(place: str) -> dict[str, int]:
    """Return the hosts of a place, with the workers that each has places for; 0 for one for each CPU.

    Raises:
        PlaceError: That is no list of hosts.

    Example:
        >>> parse_hosts("alpha*4,me@beta")
        {'alpha': 4, 'me@beta': 0}
    """
    hosts: dict[str, int] = {}
    for part in place.split(","):
        found = HOST.fullmatch(part.strip())
        if found is None:
            expected = "ssh:HOST[*N][,HOST[*N]…], such as ssh:alpha*4,me@beta"
            raise PlaceError(f"{part!r} in 'ssh:{place}' is no host: expected {expected}")
        if found["host"] in hosts:
            raise PlaceError(f"{found['host']} is twice in 'ssh:{place}'; say how many workers it has by *N")
        hosts[found["host"]] = int(found["slots"] or 0)
    return hosts


class SshLauncher(LocalLauncher):
    """The launcher of workers on hosts that ssh leads to (see ``znb.launchers.Launcher``)."""

    name = "ssh"
    engine = "znb.launchers.ssh:SshEngine"
    deploys = True

    def check_place(self, place: str) -> None:
        """Make sure that it names hosts."""
        parse_hosts(place)


class SshEngine(EngineBase):
    """Starts agents by ssh (see ``znb.launchers.engine.Engine``).

    Args:
        config: What the head was told.
    """

    def __init__(self, config: ZygoteConfig) -> None:
        super().__init__(config)
        self._hosts = parse_hosts(config.place)
        self._numbers = itertools.count(1)
        self._forwards: dict[str, str] = {}
        self._code = AGENT

    def open(self, desk: Desk) -> None:
        """Offer the hosts, when they have been sent what they need if that is wanted."""
        if self.config.deploy:
            threading.Thread(target=self._deploy, args=(desk,), name="znb-deploy", daemon=True).start()
        else:
            self._offer(desk)

    def _offer(self, desk: Desk) -> None:
        last = list(self._hosts)[-1]
        for host, slots in self._hosts.items():
            desk.offer(host, slots, more=host != last)

    def _deploy(self, desk: Desk) -> None:
        """Send hosts what they need. On a thread of its own."""
        archive = Archive()
        self._code = f"{prelude(archive.digest)}{AGENT}"
        send = functools.partial(deploy, self._command, archive, desk.notice)
        try:
            with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
                list(pool.map(send, self._hosts))
        except ZnbError as error:
            desk.fail(str(error))
            return
        self._offer(desk)

    def _command(self, host: str, code: str) -> list[str]:
        """Return what runs code on a host, and nothing else."""
        return ["ssh", *OPTIONS, "-o", "ControlPath=none", "--", host, remote_command(self.config.python, code)]

    def start_agent(self, host: str) -> ProcessLine:
        """Start an agent on a host."""
        self._control(host).unlink(missing_ok=True)  # that of an ssh which was killed: another would not replace it
        command = remote_command(self.config.python, self._code)
        return ProcessLine(["ssh", *OPTIONS, "-o", f"ControlPath={self._control(host)}", "--", host, command])

    def forward(self, host: str, urls: Sequence[str]) -> Sequence[str] | None:
        """Return sockets in the cluster's directory that lead to addresses on a host's loopback."""
        numbers = [next(self._numbers) for _ in urls]  # hosts have threads of their own
        made = {Path(self.config.socket_dir, f"forward.{n}"): url for n, url in zip(numbers, urls, strict=True)}
        try:
            forward(host, self._control(host), [(path, url.removeprefix("tcp://")) for path, url in made.items()])
        except ZnbError as error:
            sys.stderr.write(f"{error}\n")
            return None
        self._forwards.update({f"ipc://{path}": url for path, url in made.items()})
        return [f"ipc://{path}" for path in made]

    def withdraw(self, host: str, urls: Sequence[str]) -> None:
        """Take forwards back, and their sockets."""
        pairs = [(Path(url.removeprefix("ipc://")), self._forwards.pop(url).removeprefix("tcp://")) for url in urls]
        cancel(host, self._control(host), pairs)

    def _control(self, host: str) -> Path:
        return Path(self.config.socket_dir, f"ssh.{list(self._hosts).index(host)}")
