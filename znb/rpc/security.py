"""Who may reach a service: this user's own processes over ipc, this machine over loopback, others by a key.

A service with keys has a CURVE key pair. Its address carries the public one (``tcp://host:4242#<64 hex digits>``), and
knowing it is the right to call: the traffic is encrypted, and nobody can pose as the service. No state, no thread.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import zmq
from zmq.utils import z85

from znb.errors import AuthError, ServiceUnavailable, ZnbError
from znb.rundir import check_private
from znb.transport import is_local

__all__ = [
    "Keys",
    "callable_url",
    "check_bind",
    "check_host",
    "check_url",
    "client_options",
    "load_keys",
    "make_keys",
    "server_options",
    "split_address",
]

#: What an address looks like.
URL_PATTERN = re.compile(r"(ipc|inproc)://.+|tcp://(\[[0-9A-Fa-f:.%\w]*\]|[^\s:/\[\]]+):(\d{1,5}|\*)")
#: The highest port of TCP.
PORT_MAX = 65_535
#: Hex digits of a public key in an address.
KEY_DIGITS = 64


class Keys(NamedTuple):
    """A CURVE key pair; the bytes of each key.

    Attributes:
        public: To hand out.
        secret: To keep.
    """

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"<Keys {self.public.hex()[:8]}…>"


def make_keys() -> Keys:
    """Return a new key pair.

    Raises:
        ZnbError: This libzmq was built without CURVE.
    """
    if not zmq.has("curve"):
        raise ZnbError("this libzmq was built without CURVE; install pyzmq from PyPI, whose wheels have it")
    public, secret = zmq.curve_keypair()
    return Keys(z85.decode(public), z85.decode(secret))


def load_keys(path: str | os.PathLike[str]) -> Keys:
    """Return the key pair in a file, which is made if it is missing.

    Raises:
        AuthError: Others can read the file, or it holds no keys.
    """
    path = Path(path)
    if not path.exists():
        keys = make_keys()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode({"public": keys.public.hex(), "secret": keys.secret.hex()}))
        return keys
    check_private(path, path.stat(), directory=False)
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        return Keys(bytes.fromhex(content["public"]), bytes.fromhex(content["secret"]))
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise AuthError(f"{path} holds no keys: {error}; remove it, and new ones are made", path=str(path)) from None


def split_address(address: str) -> tuple[str, bytes | None]:
    """Return the URL and the public key that an address is made of; ``None`` where it has none.

    Raises:
        AuthError: What stands for the key is none.
    """
    url, _, digits = address.partition("#")
    if not digits:
        return url, None
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if len(key) * 2 != KEY_DIGITS:
        raise AuthError(f"{url} is followed by '#' and {digits!r:.80}: expected the {KEY_DIGITS} hex digits of a key")
    return url, key


def check_url(url: str) -> str:
    """Return a URL if it is one that a socket can have; a key after it is not looked at.

    Raises:
        ValueError: It is none.

    Examples:
        >>> check_url("tcp://127.0.0.1:4242")
        'tcp://127.0.0.1:4242'
    """
    found = URL_PATTERN.fullmatch(url.partition("#")[0])
    if found:
        port = found[3]
        if port and port != "*" and int(port) > PORT_MAX:
            raise ValueError(f"expected a port from 0 to {PORT_MAX}, got {port} in {url!r:.200}")
        return url
    raise ValueError(f"expected an address such as tcp://127.0.0.1:4242 or ipc:///path/to/socket, got {url!r:.200}")


def check_host(url: str) -> None:
    """Raise ``ServiceUnavailable`` if an address has the name of a host that cannot be found."""
    scheme, _, rest = url.partition("://")
    if scheme == "tcp":
        name = rest.rpartition(":")[0].strip("[]")
        try:
            socket.getaddrinfo(name, None)
        except (socket.gaierror, UnicodeError) as error:
            raise ServiceUnavailable(url, f"there is no host {name!r} that could be found ({error})") from None


def callable_url(url: str, host: str) -> str:
    """Return the address at which a socket that listens everywhere is called; any other as it is.

    Args:
        url: Where it listens.
        host: What stands for its machine.

    Examples:
        >>> callable_url("tcp://0.0.0.0:4242", "far")
        'tcp://far:4242'
    """
    scheme, _, rest = url.partition("://")
    name, _, port = rest.rpartition(":")
    return f"{scheme}://{host}:{port}" if scheme == "tcp" and name in {"0.0.0.0", "*", "[::]"} else url  # noqa: S104


def check_bind(url: str, keys: Keys | None, *, insecure: bool) -> None:
    """Raise ``AuthError`` for a bind that others can reach, and that nothing protects."""
    check_url(url)
    if is_local(url) or keys is not None or insecure:
        return
    raise AuthError(
        f"{url} can be reached from other machines, and whoever reaches it could call everything that is exposed. "
        f"Give it keys (keys=True, or a file: keys='service.keys'), or say insecure=True if the network is trusted"
    )


def server_options(keys: Keys | None) -> Callable[[zmq.Socket[bytes]], object] | None:
    """Return what sets a service's socket to its keys."""
    if keys is None:
        return None

    def prepare(socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)

    return prepare


def client_options(server_key: bytes | None) -> Callable[[zmq.Socket[bytes]], object] | None:
    """Return what sets a caller's socket to the key of the service that it dials."""
    if server_key is None:
        return None
    own = make_keys()

    def prepare(socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)

    return prepare


def new_group() -> str:
    """Return a name that no other service's replicas have."""
    return secrets.token_hex(8)
