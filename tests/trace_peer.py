"""Processes with a known workload, whose trace must agree with the truth: run as a script, a server on its pipes.

A call takes a *program*: a list of steps, ``["busy", seconds]``, ``["sleep", seconds]``, ``["span", name, program]``,
``["call", name, program]`` (in a process of its own, which is started for it and kept), ``["raise", text]``. The answer has the
truth: what each step took, measured where it ran, so that a machine that is busy is no excuse.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import Any

import msgspec

from znb.profiler import Sampler
from znb.spans import RECORDER, OpenSpan, headers, read_headers, span
from znb.traces import Feed, Request

#: A clock that is wrong by so much, for processes that stand for another machine.
SKEW_NS = 5_000_000_000


class Peer:
    """A process that serves calls."""

    def __init__(self, name: str, *flags: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, *message: Any) -> Any:
        with contextlib.suppress(BrokenPipeError):  # it has been killed: there is no answer either
            send(self.process.stdin, message)
        return receive(self.process.stdout)

    def feed(self, request: Request) -> tuple[bytes, int, int]:
        """Return a batch as it came, and our clock before and after."""
        sent = time.perf_counter_ns()
        data = self.ask("feed", msgspec.msgpack.encode(request))
        return data, sent, time.perf_counter_ns()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def send(file: Any, message: Any) -> None:
    data = msgspec.msgpack.encode(message)
    file.write(len(data).to_bytes(4, "big") + data)
    file.flush()


def receive(file: Any) -> Any:
    size = file.read(4)
    return msgspec.msgpack.decode(file.read(int.from_bytes(size, "big"))) if size else None


class Failed(Exception):
    """What a program raises."""


def run(program: list[Any], peers: dict[str, Peer], truth: dict[str, float], path: str = "") -> None:
    """Run a program; ``truth`` gets the seconds that each span's own steps took."""
    for step in program:
        began = time.perf_counter()
        if step[0] == "busy":
            while time.perf_counter() - began < step[1]:
                sum(range(50))
        elif step[0] == "sleep":
            time.sleep(step[1])
        elif step[0] == "raise":
            raise Failed(step[1])
        else:
            run_below(step, peers, truth)
            continue
        truth[path] = truth.get(path, 0.0) + time.perf_counter() - began


def run_below(step: list[Any], peers: dict[str, Peer], truth: dict[str, float]) -> None:
    kind, name, program = step
    with contextlib.ExitStack() as stack:
        if kind == "try":
            stack.enter_context(contextlib.suppress(Failed))
        if kind != "call":
            stack.enter_context(span(name))
            run(program, peers, truth, name)
            return
        server = name.partition(".")[0]
        call = stack.enter_context(OpenSpan(RECORDER, f"call {name}", "call", {"service": server}))
        if server not in peers:
            peers[server] = Peer(server)
        error, found = peers[server].ask("call", name, program, headers(call))
        truth.update(found)
        if error:
            raise Failed(error)


def serve(name: str, flags: list[str]) -> None:
    if "skewed" in flags:
        skew()
    RECORDER.worker = name
    sampler = Sampler(RECORDER, linger=0.1)
    sampler.install()
    feed = Feed(RECORDER, sampler)
    if "skewed" in flags:
        feed._process = msgspec.structs.replace(feed.process, host="elsewhere", boot="another")
    peers: dict[str, Peer] = {}
    while (message := receive(sys.stdin.buffer)) is not None:
        if message[0] == "feed":
            answer: Any = msgspec.msgpack.encode(feed.answer(msgspec.msgpack.decode(message[1], type=Request)))
        elif message[0] == "feed below":
            answer = peers[message[1]].ask("feed", message[2])
        else:
            truth: dict[str, float] = {}
            error = ""
            _, method, program, found = message
            try:
                with OpenSpan(RECORDER, method, "serve", {"method": method}, read_headers(found)):
                    run(program, peers, truth, method)
            except Failed as failure:
                error = str(failure)
            answer = (error, truth)
        send(sys.stdout.buffer, answer)
    for peer in peers.values():
        peer.close()


def skew() -> None:
    """Have this process's clock show another time."""
    import znb.spans.opened as opened
    import znb.spans.recorder as recorder
    import znb.traces.feed as feed

    real = time.perf_counter_ns
    opened.perf_counter_ns = recorder.perf_counter_ns = lambda: real() + SKEW_NS
    feed.time = type("Skewed", (), {"perf_counter_ns": staticmethod(lambda: real() + SKEW_NS)})


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
