"""What cannot travel is refused at once, with its name and the path to it."""

import io
import socket
import sys
import threading
import traceback

import numpy as np
import pytest

from serialize_peer import ship
from znb.errors import SerializationError
from znb.serialize import Codec

pytest_plugins = ("serialize_fixtures",)


def refusal(codec, value, **options):
    with pytest.raises(SerializationError) as caught:
        codec.encode(value, **options)
    assert isinstance(caught.value, TypeError)
    return caught.value


def test_a_lock_in_arguments_is_named_with_its_path(codec):
    error = refusal(codec, (len, ({"k": [1, {"lock": threading.Lock()}]},), {}), labels=("function", "args", "kwargs"))
    assert error.path == "args[0]['k'][1]['lock']"
    assert str(error).startswith(
        "cannot send a thread.lock object (at args[0]['k'][1]['lock']): a lock works within one process only"
    )


def test_a_lock_in_keyword_arguments(codec):
    assert (
        refusal(codec, (len, (), {"x": threading.RLock()}), labels=("function", "args", "kwargs")).path == "kwargs['x']"
    )


def test_a_lock_in_an_attribute(notebook, codec):
    notebook.cell(
        "import threading\nclass A:\n    def __init__(self):\n        self.inner = [B()]\nclass B:\n    __slots__ = ('lock',)\n    def __init__(self): self.lock = threading.Lock()"
    )
    assert refusal(codec, notebook.A()).path == ".inner[0].lock"


def test_a_lock_in_a_global(notebook, codec):
    notebook.cell("import threading\nlock = threading.Lock()\ndef f():\n    with lock: return 1\ndef g(): return f()")
    assert refusal(codec, notebook.f).path == "global 'lock' of function f"
    error = refusal(codec, (notebook.g, (), {}), labels=("function", "args", "kwargs"))
    assert error.path == "function → global 'f' of function g → global 'lock' of function f"


def test_a_lock_in_a_closure(notebook, codec):
    notebook.cell(
        "import threading\ndef make():\n    x = threading.Lock()\n    def f(): return x\n    return f\nf = make()"
    )
    assert refusal(codec, notebook.f).path == "closure 'x' of function make.<locals>.f"


def test_a_lock_in_a_default_or_attribute_of_a_function(notebook, codec):
    notebook.cell("import threading\ndef f(a=threading.Lock()): pass\ndef g(): pass\ng.lock = threading.Lock()")
    assert refusal(codec, notebook.f).path == "default 0 of function f"
    assert refusal(codec, notebook.g).path == "attribute 'lock' of function g"


def test_a_lock_in_a_class(notebook, codec):
    notebook.cell("import threading\nclass A:\n    lock = threading.Lock()\nclass B(A): pass")
    assert refusal(codec, notebook.A()).path == "(type A) → attribute 'lock' of class A"
    assert refusal(codec, notebook.B).path == "base of class B → attribute 'lock' of class A"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: (x for x in "a"), "it is running, and cannot be moved"),
        (lambda: threading.Thread(target=len), "a thread belongs to one process"),
        (sys._getframe, "a stack frame belongs to one process"),
        (threading.RLock, "a lock works within one process only"),
        (lambda: io.TextIOWrapper(io.BytesIO()), "an open file belongs to one process"),
    ],
)
def test_things_of_one_process(codec, make, text):
    error = refusal(codec, {"a": [make()]})
    assert text in str(error)
    assert error.path == "['a'][0]"


def test_the_shell_is_refused_as_what_it_is(codec):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.__new__(InteractiveShell)
    vars(shell)["lock"] = threading.Lock()  # a live one has many things that cannot travel
    assert "Call get_ipython() where the code runs" in str(refusal(codec, [shell]))


def test_sockets_and_files(codec, tmp_path):
    with socket.socket() as made:
        assert "connection" in str(refusal(codec, {"s": made}))
    with (tmp_path / "x").open("wb") as file:
        error = refusal(codec, [file])
        assert error.path == "[0]"
        assert "open it inside the function" in str(error)


def test_a_large_list_is_searched_quickly(codec):
    values = list(range(300_000))
    values[123_456] = threading.Lock()
    assert refusal(codec, {"rows": values}).path == "['rows'][123456]"


def test_what_user_code_raised_shows_that_code_alone(notebook, codec):
    notebook.cell("class A:\n    def __reduce__(self): raise ValueError('my own reason')")
    error = refusal(codec, [notebook.A()])
    frames = traceback.extract_tb(error.__cause__.__traceback__)
    assert [frame.name for frame in frames] == ["__reduce__"]


def test_an_object_whose_reduce_raises(notebook, codec):
    notebook.cell("class A:\n    def __reduce__(self): raise ValueError('my own reason')")
    error = refusal(codec, [notebook.A()])
    assert error.path == "[0]"
    assert "my own reason" in str(error)
    assert isinstance(error.__cause__, ValueError)


def test_values_of_library_types_do_not_slow_a_function_down(notebook, codec):
    notebook.cell(
        "import datetime, decimal, pathlib, re, uuid\nimport numpy as np\n"
        "values = (np.float64(1.5), datetime.date(2024, 1, 1), decimal.Decimal(1), pathlib.Path('a'), re.compile('a'), uuid.uuid4())\n"
        "def f(): return values"
    )
    assert codec.encode(notebook.f) is codec.encode(notebook.f)
    notebook.cell("values = values[1:]")
    assert len(ship(codec, Codec(), notebook.f)()) == 5


def test_unknown_builtin_types_are_refused(codec):
    error = refusal(codec, [type(iter([]))])
    assert error.path == "[0]"


def test_deep_nesting_is_an_error_and_not_a_crash(notebook, codec):
    notebook.cell(
        "class Node: pass\nhead = None\nfor i in range(100_000):\n    n = Node()\n    n.next = head\n    head = n"
    )
    assert "nested too deeply" in str(refusal(codec, notebook.head))
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in str(refusal(codec, deep))
    notebook.cell("def f(): return head")
    assert "nested too deeply" in str(refusal(codec, notebook.f))
    node = notebook.head
    vars(notebook.module).clear()
    while node is not None:  # freeing it at once would recurse as deeply
        node = node.__dict__.pop("next")


def test_encode_is_all_or_nothing(notebook, codec):
    notebook.cell(
        "import threading\ndef good(): return 1\nlock = threading.Lock()\ndef bad(): return lock\nclass A: pass"
    )
    refusal(codec, [notebook.A(), notebook.good, np.zeros(100_000), notebook.bad])
    assert codec.stats().made <= 2
    payload = codec.encode(notebook.good)
    assert ship(codec, Codec(), notebook.good)() == 1
    assert len(payload.definitions) == 1
    notebook.cell("lock = 5")
    assert ship(codec, Codec(), notebook.bad)() == 5
