"""Calls over ROUTER/DEALER: zerorpc v3 channels with credit flow control (see ``znb.wire`` for the bytes)."""

from znb.rpc.client import Call, Connection, Lost, Reply
from znb.rpc.request import GateClosed, Request
from znb.rpc.server import Server

__all__ = ["Call", "Connection", "GateClosed", "Lost", "Reply", "Request", "Server"]
