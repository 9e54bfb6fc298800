"""Calls of one client to one server over ipc (tcp loopback where a peer has no ipc), and of a hundred to two."""

import collections
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: Calls of the round trip, of which the median counts.
TRIPS = 3_000
#: Calls with 64 in flight.
CALLS, IN_FLIGHT = 6_000, 64
#: Items of the stream; slow peers get fewer.
ITEMS, ITEMS_OF_SLOW = 200_000, 20_000
#: Bytes of the array, and how often it goes there and back.
ARRAY, ARRAYS = 8_000_000, 12
#: Clients of the crowd, and calls of each.
CLIENTS, CALLS_OF_CLIENT = 100, 100
#: Crowds, one after the other.
CROWDS = 4

ROOT = Path(__file__).resolve().parent.parent
ZERORPC = ROOT / ".venvs" / "zerorpc" / "bin" / "python"


class Things:
    def noop(self):
        return None

    def same(self, x):
        return x

    def count(self, n):
        yield from range(n)

    def pid(self):
        return os.getpid()


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def figures(noop, *, flight=None, stream=None, items=ITEMS, array=None) -> dict[str, float]:
    for _ in range(300):
        noop()
    result = {"trip": statistics.median(timed(noop) for _ in range(TRIPS))}
    if flight is not None:
        flight(500)
        result["flight"] = CALLS / statistics.median(timed(lambda: flight(CALLS)) for _ in range(3))
    if stream is not None:
        stream(1000)
        result["stream"] = items / statistics.median(timed(lambda: stream(items)) for _ in range(3))
    if array is not None:
        array()
        result["array"] = ARRAY / 1e6 / statistics.median(timed(array) for _ in range(ARRAYS))
    return result


def keep_in_flight(start, finish):
    def run(count: int) -> None:
        waiting = collections.deque()
        for _ in range(count):
            waiting.append(start())
            if len(waiting) >= IN_FLIGHT:
                finish(waiting.popleft())
        while waiting:
            finish(waiting.popleft())

    return run


# -- znb


def serve_znb(where: str) -> None:
    from znb.rpc import serve

    with serve(Things(), name=where, group="same"):
        ready()


def measure_znb() -> dict[str, float]:
    import numpy as np

    from znb.rpc import connect

    data = np.ones(ARRAY // 8)
    with server("znb", "things"), connect("things") as svc:
        return figures(
            svc.noop,
            flight=keep_in_flight(svc.noop.future, lambda future: future.result()),
            stream=lambda n: drain(svc.count(n)),
            array=lambda: svc.same(data),
        )


# -- the sockets alone


def serve_raw(where: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.bind(where)
    threading.Thread(target=echo, args=(socket,), daemon=True).start()
    ready()


def echo(socket) -> None:
    while True:
        frames = socket.recv_multipart(copy=False)
        if len(frames[-1]) == 8:  # a stream of this many
            peer, blob = frames[0].bytes, frames[2].bytes
            for _ in range(int.from_bytes(frames[-1].bytes, "big")):
                socket.send_multipart([peer, b"", blob])
        else:
            socket.send_multipart(frames, copy=len(frames[-1]) < 65536)


def measure_raw() -> dict[str, float]:
    import msgspec
    import zmq

    where = f"ipc://{os.environ['ZNB_RUNTIME_DIR']}/raw"
    # The same bytes as znb's: request and reply differ by one header.
    request = msgspec.msgpack.encode([{"message_id": 2**47, "v": 3, "znb": 1, "items": 1}, "noop", []])
    data = bytearray(ARRAY)
    with server("raw", where):
        socket = zmq.Context().socket(zmq.DEALER)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(where)

        def noop() -> None:
            socket.send_multipart([b"", request])
            socket.recv_multipart()

        def array() -> None:
            socket.send_multipart([b"", request, data], copy=False)
            socket.recv_multipart(copy=False)

        def flight(count: int) -> None:
            for number in range(count + IN_FLIGHT):
                if number < count:
                    socket.send_multipart([b"", request])
                if number >= IN_FLIGHT:
                    socket.recv_multipart()

        def stream(count: int) -> None:
            socket.send_multipart([b"", request, count.to_bytes(8, "big")])
            for _ in range(count):
                socket.recv_multipart()

        return figures(noop, flight=flight, stream=stream, array=array)


# -- Pyro5


def serve_pyro5(where: str) -> None:
    import Pyro5.api

    Pyro5.config.SERIALIZER = "msgpack"
    daemon = Pyro5.api.Daemon(unixsocket=where)
    daemon.register(Pyro5.api.expose(Things), "things")
    threading.Thread(target=daemon.requestLoop, daemon=True).start()
    ready()


def measure_pyro5() -> dict[str, float]:
    import Pyro5.api

    Pyro5.config.SERIALIZER = "msgpack"
    where = f"{os.environ['ZNB_RUNTIME_DIR']}/pyro"
    data = bytes(ARRAY)
    with server("pyro5", where), Pyro5.api.Proxy(f"PYRO:things@./u:{where}") as proxy:
        # A proxy belongs to a thread, so calls are kept in flight by as many threads. (Its batches, which send many
        # calls as one and answer them as one, are another thing.)
        proxies = threading.local()

        def call(_number: int) -> None:
            if not hasattr(proxies, "own"):
                proxies.own = Pyro5.api.Proxy(f"PYRO:things@./u:{where}")
            proxies.own.noop()

        pool = ThreadPoolExecutor(IN_FLIGHT)

        def flight(count: int) -> None:
            drain(pool.map(call, range(count)))

        return figures(
            proxy.noop,
            flight=flight,
            stream=lambda n: drain(proxy.count(n)),
            items=ITEMS_OF_SLOW,
            array=lambda: proxy.same(data),
        )


# -- RPyC


def serve_rpyc(where: str) -> None:
    import rpyc
    from rpyc.utils.server import ThreadedServer

    made = type("ThingsService", (rpyc.Service,), {f"exposed_{k}": v for k, v in vars(Things).items() if k[0] != "_"})
    served = ThreadedServer(made, socket_path=where, protocol_config={"allow_public_attrs": True})
    threading.Thread(target=served.start, daemon=True).start()
    while not Path(where).exists():
        time.sleep(0.01)
    ready()


def measure_rpyc() -> dict[str, float]:
    import rpyc
    from rpyc.utils.helpers import buffiter

    where = f"{os.environ['ZNB_RUNTIME_DIR']}/rpyc"
    data = bytes(ARRAY)
    with server("rpyc", where), contextlib.closing(rpyc.utils.factory.unix_connect(where)) as connection:
        later = rpyc.async_(connection.root.noop)
        return figures(
            connection.root.noop,
            flight=keep_in_flight(later, lambda result: result.wait()),
            stream=lambda n: drain(buffiter(connection.root.count(n), max_chunk=1000)),
            array=lambda: connection.root.same(data),
        )


# -- zerorpc, in an environment of its own


def serve_zerorpc(where: str) -> None:
    import gevent
    import zerorpc

    things = Things()
    methods = {"noop": things.noop, "same": things.same, "count": zerorpc.stream(lambda n: iter(range(n)))}
    served = zerorpc.Server(methods)
    served.bind(where)
    gevent.spawn(served.run)
    print("ready", flush=True)
    from gevent.fileobject import FileObjectThread

    FileObjectThread(sys.stdin).read()


def measure_zerorpc() -> dict[str, float]:
    if Path(sys.prefix) != ZERORPC.parent.parent:
        done = subprocess.run([ZERORPC, __file__, "zerorpc"], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    import zerorpc

    where = f"ipc://{os.environ['ZNB_RUNTIME_DIR']}/zerorpc"
    data = bytes(ARRAY)
    with server("zerorpc", where):
        client = zerorpc.Client(where, timeout=60)
        return figures(
            client.noop,
            flight=keep_in_flight(lambda: client.noop(**{"async": True}), lambda result: result.get()),
            stream=lambda n: drain(client.count(n)),
            items=ITEMS_OF_SLOW,
            array=lambda: client.same(data),
        )


# -- a crowd


def measure_crowd() -> dict[str, float]:
    import psutil

    from znb.rpc import connect

    with server("znb", "things") as first, server("znb", "things") as second:
        before = 0.0
        times: list[float] = []
        errors: list[BaseException] = []
        start = threading.Barrier(CLIENTS)

        def client() -> None:
            try:
                with connect("things") as svc:
                    start.wait()
                    times.extend([timed(svc.noop) for _ in range(CALLS_OF_CLIENT)])
            except BaseException as error:
                errors.append(error)

        for _ in range(CROWDS):
            before = before or (memory(psutil, first, second) if times else 0.0)  # the first crowd warms up
            times.clear()
            threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        times.sort()
        return {
            "p50": times[len(times) // 2],
            "p99": times[len(times) * 99 // 100],
            "spread": times[len(times) * 99 // 100] / times[len(times) // 2],
            "errors": float(len(errors)),
            "growth": memory(psutil, first, second) - before,
        }


def memory(psutil, *processes) -> float:
    return sum(psutil.Process(p.pid).memory_info().rss for p in processes) / 1e6


# -- how


def drain(items) -> None:
    collections.deque(items, maxlen=0)


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def server(name: str, where: str):
    command = [sys.executable, __file__, "serve", name, where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def topics():
    from harness import Column, Topic, count, megabytes, per_second

    def microseconds(value: float) -> str:
        return f"{value * 1e6:.0f} µs"

    columns = {
        "trip": Column("no-op, round trip p50", microseconds),
        "flight": Column("64 in flight", per_second),
        "stream": Column("stream of small items", per_second),
        "array": Column("8 MB there and back", lambda value: f"{value:,.0f} MB/s"),
    }
    contenders = {
        "znb": "**znb**",
        "raw": "raw DEALER/ROUTER, the same bytes",
        "pyro5": "Pyro5, msgpack",
        "rpyc": "RPyC (streams by `buffiter`)",
        "zerorpc": "zerorpc",
    }
    text = "One client, one server, two processes, a unix socket; {}. Peers without arrays send bytes."
    crowd = {
        "p50": Column("p50", microseconds),
        "p99": Column("p99", microseconds),
        "spread": Column("p99 / p50", lambda value: f"{value:.1f}"),
        "errors": Column("errors", count),
        "growth": Column(f"servers' memory grew by, from the first to the last of {CROWDS} crowds", megabytes),
    }
    return [
        Topic("Calls, cores free", text.format("the system places them"), Path(__file__), contenders, columns),
        Topic(
            "Calls, pinned to one core",
            text.format("both pinned to one core, which no wake-up has to cross"),
            Path(__file__),
            {f"{name}@0": title for name, title in contenders.items()},
            columns,
        ),
        Topic(
            "A crowd",
            f"{CLIENTS} clients (threads of one process) call two replicas of a service at once, "
            f"{CALLS_OF_CLIENT} times each.",
            Path(__file__),
            {"crowd": "**znb**"},
            crowd,
        ),
    ]


def __getattr__(name: str):
    if name == "TOPICS":
        return topics()
    raise AttributeError(name)


def main() -> None:
    if sys.argv[1] == "serve":
        globals()[f"serve_{sys.argv[2]}"](sys.argv[3])
        return
    name, _, core = sys.argv[1].partition("@")
    if core:
        os.sched_setaffinity(0, {int(core)})
    print(json.dumps(globals()[f"measure_{name}"]()))


if __name__ == "__main__":
    main()
