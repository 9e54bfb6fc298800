"""speedscope's own format: spans as evented profiles, samples as sampled ones, in one file.

Its own and not Chrome's, because speedscope tells frames of a Chrome trace apart by their arguments too, so ids would
ruin its left-heavy view. Source: ``file-format-schema.json`` of the npm package speedscope (1.25); its importer wants
events of a profile by time, and properly nested. What its format has no place for (ids, attributes) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from znb.export.lanes import Lane, lanes
from znb.spans.samples import SampleTable
from znb.traces.model import TraceData

__all__ = ["write_speedscope"]

SCHEMA = "https://www.speedscope.app/file-format-schema.json"
#: Stands below the code where a thread waited.
WAITING = "(waiting)"

_encode = msgspec.json.encode


class _Frames:
    """The frames that all profiles of a file share."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self._numbers: dict[tuple[str, str, int], int] = {}

    def number(self, name: str, file: str = "", line: int = 0) -> int:
        """Return a frame's number, adding it if it is new."""
        key = (name, file, line)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.texts)
            frame = {"name": name, "file": file, "line": line} if file else {"name": name}
            self.texts.append(_encode(frame))
        return number


def write_speedscope(data: TraceData, title: str) -> Iterator[bytes]:
    """Yield the file, piece by piece."""
    frames = _Frames()
    profiles = [_evented(data, lane, frames) for lane in lanes(data)]
    profiles += _sampled(data.samples, frames)
    yield b'{"$schema":' + _encode(SCHEMA) + b',"exporter":"znb","name":' + _encode(title)
    yield b',"activeProfileIndex":0,"shared":{"frames":[' + b",".join(frames.texts) + b']},"profiles":['
    for number, profile in enumerate(profiles):
        yield b"," + profile if number else profile
    yield b"]}"


def _evented(data: TraceData, lane: Lane, frames: _Frames) -> bytes:
    """Return one lane as a profile."""
    table, base, finish = data.table, data.start_ns, data.end_ns
    numbers = {}
    for name in {table.name[row] for row in lane.rows}:
        frame = frames.number(table.strings[name])
        numbers[name] = (f'{{"type":"O","frame":{frame},"at":', f'{{"type":"C","frame":{frame},"at":')
    starts, ends, names = table.start_ns, table.end_ns, table.name
    events: list[str] = []
    stack: list[tuple[int, str]] = []
    for row in lane.rows:
        start, end = starts[row], ends[row] or finish
        while stack and stack[-1][0] <= start:
            ended, text = stack.pop()
            events.append(f"{text}{ended - base}}}")
        opening, closing = numbers[names[row]]
        events.append(f"{opening}{start - base}}}")
        stack.append((end, closing))
    events += [f"{text}{ended - base}}}" for ended, text in reversed(stack)]
    process = table.processes[lane.process]
    _, _, thread = table.threads[lane.thread]
    title = f"{process.label} {thread} ({process.host})" + (f" #{lane.nth + 1}" if lane.nth else "")
    head = {"type": "evented", "name": title, "unit": "nanoseconds", "startValue": 0, "endValue": finish - base}
    return _encode(head)[:-1] + b',"events":[' + ",".join(events).encode() + b"]}"


def _sampled(samples: SampleTable, frames: _Frames) -> Iterator[bytes]:
    """Yield the samples of each thread as a profile."""
    waiting = frames.number(WAITING) if len(samples) else 0
    stacks: list[list[int]] = []
    for parent, frame in zip(samples.stack_parent, samples.stack_frame, strict=True):
        line = samples.frames[frame]
        number = frames.number(line.name, line.file, line.first_line)
        stacks.append([*(stacks[parent] if parent >= 0 else ()), number])
    by_thread: dict[int, list[int]] = {}
    for row, thread in enumerate(samples.thread):
        by_thread.setdefault(thread, []).append(row)
    for thread, rows in sorted(by_thread.items()):
        rows.sort(key=samples.time_ns.__getitem__)
        seen: list[list[int]] = []
        weights: list[int] = []
        for row in rows:
            stack, cpu = stacks[samples.stack[row]], samples.cpu_ns[row]
            if cpu:
                seen.append(stack)
                weights.append(cpu)
            if samples.wall_ns[row] > cpu:
                seen.append([*stack, waiting])
                weights.append(samples.wall_ns[row] - cpu)
        number, _, name = samples.threads[thread]
        process = samples.processes[number]
        yield _encode({
            "type": "sampled",
            "name": f"samples of {process.label} {name} ({process.host})",
            "unit": "nanoseconds",
            "startValue": 0,
            "endValue": sum(weights),
            "samples": seen,
            "weights": weights,
        })  # fmt: skip
