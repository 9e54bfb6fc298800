"""The keys of one cluster: CURVE key pairs, made at its start and held by nobody but its own processes.

============= ============================================== ===========================================
record         holds                                          who has it
============= ============================================== ===========================================
``ClientKeys`` the workers' public key, the clients' pair     the connection file, and who may read it
``WorkerKeys`` the workers' pair, the clients' public key     workers; it comes over the launcher's channel
============= ============================================== ===========================================

A worker takes connections of peers that prove the clients' key or the workers', and of no others; a client talks only
to workers that prove the workers' key. Invariants: keys are never in a command line, an environment or a ``repr``. No
state, no thread. Source: the ZeroMQ RFCs 26 (CurveZMQ) and 27 (ZAP).
"""

from __future__ import annotations

import msgspec
import zmq

from znb.errors import ZnbError

__all__ = ["ClientKeys", "WorkerKeys", "make_cluster_keys", "renew"]


class ClientKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What a client of a cluster needs; each key is 40 characters of Z85.

    Attributes:
        server: Public key of the workers.
        public: Public key of the clients.
        secret: Secret key of the clients.
    """

    server: str
    public: str
    secret: str

    def __repr__(self) -> str:
        return f"<ClientKeys of {self.server[:6]}…>"


class WorkerKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker of a cluster needs; each key is 40 characters of Z85.

    Attributes:
        secret: Secret key of the workers.
        client: Public key of the clients, the only peers that are let in.
    """

    secret: str
    client: str

    def __repr__(self) -> str:
        return f"<WorkerKeys for {self.client[:6]}…>"


def make_cluster_keys() -> tuple[ClientKeys, WorkerKeys]:
    """Return new keys for a cluster.

    Raises:
        ZnbError: This libzmq was built without CURVE.
    """
    if not zmq.has("curve"):
        raise ZnbError("this libzmq was built without CURVE; install pyzmq from PyPI, whose wheels have it")
    server, server_secret = (key.decode() for key in zmq.curve_keypair())
    public, secret = (key.decode() for key in zmq.curve_keypair())
    return ClientKeys(server=server, public=public, secret=secret), WorkerKeys(secret=server_secret, client=public)


def renew(keys: ClientKeys) -> ClientKeys:
    """Return the keys of a cluster's clients with a new pair of theirs; its workers prove the same as before."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    return ClientKeys(server=keys.server, public=public, secret=secret)
