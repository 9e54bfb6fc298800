"""Shows the outputs of several workers in one place, in a notebook or a terminal.

``OutputView`` decides what is shown and when; a ``Sink`` (``znb.sinks``) shows it. One worker's output passes as it is.
With several, each line says whose it is, lines are never torn, and a line that several workers print within
``HOLD`` seconds of each other is shown once, with all their names:

    w0 │ loading part 0
    w1 │ loading part 1
    all │ ready

Lines that are not finished (progress bars, mostly) are *live*: shown apart, one for each worker, and replaced until
they are finished. A worker that clears its output has all of its output there from then on.

Invariants: each worker's outputs are shown in its order; a finished line is shown ``HOLD`` seconds after it came, or
earlier; what is held is bounded by ``HELD_LINES`` and ``TAIL_CHARS``; nothing is dropped, except by ``hurry``. The view
is pure: it reads no clock but the one given, has no thread, and belongs to the thread that asks.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from znb.outputs import Clear, Display, Output, Text
from znb.sinks import Sink, Stream, make_sink

__all__ = ["OutputView", "Sink", "make_sink"]

#: Seconds that a line waits for the same line of other workers. With the worker's own delay (30 ms) and the way here
#: a line is still shown within the 100 ms that API.md promises.
HOLD: Final = 0.06
#: Seconds after which a line that is not finished is shown as it is.
UNFINISHED: Final = 0.08
#: Seconds between two looks of the live lines: notebooks take 10 updates a second.
LIVE_EVERY: Final = 0.1
#: Lines that may wait; beyond it the oldest are shown though they are young.
HELD_LINES: Final = 10_000
#: Characters after which a line that does not end is cut.
TAIL_CHARS: Final = 65_536
#: Lines of a worker that clears its output that are shown while it runs.
BLOCK_LINES: Final = 20
#: Characters that are still shown after an interrupt.
HURRIED_CHARS: Final = 16_384

#: ANSI colours of the workers' names, in turn: all are readable on light and on dark ground.
COLORS: Final = (36, 35, 34, 32, 33, 31)

_STDERR: Final = "\0"
_DISPLAY: Final = "\1"
_CLEAR: Final = "\2"


class _Source:
    """One worker's side of the view."""

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.prefix = ""
        self.queue: collections.deque[_Item] = collections.deque()
        self.counts: dict[str, int] = {}
        self.tails: dict[Stream, str] = {"stdout": "", "stderr": ""}
        self.since = 0.0
        self.done = False
        self.cleared = False
        self.clear_next = False
        self.block: collections.deque[str] = collections.deque(maxlen=BLOCK_LINES)
        self.displays = self.places = 0


class _Item:
    """A finished line, or another output, that waits to be shown. Equal keys can be folded."""

    __slots__ = ("born", "key", "output", "shown", "source")

    def __init__(self, source: _Source, key: str, born: float, output: Display | Clear | None) -> None:
        self.source = source
        self.key = key
        self.born = born
        self.output = output
        self.shown = False


class OutputView:
    """Shows what workers emit.

    Args:
        workers: Their names, in order.
        sink: Where.
        clock: Seconds, monotonic.
        label: Whether to name the worker even if there is only one.
        scope: Tells the display ids of this cluster's workers from those of another's.
    """

    def __init__(
        self,
        workers: Iterable[str],
        sink: Sink,
        clock: Callable[[], float] = time.monotonic,
        *,
        label: bool = False,
        scope: str = "",
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._scope = scope
        self._sources = {name: _Source(name, index) for index, name in enumerate(workers)}
        self._plain = len(self._sources) == 1 and not label
        self._width = 0
        self._widen(max((len(name) for name in self._sources), default=0))
        self._order: collections.deque[_Item] = collections.deque()
        self._waiting: dict[str, list[_Source]] = {}
        self._out: list[str] = []
        self._out_stream: Stream = "stdout"
        self._live: list[str] = []
        self._live_at = -LIVE_EVERY
        self._hurried: collections.deque[tuple[Stream, str]] | None = None
        self._hurried_chars = self._left_out = 0
        self._any_done = self._any_cleared = self._closed = False

    # -- what the caller says ------------------------------------------------------------------------------

    def feed(self, worker: str, output: Output) -> None:
        """Take an output. May block, as the sink does; an interrupt of that goes on to ``hurry``."""
        try:
            self._feed(worker, output)
        except KeyboardInterrupt:
            self.hurry()
            raise

    def tick(self) -> float | None:
        """Show what is due; return the seconds until something else is, or ``None``."""
        now = self._clock()
        try:
            self._show_due(now)
        except KeyboardInterrupt:
            self.hurry()
            raise
        due = [self._order[0].born + HOLD] if self._order else []
        unfinished = (source.since + UNFINISHED for source in self._sources.values() if any(source.tails.values()))
        due.extend(when for when in unfinished if when > now)
        if self._live_lines(now) != self._live:
            due.append(self._live_at + LIVE_EVERY)
        return max(0.0, min(due) - now) if due and not self._plain else None

    def done(self, worker: str) -> None:
        """Take note that a worker emits no more."""
        source = self._sources.get(worker)
        if source is None or source.done:
            return
        now = self._clock()
        for stream, tail in source.tails.items():
            if tail:
                self._add_text(source, stream, "\n", now)
        self._end_block(source)
        source.done = self._any_done = True
        if all(source.done for source in self._sources.values()):
            self._show_oldest(now)
        else:  # others may have waited for this one
            for other in list(self._sources.values()):
                self._fold_at(other)
        self._show_due(now)

    def hurry(self) -> None:
        """Show no more than the last few lines of what is still to come, and those only at the end: never block."""
        if self._hurried is None:
            self._recover()
            self._hurried = collections.deque()
            for text in self._out:
                self._put(self._out_stream, text)
            self._out.clear()

    def close(self) -> None:
        """Show everything that is still held. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._hurried is not None:
            self._recover()
        for worker in self._sources:
            self.done(worker)
        hurried, self._hurried = self._hurried, None
        if hurried and self._left_out:
            self._put("stderr", f"[{self._left_out} lines left out after the interrupt]\n")
        for stream, text in hurried or ():
            self._put(stream, text)
        self._flush()
        if self._live:
            self._sink.live([])
        self._sink.notice("")

    # -- what waits ----------------------------------------------------------------------------------------

    def _feed(self, worker: str, output: Output) -> None:
        source = self._sources.get(worker)
        if source is None:
            source = self._sources[worker] = _Source(worker, len(self._sources))
            self._plain = False
            self._width -= 1  # so that its prefix is made
            self._widen(max(self._width + 1, len(worker)))
        if self._plain:
            self._pass_on(source, output)
            return
        now = self._clock()
        if isinstance(output, Text):
            self._add_text(source, output.stream, output.text, now)
        elif isinstance(output, Display):
            self._add(source, _display_key(output), now, output)
        else:
            self._add(source, _CLEAR, now, output)
        self._show_due(now)

    def _add_text(self, source: _Source, stream: Stream, text: str, now: float) -> None:
        tail = source.tails[stream]
        lines = (tail + text).split("\n")
        rest = lines.pop()
        if len(rest) > TAIL_CHARS:
            lines.append(rest)
            rest = ""
        if "\r" in tail or "\r" in text:
            lines = [_seen(line) for line in lines]
            rest = _carriage(rest) if "\r" in rest else rest
        for line in lines:
            self._add(source, _STDERR + line if stream == "stderr" else line, now, None)
        if rest and (lines or not tail):
            source.since = now
        source.tails[stream] = rest

    def _add(self, source: _Source, key: str, now: float, output: Display | Clear | None) -> None:
        item = _Item(source, key, now, output)
        self._order.append(item)  # first: ``_recover`` finds in it what is not in the others
        source.queue.append(item)
        count = source.counts.get(key, 0)
        source.counts[key] = count + 1
        if not count:
            sources = self._waiting.get(key)
            if sources is None:
                self._waiting[key] = [source]
            else:
                sources.append(source)
        if len(source.queue) == 1 and len(self._waiting[key]) >= self._expected():
            self._fold_at(source)

    def _recover(self) -> None:
        """Make the tables agree again, after an interrupt has hit while one was changed."""
        self._order = collections.deque(item for item in self._order if not item.shown)
        self._waiting.clear()
        for source in self._sources.values():
            source.queue = collections.deque(item for item in self._order if item.source is source)
            source.counts = dict(collections.Counter(item.key for item in source.queue))
            for key in source.counts:
                self._waiting.setdefault(key, []).append(source)

    def _expected(self) -> int:
        """Return how many workers may still have something to show."""
        if not self._any_done:
            return len(self._sources)
        return sum(1 for source in self._sources.values() if source.queue or not source.done)

    def _fold_at(self, source: _Source) -> None:
        """Show what all that may still say something have in front, for as long as that holds."""
        while source.queue:
            key = source.queue[0].key
            sources = self._waiting[key]
            if len(sources) < self._expected() or any(other.queue[0].key != key for other in sources):
                return
            self._show(sorted((other.queue[0] for other in sources), key=_by_index))

    def _show_due(self, now: float) -> None:
        self._show_oldest(now - HOLD)
        if not self._plain and now >= self._live_at + LIVE_EVERY:
            lines = self._live_lines(now)
            if lines != self._live:
                self._flush()
                self._live, self._live_at = lines, now
                if self._hurried is None:
                    self._sink.live(lines)
        self._flush()

    def _show_oldest(self, born_until: float) -> None:
        """Show what came until then, and what is too much to be held."""
        order = self._order
        while order:
            item = order[0]
            if not item.shown:
                if item.born > born_until and len(order) <= HELD_LINES:
                    return
                self._show([item] if len(self._waiting[item.key]) == 1 else self._fold(item))
                self._fold_at(item.source)
            order.popleft()

    def _fold(self, item: _Item) -> list[_Item]:
        """Return the item and what equals it in other workers' queues, after showing what is in front of those."""
        key = item.key
        group = [item]
        if not key.strip():  # blank lines are no reason to show others early
            return group
        for other in list(self._waiting[key]):
            if other is not item.source:
                while other.queue[0].key != key:
                    self._show([other.queue[0]])
                group.append(other.queue[0])
        return sorted(group, key=_by_index)

    # -- what is shown -------------------------------------------------------------------------------------

    def _show(self, items: list[_Item]) -> None:
        """Show equal items, each the first of its worker's queue."""
        first = items[0]
        key, output = first.key, first.output
        for item in items:
            source = item.source
            item.shown = True
            source.queue.popleft()
            count = source.counts[key] - 1
            if count:
                source.counts[key] = count
                continue
            del source.counts[key]
            sources = self._waiting[key]
            if len(sources) == 1:
                del self._waiting[key]
            else:
                sources.remove(source)
        if isinstance(output, Clear):
            self._clear(items, output)
            return
        if self._any_cleared:
            for item in items:
                if item.source.cleared:
                    self._show_in_block(item.source, key, output)
            items = [item for item in items if not item.source.cleared]
            if not items:
                return
        prefix = items[0].source.prefix if len(items) == 1 else self._fold_prefix([i.source for i in items])
        if isinstance(output, Display):
            self._display(items[0].source, output, "" if output.update else prefix)
        elif key[:1] == _STDERR:
            self._put("stderr", f"{prefix}{key[1:]}\n")
        else:
            self._put("stdout", f"{prefix}{key}\n")

    def _put(self, stream: Stream, text: str) -> None:
        if self._hurried is not None:
            self._hurried.append((stream, text))
            self._hurried_chars += len(text)
            while self._hurried_chars > HURRIED_CHARS:
                _, dropped = self._hurried.popleft()
                self._hurried_chars -= len(dropped)
                self._left_out += dropped.count("\n")
            return
        if stream != self._out_stream:
            self._flush()
            self._out_stream = stream
        self._out.append(text)

    def _flush(self) -> None:
        if self._out and self._hurried is None:
            text = "".join(self._out)
            self._out.clear()
            self._sink.write(self._out_stream, text)

    def _pass_on(self, source: _Source, output: Output) -> None:
        """Show one worker's output as it is."""
        if isinstance(output, Text):
            if self._hurried is None:
                self._sink.write(output.stream, output.text)
            else:
                self._put(output.stream, output.text)
        elif isinstance(output, Display):
            self._display(source, output, "")
        elif self._hurried is None:
            self._sink.clear(wait=output.wait)

    def _display(self, source: _Source, output: Display, prefix: str, display_id: str | None = None) -> None:
        if self._hurried is not None:
            self._left_out += 1
            return
        if prefix:
            self._put("stdout", prefix.rstrip() + "\n")
        self._flush()
        if output.display_id is not None:
            display_id = f"znb{self._scope}-{source.name}-{output.display_id}"
        self._sink.display(output.data, output.metadata, display_id, update=output.update)

    # -- live lines and cleared outputs --------------------------------------------------------------------

    def _live_lines(self, now: float) -> list[str]:
        lines: list[str] = []
        for source in self._sources.values():
            lines.extend(source.prefix + line for line in source.block)
            tails = [tail for tail in source.tails.values() if tail]
            if tails and source.since + UNFINISHED <= now:
                lines.extend(source.prefix + _seen(tail) for tail in tails)
        return lines

    def _clear(self, items: list[_Item], output: Clear) -> None:
        if len(items) == len(self._sources) and not any(item.source.cleared for item in items):
            self._flush()
            if self._hurried is None:
                self._sink.clear(wait=output.wait)
            return
        for item in items:  # the others' output must stay, so this one's moves to the live lines
            item.source.cleared = self._any_cleared = True
            item.source.clear_next = True
            if not output.wait:
                self._begin_block(item.source)

    def _begin_block(self, source: _Source) -> None:
        source.block.clear()
        source.displays = 0
        source.clear_next = False

    def _show_in_block(self, source: _Source, key: str, output: Display | None) -> None:
        if source.clear_next:
            self._begin_block(source)
        if output is None:
            source.block.append(key.removeprefix(_STDERR))
        elif output.display_id is not None:
            self._display(source, output, "")
        else:  # the next one in its place after the next clear
            place = f"znb{self._scope}-{source.name}-{id(self)}-{source.displays}"
            source.displays += 1
            update = source.displays <= source.places
            source.places = max(source.places, source.displays)
            shown = Display(output.data, output.metadata, None, update)
            self._display(source, shown, "" if update else source.prefix, place)

    def _end_block(self, source: _Source) -> None:
        """Make ordinary lines of what a worker that cleared its output has shown last."""
        while source.cleared and source.queue:
            self._show([source.queue[0]])
        for line in source.block:
            self._put("stdout", f"{source.prefix}{line}\n")
        source.block.clear()

    # -- labels --------------------------------------------------------------------------------------------

    def _widen(self, width: int) -> None:
        """Make room for longer labels in all lines from now on."""
        if width > self._width:
            self._width = width
            for source in self._sources.values():
                source.prefix = self._prefix(source.name, COLORS[source.index % len(COLORS)])

    def _prefix(self, label: str, color: int = 1) -> str:
        padded = label.ljust(self._width)
        return f"\x1b[{color}m{padded}\x1b[0m │ " if self._sink.color else f"{padded} │ "

    def _fold_prefix(self, sources: list[_Source]) -> str:
        label = "all" if len(sources) == len(self._sources) else _ranges(sources)
        self._widen(len(label))
        return self._prefix(label)


def _by_index(item: _Item) -> int:
    return item.source.index


def _ranges(sources: list[_Source]) -> str:
    """Name workers, runs of three and more by their ends: ``w0,w2``."""
    parts = []
    for _, run in itertools.groupby(enumerate(sources), lambda pair: pair[1].index - pair[0]):
        names = [source.name for _, source in run]
        parts.append(f"{names[0]}\N{EN DASH}{names[-1]}" if len(names) > 2 else ",".join(names))
    return ",".join(parts)


def _display_key(output: Display) -> str:
    """Return what equal displays have in common; those that can be updated equal none."""
    if output.display_id is not None:
        return f"{_DISPLAY}{id(output)}"
    content = msgspec.msgpack.encode((output.data, output.metadata))
    return _DISPLAY + hashlib.blake2b(content, digest_size=16).hexdigest()


def _carriage(text: str) -> str:
    """Return what a terminal shows of a line, then the carriage return and what was written after the last one."""
    *parts, last = text.split("\r")
    return f"{_overlay(parts)}\r{last}"


def _overlay(parts: list[str]) -> str:
    screen = ""
    for part in parts:
        screen = part + screen[len(part) :]
    return screen


def _seen(text: str) -> str:
    """Return what a terminal shows of a line with carriage returns."""
    return _overlay(text.split("\r")) if "\r" in text else text
