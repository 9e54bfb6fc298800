"""What a kernel sends to the pages of widgets, for tests that stand for the page.

need_bundle("panel")                       # at the head of a test file: without the front end it is skipped
wait_for(kernel, lambda: sent(kernel, "look"))
say(kernel, "panel", type="view", view="a", visible=True)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from znb.widgets.bundles import BundleMissing, read_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernels import Kernel

#: Seconds that anything may take; generous, for busy machines.
PATIENCE = 30.0


class Custom(NamedTuple):
    """A message to the pages of a widget."""

    comm: str
    content: dict[str, Any]
    buffers: list[Any]


def need_bundle(name: str) -> None:
    """Skip the file if the front end of a widget has not been built."""
    try:
        read_bundle(f"{name}.js")
    except BundleMissing as missing:
        pytest.skip(str(missing), allow_module_level=True)


def customs(kernel: Kernel) -> list[Custom]:
    """Return what has been sent to pages, in order."""
    found = []
    for message in list(kernel.messages):
        data = message.content.get("data") if message.kind == "comm_msg" else None
        if isinstance(data, dict) and data.get("method") == "custom":
            found.append(Custom(message.content["comm_id"], data["content"], message.buffers))
    return found


def sent(kernel: Kernel, kind: str) -> list[dict[str, Any]]:
    """Return what has been sent to pages of one type, in order."""
    return [custom.content for custom in customs(kernel) if custom.content.get("type") == kind]


def states(kernel: Kernel) -> list[dict[str, Any]]:
    """Return the changes of widgets' states, in order."""
    found = [message.content["data"] for message in list(kernel.messages) if message.kind == "comm_msg"]
    return [data["state"] for data in found if data["method"] == "update"]


def say(kernel: Kernel, widget: str, **content: Any) -> None:
    """Say something to a widget as its page does; ``widget`` is an expression in the kernel."""
    kernel.run(f"{widget}._handle_custom_msg({content!r}, [])").ok()


def wait_for(kernel: Kernel, condition: Callable[[], object]) -> None:
    """Wait until something is so, while the kernel goes on."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, kernel.log
        kernel.run("")
