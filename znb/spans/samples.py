"""Samples as columns: what threads and coroutines were doing inside a span, and for how long.

=============== ======= ==========================================================================
column           type    content
=============== ======= ==========================================================================
span_id          uint64  the span that was active
time_ns          int64   when the sample was taken, on the process's clock until ``shift`` makes it Unix time
wall_ns          uint32  the time that it stands for
cpu_ns           uint32  how much of that its thread was running; the rest it was waiting
thread           uint32  index into ``threads``
stack            uint32  index into the stacks
=============== ======= ==========================================================================

Stacks are a tree: ``stack_parent`` (-1: none) and ``stack_frame`` (index into ``frames``), a node for each line that
was seen below the same lines. Invariants and byte order: as ``table``.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final

import msgspec

from znb.spans.table import Process

__all__ = ["Frame", "SamplePart", "SampleTable"]

#: Columns and their ``array`` type codes.
_COLUMNS: Final = {"span_id": "Q", "time_ns": "q", "wall_ns": "I", "cpu_ns": "I", "thread": "I", "stack": "I"}


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A line of code.

    Attributes:
        name: The function's qualified name.
        file: Its file, as the code object has it.
        line: The line that ran.
        first_line: The function's first line.
        origin: ``"user"``, ``"library"`` or ``"znb"``; the latter two may be folded away.
    """

    name: str
    file: str
    line: int
    first_line: int
    origin: str


class SampleTable:
    """Samples of one trace as columns, from one process or many.

    Attributes:
        frames: Lines of code.
        threads: Where samples were taken: index of the process, the thread's id and its name.
        processes: Where the threads are.
    """

    __slots__ = (*_COLUMNS, "_frames", "_nodes", "frames", "processes", "stack_frame", "stack_parent", "threads")

    span_id: array[int]
    time_ns: array[int]
    wall_ns: array[int]
    cpu_ns: array[int]
    thread: array[int]
    stack: array[int]

    def __init__(self) -> None:
        for column, code in _COLUMNS.items():
            setattr(self, column, array(code))
        self.stack_parent = array("i")
        self.stack_frame = array("I")
        self.frames: list[Frame] = []
        self.threads: list[tuple[int, int, str]] = []
        self.processes: list[Process] = []
        self._frames: dict[Frame, int] = {}
        self._nodes: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.span_id)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, nearly."""
        return 32 * len(self) + 170 * len(self.stack_parent) + 400 * len(self.frames) + 1024

    def check(self) -> None:
        """Raise ``ValueError`` if indexes of a table that came from elsewhere lead nowhere."""
        limits = {"thread": len(self.threads), "stack": len(self.stack_parent), "stack_frame": len(self.frames)}
        for column, limit in limits.items():
            values = getattr(self, column)
            if values and max(values) >= limit:
                raise ValueError(f"expected samples' {column} below {limit}, got {max(values)}")

    def stack_of(self, node: int) -> list[Frame]:
        """Return the lines of a stack, outermost first."""
        found: list[Frame] = []
        while node >= 0:
            found.append(self.frames[self.stack_frame[node]])
            node = self.stack_parent[node]
        return found[::-1]

    def node(self, parent: int, frame: Frame) -> int:
        """Return the node of a line below a node (-1: below none), making it if there is none."""
        number = self._frames.get(frame)
        if number is None:
            number = self._frames[frame] = len(self.frames)
            self.frames.append(frame)
        key = (parent, number)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = len(self.stack_parent)
            self.stack_parent.append(parent)
            self.stack_frame.append(number)
        return node

    def place(self, process: Process, ident: int, name: str) -> int:
        """Return the index of a thread, adding it if it is new."""
        if process not in self.processes:
            self.processes.append(process)
        thread = (self.processes.index(process), ident, name)
        if thread not in self.threads:
            self.threads.append(thread)
        return self.threads.index(thread)

    def add(self, span_id: int, time_ns: int, wall_ns: int, cpu_ns: int, thread: int, stack: int) -> None:
        """Append one sample."""
        self.span_id.append(span_id)
        self.time_ns.append(time_ns)
        self.wall_ns.append(wall_ns)
        self.cpu_ns.append(cpu_ns)
        self.thread.append(thread)
        self.stack.append(stack)


class SamplePart(msgspec.Struct, frozen=True, array_like=True):
    """What one process has sampled of one trace since the last time, as it travels.

    Attributes:
        trace_id: 16 bytes, big-endian.
        columns: As in the module's table; ``stack`` indexes the nodes below.
        threads: Idents and names.
        stack_parent: int32; the nodes that the samples need, parents first.
        stack_frame: uint32.
    """

    trace_id: bytes
    columns: list[bytes]
    threads: list[tuple[int, str]]
    stack_parent: bytes
    stack_frame: bytes
    frames: list[Frame]

    def add_to(self, table: SampleTable, process: Process) -> int:
        """Append the samples to a table; return how many.

        Raises:
            ValueError: The columns are not those of a table.
        """
        columns = [_array(code, data) for code, data in zip(_COLUMNS.values(), self.columns, strict=True)]
        parents, numbers = _array("i", self.stack_parent), _array("I", self.stack_frame)
        if len({len(column) for column in columns}) != 1 or len(parents) != len(numbers):
            raise ValueError("expected columns of one length")
        if any(not -1 <= parent < row for row, parent in enumerate(parents)):
            raise ValueError("expected stacks whose parents come first")
        nodes: list[int] = []
        try:
            for parent, number in zip(parents, numbers, strict=True):
                nodes.append(table.node(nodes[parent] if parent >= 0 else -1, self.frames[number]))
            threads = [table.place(process, ident, name) for ident, name in self.threads]
            table.thread.extend([threads[number] for number in columns[4]])
            table.stack.extend([nodes[number] for number in columns[5]])
        except IndexError as error:
            raise ValueError(f"expected samples whose indexes lead somewhere: {error}") from error
        table.span_id.extend(columns[0])
        table.time_ns.extend(columns[1])
        table.wall_ns.extend(columns[2])
        table.cpu_ns.extend(columns[3])
        return len(columns[0])


def _array(code: str, data: bytes) -> array[int]:
    values: array[int] = array(code)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
