"""Lists of services and methods as text."""

from znb.cli.listing import headline, methods_text, service_text, services_text

ADD = {"signature": "(a: int, b: int = 1) -> int", "doc": "Sum of two numbers.\n\nReally.", "kind": "call"}
TAIL = {"signature": "(name)", "doc": "", "kind": "stream"}
LONG = {"signature": f"({', '.join(f'argument{n}' for n in range(9))})", "doc": "Takes many.", "kind": "call"}


def test_methods_stand_beside_the_first_lines_of_their_docs():
    assert headline("tail", TAIL) == "tail(name) → items"
    assert methods_text({"methods": {"add": ADD, "tail": TAIL}}) == (
        "add(a: int, b: int = 1) -> int  Sum of two numbers.\ntail(name) → items"
    )
    assert methods_text({"methods": {}}) == ""


def test_a_long_signature_has_its_doc_below_it():
    first, second, third = methods_text({"methods": {"long": LONG, "add": ADD}}).splitlines()
    assert first == f"long{LONG['signature']}"
    assert second.strip() == "Takes many."
    assert second.index("Takes") == third.index("Sum")


def test_all_that_a_service_says():
    told = {"name": "s", "doc": "A service.", "methods": {"add": ADD, "tail": TAIL}}
    assert service_text(told) == (
        "Service s\nA service.\n\nadd(a: int, b: int = 1) -> int\n    Sum of two numbers.\n\n    Really.\n\ntail(name) → items"
    )
    assert service_text({**told, "methods": {"tail": TAIL}}, alone=True) == "tail(name) → items"


def test_services_that_run():
    one = {
        "name": "a",
        "urls": ["ipc:///x"],
        "pids": [1],
        "workers": [""],
        "doc": "First.\nSecond.",
        "methods": {"tail": TAIL},
        "error": "",
    }
    two = {
        "name": "b",
        "urls": ["x", "y"],
        "pids": [2, 3],
        "workers": ["", "w0 on alpha"],
        "doc": "",
        "methods": {},
        "error": "nobody answered",
    }
    assert services_text([one, two]) == (
        "a  ipc:///x, pid 1\n  First.\n  tail(name) → items\nb  2 replicas: pid 2, w0 on alpha\n  It does not answer: nobody answered"
    )
    assert services_text([]) == ""
