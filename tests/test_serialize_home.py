"""Functions that go on to others or come home, where their globals live, and what is kept of them."""

import gc
import operator
import sys
import types
import weakref

import pytest

from serialize_peer import ship
from znb.serialize import Codec

pytest_plugins = ("serialize_fixtures",)


def test_a_function_comes_home_as_itself(notebook, peer):
    notebook.cell(
        "k = 1\ndef helper(): return k\ndef f(): return helper, f\ndef ident(x): return x\ninner = (lambda: (lambda z: z))()"
    )
    assert peer.call(notebook.ident, notebook.f) is notebook.f
    assert peer.call(notebook.f) == (notebook.helper, notebook.f)
    assert peer.call(notebook.ident, notebook.inner) is notebook.inner


def test_a_function_made_on_a_worker_comes_home_and_goes_back(notebook, peer):
    peer.cell("base = 10\ndef adder(n):\n    def add(x): return x + n + base\n    return add\nkept = adder(1)")
    add = peer.eval("kept")
    assert add(1) == 12
    peer.cell("def same(f): return f is kept")
    assert peer.call(peer.eval("same"), add) is True


def test_a_worker_function_with_rebound_globals_is_sent_on_as_it_is_then(notebook, codec):
    notebook.cell("n = 0\ndef f():\n    global n\n    n += 1\n    return n")
    first, second = Codec(), Codec()
    loaded = ship(codec, first, notebook.f)
    assert loaded() == 1
    assert ship(first, second, loaded)() == 2


def test_an_unchanged_worker_function_goes_on_under_its_key(notebook, codec):
    notebook.cell("k = [1]\ndef f(): return k")
    first, second = Codec(), Codec()
    loaded = ship(codec, first, notebook.f)
    assert first.encode(loaded).definitions == codec.encode(notebook.f).definitions
    assert ship(first, second, loaded)() == [1]


def test_functions_of_modules_made_by_hand(notebook, peer):
    module = types.ModuleType("handmade")
    exec("k = 4\ndef f(): return k + g()\ndef g(): return 1\nclass C:\n    def m(self): return g()", vars(module))
    sys.modules["handmade"] = module
    try:
        assert peer.call(module.f) == 5
        assert peer.call(module.C().m) == 1
        notebook.module.handmade = module
        notebook.cell(
            "def through(): return handmade.f(), handmade.k, handmade.__name__, handmade.f.__globals__ is vars(handmade)"
        )
        assert peer.call(notebook.through) == (5, 4, "handmade", True)
    finally:
        del sys.modules["handmade"]


def test_modules_registered_by_value(tmp_path, monkeypatch, notebook):
    (tmp_path / "devmod.py").write_text("k = 1\ndef f(): return k + helper()\ndef helper(): return 1\nclass C: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import devmod

    by_value = set()
    sender = Codec(by_value=by_value)
    assert sender.encode(devmod.f).definitions == ()
    by_value.add("devmod")
    assert len(sender.encode(devmod.f).definitions) == 1
    assert len(sender.encode(devmod.C()).definitions) == 1
    receiver = Codec()
    loaded = ship(sender, receiver, devmod.f)
    assert loaded is not devmod.f
    assert loaded() == 2
    del sys.modules["devmod"]


def test_local_functions_of_libraries_use_the_library_at_the_other_end(notebook, peer):
    assert peer.call(operator.itemgetter(1), "abc") == "b"
    # A function that a library made: its globals are the library's own, imported there.
    notebook.cell(
        "import contextlib\n@contextlib.contextmanager\ndef ctx():\n    yield 5\ndef f():\n    with ctx() as x: return x"
    )
    assert peer.call(notebook.f) == 5


def test_tracebacks_and_getsource_find_the_cell(notebook, peer):
    notebook.cell(
        "def fails(x):\n    y = x + 1\n    raise ValueError('no ' + str(y))  # this very line\nimport inspect\ndef src(): return inspect.getsource(fails)"
    )
    with pytest.raises(ValueError, match="no 2") as caught:
        peer.call(notebook.fails, 1)
    assert "raise ValueError('no ' + str(y))  # this very line" in caught.value.remote_text
    assert '/tmp/ipykernel_1/1.py", line 3, in fails' in caught.value.remote_text
    assert peer.call(notebook.src).startswith("def fails(x):")


def test_long_sources_do_not_travel(notebook, codec):
    notebook.cell("#" + "x" * 300_000 + "\ndef f(): return 1")
    (key,) = codec.encode(notebook.f).definitions
    assert sum(len(frame) for frame in codec.definition(key)) < 5_000


def test_definitions_do_not_keep_functions_alive(notebook):
    codec = Codec()
    notebook.cell("xs = []\nclass A:\n    def m(self): return g()\ndef g(): return f, A, xs\ndef f(): return g()")
    codec.encode((notebook.f, notebook.A))
    references = [weakref.ref(getattr(notebook, name)) for name in ("f", "g", "A")]
    assert codec.stats().objects == 4
    vars(notebook.module).clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert codec.stats().objects == 0


def test_a_thousand_redefinitions_do_not_pile_up(notebook):
    codec = Codec(made_bytes=100_000)
    for n in range(300):
        exec(f"def f(): return {n}\nclass A:\n    x = {n}", vars(notebook.module))
        codec.encode((notebook.f, notebook.A))
    gc.collect()
    stats = codec.stats()
    assert stats.objects <= 4
    assert stats.made_bytes <= 100_000


def test_loaded_functions_go_when_the_store_drops_them(notebook, codec):
    receiver = Codec(learned_bytes=40_000)
    notebook.cell("def make(n):\n    def f(): return n, f\n    return f")
    for n in range(100):
        ship(codec, receiver, notebook.make(n))
    gc.collect()
    assert receiver.stats().objects < 30


def test_get_ipython_is_the_shell_of_the_process_it_runs_in(notebook, codec):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.__new__(InteractiveShell)
    notebook.module.get_ipython = shell.get_ipython
    notebook.cell("def f(): return get_ipython()")
    assert ship(codec, Codec(), notebook.f)() is None  # no shell runs here


def test_long_chains_of_helpers(notebook, peer):
    chain = "\n".join(f"def f{i}(x): return f{i + 1}(x) + 1" for i in range(400)) + "\ndef f400(x): return x"
    notebook.cell(chain)
    assert peer.call(notebook.f0, 0) == 400


def test_eval_and_dunder_name(notebook, peer):
    notebook.cell("def f(): return __name__, __builtins__ is not None, len([1])")
    assert peer.call(notebook.f)[0] == "__main__"
