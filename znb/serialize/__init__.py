"""Objects to buffers and back: what every message that crosses a process carries.

Plain data and everything importable go through the C pickler at protocol 5 as they are. Functions and classes that
peers cannot import (a notebook's) are *definitions*: named by a digest, sent apart from the payload, loaded once per
process, so that ``isinstance`` holds on both sides and across separate calls.

::

    codec.py      Codec: encode, decode, definition, learn, knows
    records.py    Payload, Definition, Entry, MissingDefinitions; the prefix that names a body's definitions
    names.py      what peers can import, and so goes by reference
    pickling.py   the picklers' common part: out-of-band buffers and bytes, by-name traps
    reducers.py   builtin types that the C pickler cannot carry; dill for the rarest of them
    revive.py     what pickles call at load time to make those again
    codes.py      code objects: the globals they reach, their bytes, their source text
    watch.py      has anything that a definition was made of changed since
    writing.py    function or class -> definition
    classes.py    what of a class travels, and how it is made again
    structs.py    the same for msgspec.Struct
    stream.py     names that a definition's pickle uses for its loader
    loading.py    definitions -> functions and classes
    store.py      definitions by key, bounded in bytes
    diagnose.py   why an object cannot travel, and where in it the culprit sits
"""

from znb.serialize.codec import Codec, CodecStats
from znb.serialize.records import MissingDefinitions, Payload

__all__ = ["Codec", "CodecStats", "MissingDefinitions", "Payload"]
