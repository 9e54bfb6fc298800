"""A worker that does what datagrams to its endpoint for calls tell it, for tests of launchers and the zygote."""

import atexit
import faulthandler
import os
import select
import signal  # noqa: F401
import socket
import subprocess  # noqa: F401
import sys
from pathlib import Path


def main(spec):
    faulthandler.enable(spec.crash_fd)
    orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    orders.bind(spec.calls.removeprefix("ipc://"))
    os.write(spec.ready_fd, b"\1")
    os.close(spec.ready_fd)
    namespace = {"spec": spec, "orders": orders, **globals()}
    while True:
        readable = select.select([orders, spec.parent_fd], [], [])[0]
        if spec.parent_fd in readable:
            os._exit(1)
        exec(orders.recv(65536), namespace)


def tell(status, code):
    """Have a worker run some code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(status.calls.removeprefix("ipc://"))
        sender.send(code.encode())


def broken(spec):
    raise RuntimeError(f"{spec.name} is broken")


def never_ready(spec):
    while not select.select([spec.parent_fd], [], [])[0]:
        pass


def broken_unless_mended(spec):
    if not Path(spec.cluster_dir, "mended").exists():
        sys.exit(4)
    main(spec)


def returns(spec):
    os.write(spec.ready_fd, b"\1")
    os.close(spec.ready_fd)
    atexit.register(print, "a last word")
