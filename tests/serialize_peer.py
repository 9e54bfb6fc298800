"""For tests of serialisation: a codec in another process, and a main module in which cells run."""

import contextlib
import linecache
import multiprocessing.connection
import os
import subprocess
import sys
import types
from pathlib import Path

from znb.serialize import MissingDefinitions, Payload

SERVER = """
import linecache, multiprocessing.connection, sys, traceback, types
from znb.serialize import Codec, MissingDefinitions

link = multiprocessing.connection.Connection(int(sys.argv[1]))
main = sys.modules["__main__"] = types.ModuleType("__main__")
codec = Codec(learned_bytes=int(sys.argv[2]))
main.codec = codec


def act(kind, *rest):
    if kind == "learn":
        codec.learn(rest[0], [bytearray(frame) for frame in rest[1]])
    elif kind == "frames":
        return [bytes(frame) for frame in codec.definition(rest[0])]
    elif kind == "cell":
        exec(compile(rest[0], "<worker cell>", "exec"), main.__dict__)
    elif kind == "call":
        function, args, kwargs = codec.decode(rest[0], [bytearray(each) for each in rest[1]])
        payload = codec.encode(function(*args, **kwargs))
        return payload.body, [bytes(each) for each in payload.buffers], payload.definitions
    elif kind == "eval":
        payload = codec.encode(eval(rest[0], main.__dict__))
        return payload.body, [bytes(each) for each in payload.buffers], payload.definitions


while True:
    try:
        request = link.recv()
    except EOFError:
        break
    try:
        reply = ("done", act(*request))
    except MissingDefinitions as error:
        reply = ("missing", error.keys)
    except BaseException as error:
        try:
            payload = codec.encode(error)
            reply = ("raised", (payload.body, [bytes(each) for each in payload.buffers], payload.definitions),
                     traceback.format_exc())
        except Exception:
            reply = ("failed", traceback.format_exc())
    link.send(reply)
"""


class Peer:
    """A worker process with a codec; keeps, as a sender does, the set of keys that it was sent."""

    def __init__(self, codec, *, learned_bytes=1 << 29, python=sys.executable):
        ours, theirs = multiprocessing.connection.Pipe()
        command = [python, "-W", "error", "-c", SERVER, str(theirs.fileno()), str(learned_bytes)]
        root = str(Path(__file__).parent.parent)
        env = {**os.environ, "PYTHONPATH": root}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env)
        theirs.close()
        self.codec = codec
        self.link = ours
        self.sent = set()
        self.shipped = []

    def close(self):
        self.link.close()
        self.process.wait(20)

    def ask(self, *request):
        self.link.send(request)
        kind, *rest = self.link.recv()
        if kind == "raised":
            (body, buffers, definitions), text = rest
            error = self.take(body, buffers, definitions)
            error.remote_text = text
            raise error
        assert kind != "failed", rest[0]
        return kind, rest[0]

    def ship(self, keys):
        for key in keys:
            self.shipped.append(key)
            self.sent.add(key)
            self.ask("learn", key, [bytes(frame) for frame in self.codec.definition(key)])

    def take(self, body, buffers, definitions):
        """Decode what came home, fetching definitions that are not known here."""
        buffers = [bytearray(each) for each in buffers]
        try:
            return self.codec.decode(body, buffers)
        except MissingDefinitions as missing:
            for key in set(missing.keys).intersection(definitions):
                self.codec.learn(key, self.ask("frames", key)[1])
            return self.codec.decode(body, buffers)

    def send(self, payload: Payload):
        self.ship([key for key in payload.definitions if key not in self.sent])
        request = ("call", payload.body, [bytes(each) for each in payload.buffers])
        kind, value = self.ask(*request)
        if kind == "missing":
            self.ship(value)
            kind, value = self.ask(*request)
        assert kind == "done"
        return self.take(*value)

    def call(self, function, *args, **kwargs):
        return self.send(self.codec.encode((function, args, kwargs), labels=("function", "args", "kwargs")))

    def cell(self, source):
        self.ask("cell", source)

    def eval(self, expression):
        return self.take(*self.ask("eval", expression)[1])


class Notebook:
    """A namespace in which cells run, as IPython runs them: the main module, each cell with a file name of its own."""

    def __init__(self, module):
        self.module = module
        self.count = 0

    def cell(self, source):
        self.count += 1
        name = f"/tmp/ipykernel_1/{self.count}.py"
        lines = source.splitlines(keepends=True)
        linecache.cache[name] = (len(source), None, lines, name)
        exec(compile(source, name, "exec"), vars(self.module))

    def __getattr__(self, name):
        return getattr(self.module, name)


@contextlib.contextmanager
def main_module():
    """Put a fresh main module in place, as a notebook kernel has one."""
    before, lines = sys.modules["__main__"], dict(linecache.cache)
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield Notebook(module)
    finally:
        sys.modules["__main__"] = before
        linecache.cache.clear()
        linecache.cache.update(lines)


def ship(sender, receiver, obj):
    """Encode with one codec and decode with another of this process, as received messages are."""
    payload = sender.encode(obj)
    for key in payload.definitions:
        if not receiver.knows(key):
            receiver.learn(key, [bytearray(frame) for frame in sender.definition(key)])
    return receiver.decode(payload.body, [bytearray(each) for each in payload.buffers])
