"""Arguments of a wrong type or value are named, with what was expected and what came."""

from __future__ import annotations

import math

import pytest

from znb.checks import check_bind, check_mapping, check_seconds, check_text


def test_text_is_returned():
    assert check_text("on", "local", "local") == "local"


@pytest.mark.parametrize("value", [None, 5, b"local", ["local"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(TypeError, match=r"on must be text such as 'local', got "):
        check_text("on", value, "local")


def test_empty_text_is_refused():
    with pytest.raises(ValueError, match="on must not be empty"):
        check_text("on", " ", "local")


@pytest.mark.parametrize("value", [1, 0.25])
def test_seconds_are_returned(value):
    assert check_seconds("timeout", value) == value


@pytest.mark.parametrize("value", ["3", True, 1j])
def test_what_is_no_number_of_seconds_is_refused(value):
    with pytest.raises(TypeError, match="timeout must be a number of seconds, got "):
        check_seconds("timeout", value)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_seconds_that_no_clock_shows_are_refused(value):
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds, got "):
        check_seconds("timeout", value)


def test_nothing_is_an_empty_mapping():
    assert check_mapping("push", None, "{'x': 1}") == {}


@pytest.mark.parametrize("value", ["x", 5, [("x", 1)], {1: "x"}])
def test_what_maps_no_names_is_refused(value):
    with pytest.raises(TypeError, match=r"push must .*{'x': 1}, got "):
        check_mapping("push", value, "{'x': 1}")


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("tcp://10.0.0.5:20000-20100", "tcp://10.0.0.5:20000-20100"),
        ("tcp://10.0.0.5", "tcp://10.0.0.5:*"),
        ("tcp://*:7000", "tcp://*:7000"),
        (" tcp://[fe80::1]:* ", "tcp://[fe80::1]:*"),
        ("tcp://alpha.example.org:1", "tcp://alpha.example.org:1"),
    ],
)
def test_an_address_to_listen_at_has_its_ports(value, meant):
    assert check_bind("bind", value) == meant


@pytest.mark.parametrize(
    "value", ["10.0.0.5:20", "tcp://", "tcp://a:0", "tcp://a:70000", "tcp://a:30-20", "tcp://fe80::1:5", "ipc://x"]
)
def test_what_is_no_address_to_listen_at_is_refused(value):
    with pytest.raises(ValueError, match=r"bind must be an address of tcp.* such as tcp://10.*; got "):
        check_bind("bind", value)
