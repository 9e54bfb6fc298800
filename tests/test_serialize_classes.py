"""Classes of a notebook: one object per process and version, at home and on workers."""

import gc
import pickle
import sys
import weakref

import pytest

from serialize_peer import ship
from znb.serialize import Codec

pytest_plugins = ("serialize_fixtures",)


def test_isinstance_holds_across_separate_calls(notebook, peer):
    notebook.cell(
        "class A: pass\nkept = []\ndef keep(a):\n    import builtins\n    builtins.kept = a\ndef check(b):\n    import builtins\n"
        "    return type(builtins.kept) is type(b), isinstance(b, A), isinstance(builtins.kept, A)"
    )
    peer.call(notebook.keep, notebook.A())
    assert peer.call(notebook.check, notebook.A()) == (True, True, True)


def test_instances_come_home_as_the_notebooks_own_class(notebook, ident):
    notebook.cell("class A:\n    def __init__(self, x): self.x = x")
    back = ident(notebook.A([1]))
    assert type(back) is notebook.A
    assert back.x == [1]
    assert ident(notebook.A) is notebook.A


def test_classes_of_a_worker_cell_are_the_same_when_they_go_back(peer, notebook):
    peer.cell("class W:\n    def __init__(self, x): self.x = x\ndef is_mine(w): return type(w) is W")
    value = peer.eval("W(3)")
    assert value.x == 3
    assert type(value) is type(peer.eval("W(4)"))
    assert peer.call(peer.eval("is_mine"), value) is True
    assert peer.call(peer.eval("is_mine"), type(value)(5)) is True


def test_a_foreign_class_goes_on_to_a_third_process(notebook, codec):
    first, second = Codec(), Codec()
    notebook.cell("class A: x = 1")
    on_first = ship(codec, first, notebook.A())
    on_second = ship(first, second, on_first)
    assert type(on_second) is type(ship(codec, second, notebook.A()))
    assert type(ship(second, codec, on_second)) is notebook.A


def test_redefining_a_class_takes_effect(notebook, peer):
    notebook.cell("class A:\n    v = 1\ndef f(): return A().v")
    old = notebook.A()
    assert peer.call(notebook.f) == 1
    notebook.cell("class A:\n    v = 2\ndef get(a): return a.v, isinstance(a, A)")
    assert peer.call(notebook.f) == 2
    assert peer.call(notebook.get, old) == (1, False)
    assert peer.call(notebook.get, notebook.A()) == (2, True)


def test_an_attribute_changed_in_place_updates_the_same_remote_class(notebook, peer):
    notebook.cell(
        "class A:\n    v = 1\n    gone = 1\nkept = None\ndef keep(a):\n    import builtins\n    builtins.kept = a\n"
        "def look(a):\n    import builtins\n    return type(a) is type(builtins.kept), builtins.kept.v, a.v, hasattr(a, 'gone'), a.m()"
    )
    notebook.cell("A.m = lambda self: 'old'")
    a = notebook.A()
    peer.call(notebook.keep, a)
    notebook.A.v = 2
    notebook.cell("A.m = lambda self: 'new'")
    del notebook.A.gone
    assert peer.call(notebook.look, a) == (True, 2, 2, False, "new")


def test_a_mutable_class_attribute_changed_in_place_is_noticed(notebook, peer):
    notebook.cell("class A:\n    xs = [1]\n    deep = {'k': [1]}\ndef f(a): return a.xs, a.deep")
    assert peer.call(notebook.f, notebook.A()) == ([1], {"k": [1]})
    notebook.A.xs.append(2)
    notebook.A.deep["k"].append(2)
    assert peer.call(notebook.f, notebook.A()) == ([1, 2], {"k": [1, 2]})


def test_a_global_that_methods_read_is_noticed(notebook, peer):
    notebook.cell("rate = 1\nclass A:\n    def m(self): return rate")
    a = notebook.A()
    assert peer.call(a.m) == 1
    notebook.cell("rate = 2")
    assert peer.call(a.m) == 2


def test_an_older_payload_brings_back_the_older_version(notebook, peer):
    notebook.cell("class A:\n    v = 1\ndef f(a): return a.v")
    a = notebook.A()
    first = peer.codec.encode((notebook.f, (a,), {}))
    notebook.A.v = 2
    second = peer.codec.encode((notebook.f, (a,), {}))
    assert [peer.send(first), peer.send(second), peer.send(first)] == [1, 2, 1]


def test_unchanged_classes_keep_their_key(notebook, codec):
    notebook.cell(
        "import dataclasses, enum, abc\n@dataclasses.dataclass\nclass P:\n    x: int\n    y: list = dataclasses.field(default_factory=list)\n"
        "class E(enum.Enum):\n    A = 1\nclass B(abc.ABC):\n    @abc.abstractmethod\n    def m(self): ...\n    @property\n    def p(self): return 1\n    @staticmethod\n    def s(): pass"
    )
    for value in (notebook.P(1), notebook.E.A, notebook.B):
        assert len({codec.encode(value).definitions for _ in range(3)}) == 1


def test_redefinitions_are_not_kept(notebook, codec):
    notebook.cell("class A:\n    def m(self): return A, __class__")
    codec.encode(notebook.A())
    reference = weakref.ref(notebook.A)
    notebook.cell("class A: pass")
    gc.collect()
    assert reference() is None


def test_a_class_that_was_dropped_and_comes_again_is_the_same(notebook, codec):
    receiver = Codec(learned_bytes=20_000)
    notebook.cell("class A: pass\ndef make(n):\n    def f(): return n\n    return f")
    held = ship(codec, receiver, notebook.A())
    for n in range(20):
        ship(codec, receiver, notebook.make(n))
    payload = codec.encode(notebook.A())
    assert not receiver.knows(payload.definitions[0])
    assert type(ship(codec, receiver, notebook.A())) is type(held)


def test_a_failing_load_leaves_nothing_half_made(notebook, codec):
    receiver = Codec()
    notebook.cell(
        "import sys\nclass Picky:\n    def __setstate__(self, s):\n        if sys.flags_for_test: raise OSError('not now')\n        self.ok = True\n    def __getstate__(self): return 1\nclass A:\n    p = Picky()\n    def m(self): return self.p.ok"
    )
    payload = codec.encode(notebook.A)
    for key in payload.definitions:
        receiver.learn(key, codec.definition(key))
    sys.flags_for_test = True
    try:
        with pytest.raises(OSError, match="not now"):
            receiver.decode(payload.body)
        assert receiver.stats().objects == 0
        sys.flags_for_test = False
        assert receiver.decode(payload.body)().m() is True
    finally:
        del sys.flags_for_test


def test_objects_pickled_by_a_name_in_main_are_refused(notebook, codec):
    from znb.errors import SerializationError

    notebook.cell("class Sentinel:\n    def __reduce__(self): return 'MISSING'\nMISSING = Sentinel()")
    with pytest.raises(SerializationError, match=r"the name 'MISSING' in the main module") as caught:
        codec.encode({"a": [notebook.MISSING]})
    assert caught.value.path == "['a'][0]"
    assert codec.decode(codec.encode(["__main__", "x", "__main__"]).body) == ["__main__", "x", "__main__"]


def test_classes_whose_metaclass_compares_oddly(notebook, codec):
    receiver = Codec()
    notebook.cell(
        "class Meta(type):\n    def __eq__(cls, other): return True\n    def __hash__(cls): return 1\nclass A(metaclass=Meta): pass\nclass B(metaclass=Meta): pass"
    )
    a, b = ship(codec, receiver, (notebook.A(), notebook.B()))
    assert type(a).__name__ == "A"
    assert type(b).__name__ == "B"


def test_plain_pickle_would_send_a_name(notebook, codec):
    """What the by-name check is for."""
    notebook.cell("class A: pass")
    assert b"__main__" in pickle.dumps(notebook.A)
    assert b"__main__" not in codec.encode(notebook.A).body
