import pytest

from znb.errors import ProtocolError
from znb.serialize import Codec, MissingDefinitions
from znb.shipping import Cargo, forget, pack, payload_bytes, unpack


def notebook_function():
    namespace = {"__name__": "__main__", "offset": 10}
    exec("def shifted(x):\n    return x + offset", namespace)
    return namespace["shifted"]


def carry(shipment, codec):
    """Decode a shipment in another process's codec."""
    return codec.decode(shipment.body, unpack(shipment.cargo, shipment.frames, codec))


def test_plain_data_travels_without_a_cargo():
    shipment = pack(Codec().encode([1, "two"]), Codec(), set())
    assert shipment.cargo == Cargo()
    assert shipment.frames == []
    assert carry(shipment, Codec()) == [1, "two"]


def test_what_a_peer_has_been_sent_is_remembered_within_bounds(monkeypatch):
    monkeypatch.setattr("znb.shipping.KNOWN", 3)
    ours, theirs, known = Codec(), Codec(), set()
    for _ in range(10):
        function = notebook_function()
        assert carry(pack(ours.encode(function), ours, known), theirs)(1) == 11
        assert len(known) <= 4


def test_a_definition_is_shipped_once_to_each_peer():
    ours, theirs, known = Codec(), Codec(), set()
    payload = ours.encode(notebook_function())
    first, second = pack(payload, ours, known), pack(payload, ours, known)
    assert first.cargo.shipped
    assert not second.cargo.shipped
    assert carry(first, theirs)(1) == 11
    assert carry(second, theirs)(2) == 12
    assert pack(payload, ours, set()).cargo.shipped == first.cargo.shipped


def test_a_definition_that_a_peer_has_lost_goes_again():
    ours, known = Codec(), set()
    payload = ours.encode(notebook_function())
    pack(payload, ours, known)
    forgetful = Codec()
    with pytest.raises(MissingDefinitions) as missing:
        carry(pack(payload, ours, known), forgetful)
    forget(known, missing.value.keys)
    assert carry(pack(payload, ours, known), forgetful)(1) == 11


def test_buffers_come_before_definitions_and_are_not_copied():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000)
    ours, theirs = Codec(), Codec()
    payload = ours.encode((notebook_function(), array))
    shipment = pack(payload, ours, set())
    assert memoryview(shipment.frames[0]).nbytes == array.nbytes
    function, back = carry(shipment, theirs)
    assert function(5) == 15
    assert (back == array).all()
    assert payload_bytes(payload) >= array.nbytes


def test_a_message_without_cargo_has_no_buffers():
    assert unpack(None, [], Codec()) == []


@pytest.mark.parametrize("cargo", ["x", [1, 2], {"a": 1}, [0, [["k", 1]], []]])
def test_a_header_that_is_none_is_refused(cargo):
    with pytest.raises(ProtocolError, match="expected a cargo header"):
        unpack(cargo, [], Codec())


def test_frames_that_were_not_announced_are_refused():
    with pytest.raises(ProtocolError, match="expected 2 frames as the header announces, got 1"):
        unpack(Cargo(2), [b"x"], Codec())
