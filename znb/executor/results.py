"""Results of jobs over a connection that the client dialled: for workers that cannot dial the client's sink.

On one machine a worker dials its client's sink. Between machines that is often not to be had: notebooks sit behind
firewalls. There the client makes a streaming call, ``_znb_results``, over the connection that it has for calls, and the
worker's messages are the items of that stream. The first item is empty, and says that the stream stands: only then does
the client send its ``Hello``.

Invariants: as for a sink, messages arrive in the order sent. The credit of streams is not used, because results have
their own (``Hello.credit``). Any thread may send; the I/O thread opens and closes.
"""

from __future__ import annotations

from typing import Any

from znb.rpc import Request

__all__ = ["RESULTS", "ResultsStream"]

#: The method's name.
RESULTS = "_znb_results"


class ResultsStream:
    """What a worker has in place of the socket to a client's sink; has the methods of one.

    Args:
        request: The client's call.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.closed = False
        request.lasting = True
        request.post_item(b"")

    def send_multipart(self, parts: list[Any], *, copy: bool = True) -> None:  # noqa: ARG002 - a socket's signature
        """Send a message."""
        if not self._request.closed:
            self._request.post_item(bytes(parts[0]), parts[1:])

    def close(self) -> None:
        """End the stream. May be called twice."""
        if not self.closed:
            self.closed = True
            self._request.end()
