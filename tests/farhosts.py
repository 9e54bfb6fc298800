"""Hosts for tests of workers on other machines: namespaces, each with a name, an address and an sshd of its own.

They share this machine's files and processes, and nothing of its network but one link each. That needs root, ``ip`` and
OpenSSH; ``missing()`` says what is not there.
"""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from cluster_harness import PATIENCE, wait_until

#: An sshd that serves one key, with nothing of this machine's configuration. The runtime directory of a test goes along,
#: so that what stays behind is known for that test's.
SSHD = """
Port 22
ListenAddress {address}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
PermitRootLogin yes
PrintMotd no
AcceptEnv ZNB_RUNTIME_DIR
"""

#: What leads a client there; ``-F`` keeps the user's own configuration out.
CLIENT = """
Host {name}
  HostName {address}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
"""

#: A host that can be reached only by way of another: its sshd is asked on its own loopback.
HIDDEN = """
Host hidden
  HostName 127.0.0.1
  HostKeyAlias {address}
  ProxyCommand {ssh} -F {folder}/config -W 127.0.0.1:22 {name}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts

Host slow
  HostName 127.0.0.1
  HostKeyAlias {address}
  ProxyCommand {python} {folder}/relay.py {ssh} -F {folder}/config -W 127.0.0.1:22 {name}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts

Host stranger
  HostName {address}
  IdentityFile {folder}/host_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts

Host unknown
  HostName {address}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
"""

#: Passes on what a command and this process's standard streams say to each other, 50 ms late.
RELAY = """
import os, queue, subprocess, sys, threading, time

def pump(source, sink):
    late = queue.SimpleQueue()

    def read():
        while data := os.read(source, 65536):
            late.put((time.monotonic() + 0.05, data))
        late.put((0.0, b""))

    threading.Thread(target=read, daemon=True).start()
    while True:
        due, data = late.get()
        time.sleep(max(0.0, due - time.monotonic()))
        if not data:
            return os.close(sink)
        while data:
            data = data[os.write(sink, data):]

process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
there = threading.Thread(target=pump, args=(0, process.stdin.fileno()), daemon=True)
there.start()
pump(process.stdout.fileno(), 1)
os._exit(process.wait())
"""

_numbers = itertools.count()


def missing():
    """Return what is missing for such hosts; empty if nothing is."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    for tool in ("ip", "ssh", "ssh-keygen", "/usr/sbin/sshd"):
        if shutil.which(tool) is None:
            return f"there is no {tool}: install iproute2, openssh-client and openssh-server"
    name = f"znbtry{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces cannot be made here: {tried.stderr.strip()}"
    run("ip", "netns", "delete", name)
    return ""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class FarHost:
    """One host.

    Attributes:
        name: What ssh calls it.
        address: Its own.
        gateway: This machine's, on the link between them.
        device: The link's end here.
    """

    def __init__(self, name, folder):
        number = next(_numbers)
        subnet = f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"
        self.name = name
        self.folder = folder
        self.gateway, self.address = f"{subnet}.{4 * number + 1}", f"{subnet}.{4 * number + 2}"
        self.space = f"znb{os.getpid()}x{number}"
        self.device = f"zv{os.getpid()}x{number}"
        self.sshd = None

    def open(self):
        run("ip", "netns", "add", self.space)
        run("ip", "link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        run("ip", "address", "add", f"{self.gateway}/30", "dev", self.device)
        run("ip", "link", "set", self.device, "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "address", "add", f"{self.address}/30", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        config = self.folder / f"sshd_{self.name}"
        config.write_text(SSHD.format(address=self.address, folder=self.folder))
        self.start_sshd()

    def start_sshd(self):
        Path("/run/sshd").mkdir(exist_ok=True)
        config = self.folder / f"sshd_{self.name}"
        named = ["unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$@"', "sh"]
        command = ["ip", "netns", "exec", self.space, *named, "/usr/sbin/sshd", "-D", "-e", "-f", config]
        with config.with_suffix(".log").open("ab") as log:
            self.sshd = subprocess.Popen(command, stderr=log)
        wait_until(self.answers, f"the sshd of {self.name}")

    def answers(self):
        with contextlib.suppress(OSError), socket.create_connection((self.address, 22), 1.0):
            return True
        return False

    def inside(self, *command):
        return run("ip", "netns", "exec", self.space, *command)

    def pids(self):
        """Return the processes that are on this host."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.space).split()]

    def cut(self, *, cut):
        """Take the link away, or give it back."""
        run("ip", "link", "set", self.device, "down" if cut else "up")

    def close(self):
        if self.sshd is not None:
            self.sshd.kill()
            self.sshd.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        subprocess.run(["ip", "link", "delete", self.device], check=False, capture_output=True)
        wait_until(lambda: not self.pids(), f"the end of {self.name}")
        run("ip", "netns", "delete", self.space)


@contextlib.contextmanager
def far_hosts(folder, *names):
    """Yield hosts, and a folder with the ``ssh`` that leads to them, for ``PATH``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for key in ("host_key", "key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    hosts = [FarHost(name, folder) for name in names]
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text("".join(f"{host.address} {public}\n" for host in hosts))
    config = folder / "config"
    config.write_text("".join(CLIENT.format(name=h.name, address=h.address, folder=folder) for h in hosts))
    with config.open("a") as more:
        more.write(
            HIDDEN.format(
                address=hosts[0].address,
                name=hosts[0].name,
                folder=folder,
                ssh=shutil.which("ssh"),
                python=sys.executable,
            )
        )
    (folder / "relay.py").write_text(RELAY)
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} -o SendEnv=ZNB_RUNTIME_DIR "$@"\n')
    (bin_ / "ssh").chmod(0o755)
    with contextlib.ExitStack() as stack:
        for host in hosts:
            stack.callback(host.close)
            host.open()
        yield hosts, bin_
