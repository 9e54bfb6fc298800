"""Functions of a notebook behave on a worker as if the notebook were a module there."""

import asyncio
import functools
import inspect
import linecache
import sys
import types

import pytest

pytest_plugins = ("serialize_fixtures",)


def test_reads_globals_of_the_moment_of_encode(notebook, peer):
    notebook.cell("x = 1\ndef f(): return x")
    assert peer.call(notebook.f) == 1
    first = peer.codec.encode((notebook.f, (), {}))
    notebook.cell("x = 2")
    assert peer.call(notebook.f) == 2
    assert peer.send(first) == 1


def test_a_list_changed_in_place_is_noticed(notebook, peer):
    notebook.cell("xs = [1]\nbig = list(range(1000))\ndef f(): return xs, len(big)")
    assert peer.call(notebook.f) == ([1], 1000)
    notebook.xs.append(2)
    assert peer.call(notebook.f) == ([1, 2], 1000)
    notebook.big.append(0)
    assert peer.call(notebook.f) == ([1, 2], 1001)


def test_a_dict_or_set_changed_in_place_is_noticed(notebook, peer):
    notebook.cell("d = {'a': 1}\ns = {1}\ndef f(): return d, s")
    assert peer.call(notebook.f) == ({"a": 1}, {1})
    notebook.d["a"] = 2
    assert peer.call(notebook.f) == ({"a": 2}, {1})
    notebook.s.add(2)
    assert peer.call(notebook.f) == ({"a": 2}, {1, 2})


def test_a_global_that_appears_or_goes_is_noticed(notebook, peer):
    notebook.cell("def f():\n    try: return y\n    except NameError: return 'none'")
    assert peer.call(notebook.f) == "none"
    notebook.cell("y = None")
    assert peer.call(notebook.f) is None
    notebook.cell("del y")
    assert peer.call(notebook.f) == "none"


def test_unchanged_functions_keep_their_key(notebook, codec):
    notebook.cell("import math\nk = 2.5\nxs = [1, 2]\ndef g(): return k\ndef f(): return g() + math.pi + len(xs)")
    keys = {codec.encode(notebook.f).definitions for _ in range(3)}
    assert len(keys) == 1


def test_the_same_cell_run_again_gives_the_same_key(notebook, codec):
    source = "def f(x, *, y=3):\n    return [x + y for _ in range(2)] if x in {'a', 'b'} else (lambda: x)"
    keys = set()
    for _ in range(3):
        exec(compile(source, "/tmp/ipykernel_1/same.py", "exec"), vars(notebook.module))
        keys.add(codec.encode(notebook.f).definitions)
    assert len(keys) == 1


def test_helpers_that_call_each_other(notebook, peer):
    notebook.cell("def a(x): return b(x) + 1\ndef b(x): return c(x) * 2\ndef c(x): return x")
    assert peer.call(notebook.a, 5) == 11


def test_mutual_recursion(notebook, peer):
    notebook.cell("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)")
    assert peer.call(notebook.even, 10) is True
    assert peer.call(notebook.odd, 10) is False


def test_self_recursion(notebook, peer):
    notebook.cell("def fact(n): return 1 if n < 2 else n * fact(n - 1)")
    assert peer.call(notebook.fact, 20) == 2432902008176640000


def test_recursion_through_a_closure(notebook, peer):
    notebook.cell("def make():\n    def f(n): return 1 if n < 2 else n * f(n - 1)\n    return f\nf = make()")
    assert peer.call(notebook.f, 5) == 120


def test_mutual_recursion_in_closures(notebook, peer):
    notebook.cell(
        "def make():\n"
        "    def even(n): return n == 0 or odd(n - 1)\n"
        "    def odd(n): return n != 0 and even(n - 1)\n"
        "    return even\n"
        "even = make()"
    )
    assert peer.call(notebook.even, 11) is False


def test_helpers_share_one_namespace_for_global_writes(notebook, peer):
    notebook.cell(
        "counter = 0\n"
        "def bump():\n    global counter\n    counter += 1\n"
        "def run():\n    bump()\n    bump()\n    return counter\n"
    )
    assert peer.call(notebook.run) == 2
    assert notebook.counter == 0


def test_helpers_share_mutable_globals(notebook, peer):
    notebook.cell(
        "seen = []\nalias = seen\ndef add(x): seen.append(x)\ndef run():\n    add(1)\n    return alias is seen, alias"
    )
    assert peer.call(notebook.run) == (True, [1])


def test_closures_share_their_cells(notebook, peer):
    notebook.cell(
        "def make():\n"
        "    n = 0\n"
        "    def inc():\n        nonlocal n\n        n += 1\n"
        "    def get(): return n\n"
        "    return inc, get\n"
        "inc, get = make()\n"
        "def run():\n    inc()\n    inc()\n    return get()"
    )
    assert peer.call(notebook.run) == 2


def test_closure_values_are_those_of_the_moment(notebook, peer):
    notebook.cell(
        "def make():\n    n = 1\n    def set_(v):\n        nonlocal n\n        n = v\n    return set_, lambda: n"
    )
    set_, get = notebook.make()
    assert peer.call(get) == 1
    set_(7)
    assert peer.call(get) == 7


def test_an_empty_cell(notebook, peer):
    notebook.cell(
        "def make():\n"
        "    def f():\n        try: return later\n        except NameError: return 'empty'\n"
        "    if False: later = 1\n"
        "    return f\n"
        "f = make()"
    )
    assert peer.call(notebook.f) == "empty"


def test_globals_reached_in_nested_code(notebook, peer):
    notebook.cell(
        "a, b, c, d = 1, 2, 3, 4\n"
        "def f():\n"
        "    def g(): return a\n"
        "    class C:\n        x = b\n        def m(self): return c\n"
        "    return g(), C.x, C().m(), [d for _ in range(1)], (lambda: a)()\n"
    )
    assert peer.call(notebook.f) == (1, 2, 3, [4], 1)


def test_attribute_names_are_no_globals(notebook, codec):
    notebook.cell("import threading\nlock = threading.Lock()\ndef f(x): return x.lock")
    codec.encode(notebook.f)  # the lock is not sent


def test_global_names_agree_with_dis(notebook):
    import dis
    import textwrap

    from znb.serialize.codes import CodeFacts

    def reached(code):
        names = set()
        for each in dis.get_instructions(code):
            if each.opname in {"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"}:
                names.add(each.argval)
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                names |= reached(const)
        return names

    for module in (inspect, linecache, textwrap, functools):
        for function in vars(module).values():
            if isinstance(function, types.FunctionType):
                assert set(CodeFacts(function.__code__).names) == reached(function.__code__)


def test_more_than_256_global_names(notebook, peer):
    source = (
        "\n".join(f"v{i} = {i}" for i in range(600)) + "\ndef f(): return " + " + ".join(f"v{i}" for i in range(600))
    )
    notebook.cell(source)
    assert peer.call(notebook.f) == sum(range(600))


def test_modules_by_name(notebook, peer):
    notebook.cell(
        "import math, os.path as p\nimport xml.dom.minidom\nfrom collections import OrderedDict as OD\n"
        "def f(): return math.pi, p.join('a', 'b'), xml.dom.minidom.parseString('<a/>').documentElement.tagName, OD(a=1)"
    )
    assert peer.call(notebook.f)[1:3] == ("a/b", "a")


def test_submodules_are_imported_at_the_other_end(notebook, peer):
    notebook.cell(
        "import xml.etree.ElementTree\nimport sys\ndef f(): return xml.etree.ElementTree.fromstring('<q/>').tag\n"
        "def loaded(): return 'wave' in sys.modules\nimport wave"
    )
    assert peer.call(notebook.f) == "q"
    assert peer.call(notebook.loaded) is False  # what is not reached is not imported


def test_defaults_keyword_defaults_annotations_and_attributes(notebook, peer):
    notebook.cell(
        "def f(a, b=[1], *, c={'k': 2}) -> 'int':\n    'The doc.'\n    return a, b, c\nf.tag = 'x'\n"
        "def look(g): return g(0), g.__doc__, g.__annotations__, g.tag, g.__name__, g.__qualname__, g.__module__"
    )
    assert peer.call(notebook.look, notebook.f) == (
        (0, [1], {"k": 2}),
        "The doc.",
        {"return": "int"},
        "x",
        "f",
        "f",
        "__main__",
    )


def test_changed_defaults_are_noticed(notebook, peer):
    notebook.cell("def f(b=[1]): return b")
    assert peer.call(notebook.f) == [1]
    notebook.f.__defaults__[0].append(2)
    assert peer.call(notebook.f) == [1, 2]
    notebook.f.__defaults__ = (9,)
    assert peer.call(notebook.f) == 9


def test_changed_code_is_noticed(notebook, peer):
    notebook.cell("def f(): return 1\ndef g(): return 2")
    assert peer.call(notebook.f) == 1
    notebook.f.__code__ = notebook.g.__code__
    assert peer.call(notebook.f) == 2


def test_redefining_a_function_takes_effect(notebook, peer):
    notebook.cell("def h(): return 1\ndef f(): return h()")
    assert peer.call(notebook.f) == 1
    notebook.cell("def h(): return 2")
    assert peer.call(notebook.f) == 2


def test_lambdas(notebook, peer):
    notebook.cell(
        "k = 3\nf = lambda x: x * k\ntable = {'double': lambda x: x * 2, 'k': f}\ndef g(x): return table['double'](x), table['k'](x)"
    )
    assert peer.call(notebook.f, 2) == 6
    assert peer.call(notebook.g, 2) == (4, 6)


def test_functions_inside_containers_follow_their_globals(notebook, peer):
    notebook.cell("k = 1\ndef h(): return k\ntable = [h]\npair = (h, 2)\ndef f(): return table[0](), pair[0]()")
    assert peer.call(notebook.f) == (1, 1)
    notebook.cell("k = 5")
    assert peer.call(notebook.f) == (5, 5)


def test_wraps_decorator(notebook, peer):
    notebook.cell(
        "import functools\n"
        "def twice(fn):\n    @functools.wraps(fn)\n    def inner(*a):\n        return fn(*a) * 2\n    return inner\n"
        "@twice\ndef f(x):\n    'doc of f'\n    return x\n"
        "def look(): return f.__name__, f.__doc__, f.__wrapped__(1), f(4)"
    )
    assert peer.call(notebook.f, 3) == 6
    assert peer.call(notebook.look) == ("f", "doc of f", 1, 8)


def test_lru_cache_with_recursion(notebook, peer):
    notebook.cell(
        "import functools\n@functools.lru_cache(maxsize=17)\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def info(): return fib(30), fib.cache_info().maxsize, fib.cache_parameters()"
    )
    assert peer.call(notebook.fib, 80) == 23416728348467685
    assert peer.call(notebook.info) == (832040, 17, {"maxsize": 17, "typed": False})


def test_lru_cache_in_a_closure(notebook, peer):
    notebook.cell(
        "import functools\ndef make():\n    @functools.cache\n    def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n    return fib\nfib = make()"
    )
    assert peer.call(notebook.fib, 60) == 1548008755920


def test_singledispatch(notebook, peer):
    notebook.cell(
        "import functools\n"
        "class Shape: pass\n"
        "class Square(Shape): pass\n"
        "@functools.singledispatch\ndef show(x): return 'any'\n"
        "@show.register\ndef _(x: int): return 'int'\n"
        "@show.register(Shape)\ndef _(x): return 'shape'\n"
    )
    assert notebook.show(1) == "int"  # fills its cache
    assert [peer.call(notebook.show, x) for x in (1, "a", notebook.Square())] == ["int", "any", "shape"]


def test_partial(notebook, peer):
    notebook.cell(
        "import functools\ndef add(a, b, c=0): return a + b + c\np = functools.partial(add, 1, c=10)\np.note = 'n'\ndef f(): return p(2), p.note"
    )
    assert peer.call(notebook.p, 5) == 16
    assert peer.call(notebook.f) == (13, "n")


def test_a_partial_that_its_function_refers_to(notebook, peer):
    notebook.cell(
        "import functools\ndef down(step, n): return n if n <= 0 else again(n - step)\nagain = functools.partial(down, 2)"
    )
    assert peer.call(notebook.again, 7) == -1


def test_bound_methods(notebook, peer):
    notebook.cell(
        "class Counter:\n    def __init__(self): self.n = 1\n    def add(self, k): return self.n + k\n    __private = lambda self: 3\n"
        "    def mangled(self): return self.__hidden\n    def __hidden(self): return 4\nc = Counter()\nbound = c.add\ndef f(): return bound(1)"
    )
    assert peer.call(notebook.c.add, 5) == 6
    assert peer.call(notebook.f) == 2
    assert peer.call(notebook.c.mangled()) == 4
    assert peer.call([3, 1].index, 1) == 1


def test_static_and_class_methods(notebook, peer):
    notebook.cell(
        "class A:\n    k = 2\n    @staticmethod\n    def s(x): return x + 1\n    @classmethod\n    def c(cls, x): return cls.k * x\nclass B(A):\n    k = 3"
    )
    assert peer.call(notebook.A.s, 1) == 2
    assert peer.call(notebook.A.c, 5) == 10
    assert peer.call(notebook.B.c, 5) == 15


def test_generator_functions(notebook, peer):
    notebook.cell("def gen(n):\n    for i in range(n): yield i * i\ndef f(n): return list(gen(n))")
    assert peer.call(notebook.f, 4) == [0, 1, 4, 9]


def test_coroutine_functions_and_async_generators(notebook, peer):
    notebook.cell(
        "import asyncio\n"
        "async def co(x):\n    await asyncio.sleep(0)\n    return x + 1\n"
        "async def agen():\n    yield 1\n    yield 2\n"
        "async def both(): return await co(1), [x async for x in agen()]\n"
        "def f(): return asyncio.run(both())"
    )
    assert peer.call(notebook.f) == (2, [1, 2])
    assert asyncio.run(notebook.co(1)) == 2


def test_super_and_class_cells(notebook, peer):
    notebook.cell(
        "class A:\n    def m(self): return 'A'\nclass B(A):\n    def m(self): return super().m() + __class__.__name__\ndef f(): return B().m()"
    )
    assert peer.call(notebook.f) == "AB"
    assert peer.call(notebook.B().m) == "AB"


def test_a_global_that_refers_to_the_function_it_is_used_by(notebook, peer):
    notebook.cell(
        "from collections import defaultdict\nvocab = defaultdict(lambda: len(vocab))\nstate = {'v': vocab}\n"
        "def index(words): return [vocab[w] for w in words], state['v'] is vocab"
    )
    assert peer.call(notebook.index, ["a", "b", "a"]) == ([0, 1, 0], True)


def test_objects_keep_sharing_parts_across_globals(notebook, peer):
    notebook.cell(
        "class Model: pass\nclass Trainer:\n    def __init__(self, model): self.model = model\n"
        "model = Model()\ntrainer = Trainer(model)\ndef f(): return trainer.model is model"
    )
    assert peer.call(notebook.f) is True


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_parameters(notebook, peer):
    notebook.cell(
        "def first[T](xs: list[T]) -> T: return xs[0]\nclass Box[T]:\n    def __init__(self, x: T): self.x = x\ntype Pair[T] = tuple[T, T]\n"
        "def f(): return first([Box[int](1)]).x, str(Pair), first.__type_params__[0].__name__, Box.__type_params__[0].__name__"
    )
    assert peer.call(notebook.f) == (1, "Pair", "T", "T")
