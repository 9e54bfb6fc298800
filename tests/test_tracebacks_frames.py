"""Frames, source lines and variables of exceptions that cross processes."""

from __future__ import annotations

import asyncio
import gc
import linecache
import traceback
import weakref
from functools import partial

import msgspec
import pytest

from remote_errors import CODEC, Unprintable, caught, cell, divide, forget, record_of, text_of, travel
from znb.errors import WorkerLost
from znb.tracebacks import detach, encode_record, restore

__all__ = ["forget"]


# -- the frames


def test_frames_lines_and_columns_are_those_of_the_original():
    error = caught(divide, [1, 0], 1)
    original = traceback.extract_tb(error.__traceback__)
    restored = traceback.extract_tb(travel(error).__traceback__)
    assert restored[0].filename == "<w0>"
    for there, here in zip(original, restored[1:], strict=True):
        for name in ("filename", "lineno", "name", "line", "end_lineno", "colno", "end_colno"):
            assert getattr(here, name) == getattr(there, name)
    marks = text_of(error).splitlines()[-3:-1]
    assert "~~~~~~^~~~~~~" in marks[1]
    assert text_of(travel(error)).splitlines()[-4:-2] == marks


def test_raised_here_it_reads_from_the_call_to_the_worker_to_the_error():
    def result():
        raise travel(caught(divide, [1, 0], 1))

    names = [frame.name for frame in traceback.extract_tb(caught(result).__traceback__)]
    assert names == ["caught", "result", "remote", "caught", "divide"]


def test_code_objects_say_where_the_function_begins():
    entry = travel(caught(divide, [1, 0], 1)).__traceback__
    while entry.tb_next:
        entry = entry.tb_next
    code = entry.tb_frame.f_code
    assert code.co_firstlineno == divide.__code__.co_firstlineno
    assert (code.co_name, code.co_qualname) == ("divide", "divide")


def module_of(name, source, filename="<hidden>"):
    namespace = {"__name__": name}
    exec(compile(source, filename, "exec"), namespace)
    return namespace


def test_frames_of_the_framework_are_hidden():
    framework = module_of("znb.worker", "def call(f):\n    return f()")["call"]
    shell = module_of("IPython.core.interactiveshell", "def call(f):\n    return f()")["call"]
    runner = module_of("asyncio.runners", "def call(f):\n    return f()")["call"]

    def user():
        return framework(lambda: divide([1, 0], 1))

    error = caught(framework, partial(shell, partial(runner, user)))
    error.__traceback__ = error.__traceback__.tb_next  # begins inside the framework
    assert [frame[2] for frame in record_of(error).frames] == ["user", "<lambda>", "divide"]


def test_plumbing_below_user_code_is_what_the_user_called():
    async def slow():
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)

    files = [frame[0] for frame in record_of(caught(asyncio.run, slow())).frames]
    assert "asyncio" in files[-1]
    assert __file__ in files


def test_the_demo_is_user_code():
    call = module_of("znb.demo", "def call():\n    1/0")["call"]
    error = caught(call)
    error.__traceback__ = error.__traceback__.tb_next
    assert [f[2] for f in record_of(error).frames] == ["call"]


def test_where_all_frames_are_hidden_the_innermost_tells_where_the_defect_is():
    call = module_of("znb.worker", "def call():\n    1/0\ndef outer():\n    call()")["outer"]
    error = caught(call)
    error.__traceback__ = error.__traceback__.tb_next
    assert [f[2] for f in record_of(error).frames] == ["call"]
    lost = module_of("znb.worker", "def call(e):\n    raise e")["call"]
    error = caught(lost, WorkerLost("w1", "ended"))
    error.__traceback__ = error.__traceback__.tb_next
    assert record_of(error).frames == ()


def test_frames_that_ask_to_be_hidden_are():
    def helper():
        __tracebackhide__ = True
        divide([1, 0], 1)

    assert [f[2] for f in record_of(caught(helper)).frames] == ["caught", "divide"]


def test_other_modules_can_be_hidden():
    assert record_of(caught(lambda: divide([1, 0], 1)), hide={"remote_errors"}).frames[0][2] == "<lambda>"


def test_endless_recursion_is_shown_by_its_ends():
    def recurse(n):
        return recurse(n + 1)

    record = record_of(caught(recurse, 0))
    assert len(record.raised[0].frames) == 81
    restored = restore(record, CODEC)
    assert type(restored) is RecursionError
    assert "frames left out>" in text_of(restored)
    assert len(text_of(restored)) < 3000
    again = record_of(restored)
    (gap,) = (f.skipped for f in record.raised[0].frames if f.skipped)
    assert [f.skipped for f in again.raised[0].frames if f.skipped] == [gap + 1]


def test_frames_without_source_are_shown_without():
    error = caught(module_of("m", "def f():\n    1/0", "module.pyx")["f"])
    assert 'File "module.pyx", line 2, in f\n' in text_of(travel(error))


def test_a_restored_exception_keeps_nobodys_variables_alive():
    class Big:
        pass

    record = record_of(caught(divide, [1, 0], 1))

    def holder():
        big = Big()
        return restore(record, CODEC), weakref.ref(big)

    gc.disable()
    try:
        restored, big = holder()
        assert big() is None
        assert restored.__traceback__ is not None
    finally:
        gc.enable()


def test_raised_again_it_does_not_pile_up_frames():
    restored = travel(caught(divide, [1, 0], 1))

    def result():
        raise detach(restored)

    lengths = {len(traceback.extract_tb(caught(result).__traceback__)) for _ in range(3)}
    assert len(lengths) == 1
    assert detach(local := ValueError()) is local


# -- sources


@pytest.mark.parametrize("label", ["<cell 1>", "/tmp/ipykernel_77/1234.py", "<ipython-input-1-ab>"])
def test_the_source_of_a_cell_travels(forget, label):
    record = record_of(caught(cell, "x = 1\nx / 0\n", label))
    assert record.sources == {label: "x = 1\nx / 0\n"}
    assert label in record.traceback_text
    forget()
    assert "    x / 0\n    ~~^~~\n" in text_of(restore(record, CODEC))
    linecache.checkcache()
    assert linecache.getline(label, 1) == "x = 1\n"


def test_another_cell_of_the_same_name_keeps_its_own_source(forget):
    record = record_of(caught(cell, "x = 1\nx / 0\n"))
    forget()
    linecache.cache["<cell 1>"] = (4, None, ["mine\n"], "<cell 1>")
    restored = restore(record, CODEC)
    assert 'File "<cell 1> (w0)", line 2' in text_of(restored)
    assert "    x / 0\n" in text_of(restored)
    assert linecache.getline("<cell 1>", 1) == "mine\n"
    other = msgspec.structs.replace(record, sources={"<cell 1>": "y = 1\ny / 0\n"})
    assert 'File "<cell 1> (w0, 2)", line 2' in text_of(restore(other, CODEC))
    assert "    x / 0\n" in text_of(restored)


def file_error(path, source):
    path.write_text(source)
    return caught(module_of("work", source, str(path))["f"])


SOURCE = "#\n" * 20 + "def f():\n    a = 1\n    return a / 0\n" + "#\n" * 20


def test_a_file_that_is_the_same_here_is_shown_from_here(tmp_path, forget):
    path = tmp_path / "work.py"
    record = record_of(file_error(path, SOURCE))
    assert record.sources == {}
    assert all(len(e.text.splitlines()) <= 11 for e in record.excerpts)
    forget()
    assert f'File "{path}", line 23, in f\n    return a / 0\n' in text_of(restore(record, CODEC))


def test_of_a_file_that_is_missing_here_the_lines_around_are_shown(tmp_path, forget):
    path = tmp_path / "work.py"
    record = record_of(file_error(path, SOURCE))
    forget()
    path.unlink()
    assert f'File "{path} (w0)", line 23, in f\n    return a / 0\n' in text_of(restore(record, CODEC))
    assert linecache.getline(f"{path} (w0)", 22) == "    a = 1\n"
    assert linecache.getline(f"{path} (w0)", 28) == "#\n"


def test_of_a_file_that_differs_here_the_lines_there_are_shown(tmp_path, forget):
    path = tmp_path / "work.py"
    record = record_of(file_error(path, SOURCE))
    forget()
    path.write_text(SOURCE.replace("a / 0", "a * 2"))
    assert f'File "{path} (w0)", line 23, in f\n    return a / 0\n' in text_of(restore(record, CODEC))
    assert "a * 2" in linecache.getline(str(path), 23)


def test_the_sources_of_a_record_are_bounded(forget):
    lines = "\n".join(f"def f{i}(): f{i + 1}()" for i in range(30)) + "\n"
    namespace = {}
    for i in range(30):
        source = f"def f{i}(): f{i + 1}()\n" + f"# {'x' * 100}\n" * 600
        linecache.cache[f"<cell {i}>"] = (1, None, source.splitlines(keepends=True), f"<cell {i}>")
        exec(compile(source, f"<cell {i}>", "exec"), namespace)
    record = record_of(caught(namespace["f0"]))
    sent = sum(map(len, record.sources.values())) + sum(len(e.text) for e in record.excerpts)
    assert 200_000 < sent <= 256 * 1024
    assert lines.count("f29")
    assert "def f29(): f30()" in text_of(restore(record, CODEC))


def test_the_sources_kept_here_are_bounded(forget):
    record = record_of(caught(cell, "1/0\n"))
    forget()
    for i in range(300):
        restore(msgspec.structs.replace(record, sources={f"<cell {i}>": "1/0\n"}), CODEC)
    assert len([name for name in linecache.cache if name.startswith("<cell")]) == 256
    assert "<cell 299>" in linecache.cache


# -- variables


def secretive(api_key, n, config):
    line = f"password='{config['password']}' and more"
    raise ValueError(len(line), n)


def _reraise(passed_on):
    raise passed_on


def frame_variables(exc):
    *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
    return frame.f_locals


def test_variables_stay_there_by_default():
    variables = frame_variables(travel(caught(divide, [1, 0], 1)))
    assert "ran on w0 (host nb, pid 1234); its variables stayed there" in repr(variables["__remote__"])
    assert set(variables) == {"xs", "i", "total", "__remote__"}
    assert repr(variables["i"]) == (
        "<i stayed on w0 (host nb, pid 1234); workers started with --env ZNB_TRACE_LOCALS=1 send its text along>"
    )


def test_variables_that_stayed_are_told_by_the_place_where_they_are_over_several_hops():
    inner = travel(caught(divide, [1, 0], 1), worker="w1")
    outer = travel(caught(partial(_reraise, inner)))
    stayed = {
        name: repr(value)
        for frame, _ in traceback.walk_tb(outer.__traceback__)
        for name, value in frame.f_locals.items()
        if name in {"passed_on", "i"}
    }
    assert stayed["passed_on"].startswith("<passed_on stayed on w0 ")
    assert stayed["i"].startswith("<i stayed on w1 ")


def test_variables_that_were_sent_go_on_over_the_next_hop():
    inner = restore(record_of(caught(divide, [1, 0], 1), with_locals=True), CODEC)
    variables = frame_variables(travel(caught(partial(_reraise, inner))))
    assert (variables["i"], repr(variables["xs"])) == (1, "[1, 0]")


def test_variables_are_sent_as_text_if_asked_for_with_secrets_masked():
    secret = "-".join("abc")
    error = caught(secretive, secret, 5, {"password": secret, "user": "me"})
    record = record_of(error, with_locals=True)
    assert secret.encode() not in encode_record(record)
    variables = frame_variables(restore(record, CODEC))
    assert variables["n"] == 5
    assert repr(variables["api_key"]) == "<masked>"
    assert repr(variables["config"]) == "{'password': <masked>, 'user': 'me'}"
    with pytest.raises(AttributeError, match="only its text was sent"):
        variables["config"].keys()


def test_variables_are_bounded_and_may_misbehave():
    def f():
        many, odd, long = list(range(10**6)), Unprintable(), "x" * 10**6
        1 / len([many, odd, long][3:])

    record = record_of(caught(f), with_locals=True)
    assert len(encode_record(record)) < 10_000
    variables = frame_variables(restore(record, CODEC))
    assert repr(variables["many"]) == "[0, 1, 2, 3, 4, 5, ...]"
    assert repr(variables["odd"]) == "<Unprintable: its repr raised SystemExit>"
