"""Frames on the wire: bytes that zerorpc writes are read, and no bytes raise anything but ProtocolError."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from znb import wire
from znb.errors import ProtocolError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), PLAIN), st.text(), PLAIN)
def test_what_is_encoded_is_decoded(headers, name, args):
    event = wire.decode_event(wire.encode_event(dict(headers), name, args), [b"buffer"])
    assert event == wire.Event({"v": 3, **headers}, name, args, [b"buffer"])


def test_bytes_of_zerorpc_are_read():
    # msgpack.Packer(use_bin_type=True).pack([{"message_id": b"0001", "v": 3}, "add", [1, 2]])
    blob = bytes.fromhex("9382aa6d6573736167655f6964c40430303031a17603a3616464920102")
    event = wire.decode_event(blob, [])
    assert (event.headers, event.name, event.args) == ({"message_id": b"0001", "v": 3}, "add", [1, 2])
    assert wire.encode_event({"message_id": b"0001", "v": 3}, "add", [1, 2]) == blob


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_protocol_error(blob):
    try:
        event = wire.decode_event(blob, [])
    except ProtocolError:
        return
    assert isinstance(event.headers, dict)
    assert isinstance(event.name, str)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 59), st.dictionaries(st.text(), PLAIN), PLAIN)
def test_damaged_events_are_events_or_protocol_errors(noise, position, headers, args):
    blob = bytearray(wire.encode_event(dict(headers), "name", args))
    blob[position : position + len(noise)] = noise
    try:
        event = wire.decode_event(bytes(blob), [])
        wire.channel_of(event)
        wire.id_of(event)
        wire.check_reply(event)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\x93\x80\xa1a\xdd\xff\xff\xff\xff",
        b"\x93\x80\xa1a" + b"\x91" * 100_000,
        b"\x93\x80\xa1a\xa1\xff",  # text that is not UTF-8
        b"\x93\x80\xa1a\x81\x80\x01",  # a key that cannot be hashed
        b"\x92\x80\xa1a",
        b"\x93\x90\xa1a\x90",
        b"\x93\x80\x01\x90",
        b"\x93\x81\x01\x01\xa1a\x90",
    ],
)
def test_what_is_no_event_is_a_protocol_error(blob):
    with pytest.raises(ProtocolError, match="expected msgpack"):
        wire.decode_event(blob, [])


@pytest.mark.parametrize("value", [[], {}, 1.5, None])
def test_ids_must_be_ids(value):
    event = wire.Event({"message_id": value, "response_to": value}, "m", [], [])
    with pytest.raises(ProtocolError, match="message_id"):
        wire.id_of(event)
    if value is None:
        assert wire.channel_of(event) is None
        return
    with pytest.raises(ProtocolError, match="response_to"):
        wire.channel_of(event)


@pytest.mark.parametrize(("name", "args"), [("OK", []), ("OK", 1), ("OK", [1, 2]), ("ERR", []), ("ERR", None)])
def test_replies_must_hold_what_their_name_says(name, args):
    with pytest.raises(ProtocolError, match=name):
        wire.check_reply(wire.Event({}, name, args, []))


def test_what_msgpack_cannot_carry_is_a_type_error():
    with pytest.raises(TypeError):
        wire.encode_event({}, "m", [object()])


def test_message_ids_of_two_sockets_differ():
    assert next(wire.message_ids()) != next(wire.message_ids())
    ids = wire.message_ids()
    assert next(ids) + 1 == next(ids)
    assert msgspec.msgpack.encode(next(ids))
