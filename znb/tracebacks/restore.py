"""Record → exception, in the process that shows it.

The exception has its own type where that can be loaded, its notes, its chain, and a ``__traceback__`` of made frames
that begins with a frame ``<worker>``, the hop. A note tells where it was raised; the same is in ``znb_origin``.
"""

from __future__ import annotations

from znb.errors import RemoteError
from znb.tracebacks.frames import make_traceback, place_of
from znb.tracebacks.record import ErrorRecord, Frame, Origin, Place, Raised, _passed_on
from znb.tracebacks.render import Renderer
from znb.tracebacks.sources import place_sources
from znb.tracebacks.values import Codec, rebuild

__all__ = ["detach", "restore", "set_origin"]


def restore(record: ErrorRecord, codec: Codec) -> BaseException:
    """Return the exception of a record, to be raised or shown here.

    Runs what unpickling runs and reads source files: call it on the thread that wants the exception.

    Returns:
        An exception of the type that was raised; ``RemoteError`` where that cannot be loaded here, for ``SystemExit``
        and for ``GeneratorExit``; ``Cancelled`` for ``KeyboardInterrupt`` and asyncio's ``CancelledError``.

    Raises:
        MissingDefinitions: The codec lacks some of ``record.definitions``: let it learn them, and call again.

    Example:
        >>> from znb.serialize import Codec
        >>> from znb.tracebacks import capture
        >>> record = capture(KeyError("x"), Codec(), worker="w0", host="nb", pid=7)
        >>> error = restore(record, Codec())
        >>> error, error.znb_origin.worker, error.__notes__
        (KeyError('x'), 'w0', ['raised on w0 (host nb, pid 7)'])
    """
    return _Restore(record, codec).exception()


def detach(exc: BaseException) -> BaseException:
    """Take the frames off that raising added here, and return the exception.

    To be used where one restored exception is raised more than once (``raise detach(error)``): each raise puts the
    frames it passes before those that are there.
    """
    entry = exc.__traceback__
    while entry is not None:
        if place_of(entry.tb_frame) is not None:
            return exc.with_traceback(entry)
        entry = entry.tb_next
    return exc


def set_origin(exc: BaseException, origin: Origin, *, note: bool = True) -> None:
    """Tell where an exception was raised; replaces what was told before."""
    before = exc.__dict__.get("znb_origin")
    notes = [n for n in getattr(exc, "__notes__", ()) if not isinstance(before, Origin) or n != before.note]
    if note:
        notes.append(origin.note)
    # Past the class's own __setattr__: frozen dataclasses have one that refuses.
    object.__setattr__(exc, "znb_origin", origin)
    if notes:
        object.__setattr__(exc, "__notes__", notes)


class _Restore:
    """Makes the exceptions of one record."""

    def __init__(self, record: ErrorRecord, codec: Codec) -> None:
        self._record = record
        self._codec = codec
        self._filenames = place_sources(record)
        self._made: dict[int, BaseException | None] = {}

    def exception(self) -> BaseException:
        exc = self._make(0) or RemoteError("unknown", "an error record without an exception")
        object.__setattr__(exc, "_render_traceback_", Renderer(exc))
        return exc

    def _make(self, index: int) -> BaseException | None:
        """Make the exception at a position; ``None`` for a position that is none or stands for a circle."""
        if not 0 <= index < len(self._record.raised):
            return None
        if index in self._made:
            return self._made[index]
        self._made[index] = None
        raised = self._record.raised[index]
        members = [member for member in map(self._make, raised.members) if member is not None]
        exc, lost = rebuild(raised, self._codec, members)
        self._rename(exc)
        self._dress(exc, index, raised, lost)
        # All of these past the class's own __setattr__, as in set_origin.
        for name, value in (
            ("__cause__", self._make(raised.cause)),
            ("__context__", self._make(raised.context)),
            ("__suppress_context__", raised.suppress_context),
        ):
            object.__setattr__(exc, name, value)
        self._made[index] = exc
        return exc

    def _dress(self, exc: BaseException, index: int, raised: Raised, lost: list[str]) -> None:
        place = self._record.place
        frames: tuple[Frame, ...] = raised.frames
        if index == 0:
            frames = (_hop(place), *frames)
        exc.with_traceback(make_traceback(frames, self._filenames, place))
        notes = [*raised.notes, *lost]
        exc.__dict__.pop("__notes__", None)
        if notes:
            object.__setattr__(exc, "__notes__", notes)
        # Those that the first is chained to were raised in the same place, unless they came from elsewhere.
        set_origin(exc, _passed_on(raised.origin, place), note=index == 0 or raised.origin is not None)

    def _rename(self, exc: BaseException) -> None:
        if isinstance(exc, SyntaxError) and isinstance(exc.filename, str):
            name = self._filenames.get(exc.filename, exc.filename)
            object.__setattr__(exc, "filename", name)


def _hop(place: Place) -> Frame:
    return Frame(f"<{place.name}>", 1, "remote", place=place)
