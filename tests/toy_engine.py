"""An engine whose hosts are this machine, under names: agents run as commands here, without ssh and without root."""

import shlex
import sys

from znb.errors import ZnbError
from znb.launchers.engine import EngineBase, ProcessLine, agent_command
from znb.launchers.local import LocalLauncher


class ToyLauncher(LocalLauncher):
    name = "toy"
    engine = "toy_engine:ToyEngine"


class ElasticLauncher(LocalLauncher):
    name = "elastic"
    engine = "toy_engine:ElasticEngine"


class ToyEngine(EngineBase):
    """``toy:NAME[*SLOTS][=WHAT],…``: what goes wrong with a host is in its description."""

    def __init__(self, config):
        self.hosts = {}
        for part in filter(None, config.place.split(",")):
            name, _, what = part.partition("=")
            name, _, slots = name.partition("*")
            self.hosts[name] = (int(slots or 1), what)
        if not self.hosts:
            raise ZnbError("a toy needs hosts")

    def open(self, desk):
        self.desk = desk
        for name, (slots, what) in self.hosts.items():
            if what == "refused":
                desk.fail("the toy is broken")
            else:
                desk.offer(name, slots)

    def start_agent(self, host):
        what = self.hosts[host][1]
        agent = shlex.join(agent_command(sys.executable, "127.0.0.1"))
        commands = {
            "": f"exec {agent}",
            "noisy": f"echo Welcome to $0; echo; exec {agent}",
            "ends": "echo 'no such luck' >&2; exit 3",
            "chatty": "echo 'this is no agent'; exit 0",
            "silent": "sleep 1000",
            "garbage": r"printf '\0znb-agent\0\0\0\0\4xxx\n'; sleep 1000",
            "flood": "yes",
        }
        if what == "impossible":
            raise OSError("the toy has lost its battery")
        return ProcessLine(["sh", "-c", commands[what]])


class ElasticEngine(ToyEngine):
    """As ``ToyEngine``; a host more with each file that appears in a folder, one less with each that goes."""

    elastic = True

    def open(self, desk):
        import threading
        import time
        from pathlib import Path

        def follow():
            known = set()
            folder = Path(next(iter(self.hosts)))
            while folder.exists():
                there = {path.name for path in folder.iterdir()}
                for name in there - known:
                    self.hosts[name] = (1, "ends" if name == "bad" else "")
                    desk.offer(name, 1)
                for name in known - there:
                    desk.withdraw(name, f"{name} was taken away")
                known = there
                time.sleep(0.02)

        threading.Thread(target=follow, daemon=True).start()
