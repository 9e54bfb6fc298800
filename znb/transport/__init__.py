"""The I/O thread: sockets, timers and readable descriptors of a process, in one loop (see ``reactor``)."""

from znb.transport.reactor import STOP_TIMEOUT, Reactor, ReactorStats, Readable
from znb.transport.sockets import bind_socket, is_local, prepare_socket, receive_at_dealer, receive_small, send_message
from znb.transport.timers import Timer

__all__ = [
    "STOP_TIMEOUT",
    "Reactor",
    "ReactorStats",
    "Readable",
    "Timer",
    "bind_socket",
    "is_local",
    "prepare_socket",
    "receive_at_dealer",
    "receive_small",
    "send_message",
]
