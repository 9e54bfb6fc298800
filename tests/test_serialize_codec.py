"""Payloads and the exchange of definitions between codecs."""

import os
import pickle
import sys

import pytest

from serialize_peer import Peer, ship
from znb.errors import SerializationError
from znb.serialize import Codec, MissingDefinitions

pytest_plugins = ("serialize_fixtures",)


def test_a_definition_is_shipped_once(notebook, peer):
    notebook.cell("def f(x): return x + 1")
    assert [peer.call(notebook.f, 1), peer.call(notebook.f, 2)] == [2, 3]
    assert len(peer.shipped) == 1


def test_plain_payloads_need_no_definitions(codec):
    payload = codec.encode(("a", [1, 2.0], {"k": None}, len, os.path.join))
    assert payload.definitions == ()
    assert payload.buffers == ()
    assert codec.decode(payload.body) == ("a", [1, 2.0], {"k": None}, len, os.path.join)


def test_missing_definitions_are_named_before_anything_runs(notebook, codec):
    notebook.cell("ran = []\nclass A: pass\ndef f(a): return a")
    payload = codec.encode((notebook.f, notebook.A()))
    other = Codec()
    with pytest.raises(MissingDefinitions) as caught:
        other.decode(payload.body, payload.buffers)
    assert set(caught.value.keys) == set(payload.definitions)
    assert "2 definitions not held here" in str(caught.value)


def test_a_peer_that_dropped_a_definition_asks_again(notebook, codec):
    peer = Peer(codec, learned_bytes=30_000)
    try:
        notebook.cell("def make(n):\n    def f(): return n\n    return f")
        functions = [notebook.make(str(n)) for n in range(20)]
        assert [peer.call(each) for each in functions] == [str(n) for n in range(20)]
        assert peer.call(functions[0]) == "0"
        assert len(peer.shipped) > 20
    finally:
        peer.close()


def test_the_store_is_bounded_in_bytes(notebook, codec):
    receiver = Codec(learned_bytes=100_000)
    notebook.cell("def make(n):\n    def f(): return n\n    return f")
    for n in range(100):
        assert ship(codec, receiver, notebook.make(n))() == n
    stats = receiver.stats()
    assert 5 < stats.learned < 30
    assert stats.learned_bytes <= 100_000


def test_the_store_is_bounded_in_number(notebook, codec, monkeypatch):
    monkeypatch.setattr("znb.serialize.codec.LEARNED", 10)
    receiver = Codec()
    notebook.cell("def make(n):\n    def f(): return n\n    return f\nfs = [make(n) for n in range(30)]")
    for n in range(100):
        assert ship(codec, receiver, notebook.make(n))() == n
    assert receiver.stats().learned <= 11
    assert [f() for f in ship(codec, receiver, notebook.fs)] == list(range(30)), "more in one message than are held"


def test_what_nobody_needed_yet_is_bounded_too(notebook, codec):
    receiver = Codec(learned_bytes=100_000)
    notebook.cell("def make(n):\n    def f(): return n\n    return f")
    for n in range(100):
        payload = codec.encode(notebook.make(n))
        receiver.learn(payload.definitions[0], codec.definition(payload.definitions[0]))
    assert 100_000 < receiver.stats().learned_bytes <= 200_000


def test_a_message_that_needs_more_than_the_bound_can_be_read(notebook, codec):
    receiver = Codec(learned_bytes=20_000)
    notebook.cell("def make(n):\n    def f(): return n\n    return f\nfs = [make(n) for n in range(6)]")
    assert [f() for f in ship(codec, receiver, notebook.fs)] == list(range(6))


def test_a_definition_larger_than_the_bound_is_still_held(notebook, codec):
    receiver = Codec(learned_bytes=1)
    notebook.cell("def f(): return 1")
    (key,) = codec.encode(notebook.f).definitions
    receiver.learn(key, codec.definition(key))
    assert receiver.knows(key)


def test_learning_does_not_load(notebook, codec):
    receiver = Codec()
    notebook.cell("class A: pass")
    (key,) = codec.encode(notebook.A).definitions
    receiver.learn(key, codec.definition(key))
    assert receiver.stats().objects == 0


def test_unknown_definitions_are_a_key_error(codec):
    assert not codec.knows(b"x" * 16)
    with pytest.raises(KeyError):
        codec.definition(b"x" * 16)


def test_a_payload_keeps_its_definitions_alive(notebook):
    codec = Codec(made_bytes=0)
    notebook.cell("def make(n):\n    def f(): return n\n    return f")
    payload = codec.encode(notebook.make(1))
    codec.encode(notebook.make(2))  # pushes the first out of the store
    (key,) = payload.definitions
    assert codec.knows(key)
    del payload
    assert not codec.knows(key)


def test_another_minor_version_is_refused(notebook, codec):
    notebook.cell("def f(): return 1")
    payload = codec.encode(notebook.f)
    (key,) = payload.definitions
    header, *rest = codec.definition(key)
    ours = sys.version_info[:2]
    fields = list(pickle.loads(header))
    fields[0] = (3, 7)
    receiver = Codec()
    receiver.learn(key, [pickle.dumps(tuple(fields)), *rest])
    with pytest.raises(
        SerializationError, match=rf"function f to Python {ours[0]}\.{ours[1]}.*bytecode is for Python 3\.7"
    ):
        receiver.decode(payload.body)


def test_what_cannot_be_imported_here_is_a_serialization_error(codec):
    body = b"cno_such_module_xyz\nthing\n."
    with pytest.raises(SerializationError, match="No module named 'no_such_module_xyz'"):
        codec.decode(b"\x80\x05" + body)
    with pytest.raises(SerializationError, match="Can't get attribute"):
        codec.decode(b"\x80\x05cos\nno_such_name\n.")


def test_bodies_with_definitions_are_not_for_plain_pickle(notebook, codec):
    notebook.cell("def f(): return 1")
    with pytest.raises(RuntimeError, match=r"use Codec\.decode"):
        pickle.loads(codec.encode(notebook.f).body)
