import pytest

from znb.errors import NoWorkers
from znb.targets import select

NAMES = ("w0", "w1", "w2", "w3")


def least(names):
    return names[-1]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("all", NAMES),
        ("any", ("w3",)),
        (0, ("w0",)),
        ("0", ("w0",)),
        ("0,2", ("w0", "w2")),
        ("1:3", ("w1", "w2")),
        ("1:", ("w1", "w2", "w3")),
        ("::2", ("w0", "w2")),
        ("-1", ("w3",)),
        (-1, ("w3",)),
        ("w2", ("w2",)),
        (" w2 , w0 ", ("w2", "w0")),
        (["w1", 0], ("w1", "w0")),
        (slice(None), NAMES),
        (slice(1, 3), ("w1", "w2")),
        ("0,w0,0", ("w0",)),
    ],
)
def test_every_form_names_the_workers_it_should(target, expected):
    assert select(target, NAMES, least) == expected


@pytest.mark.parametrize("target", ["w9", "x", "1:y", "1:2:3:4", "--"])
def test_an_unknown_name_says_which_there_are(target):
    with pytest.raises(KeyError, match="w0, w1, w2, w3"):
        select(target, NAMES, least)


@pytest.mark.parametrize("target", [4, "4", -5, "0,7"])
def test_a_number_out_of_range_says_how_many_there_are(target):
    with pytest.raises(IndexError, match="there are 4"):
        select(target, NAMES, least)


def test_an_empty_choice_and_an_empty_cluster_are_no_workers():
    with pytest.raises(NoWorkers, match="names none"):
        select(slice(9, 12), NAMES, least)
    with pytest.raises(NoWorkers, match="scale it up"):
        select("all", (), least)


def test_another_type_is_refused():
    with pytest.raises(TypeError, match=r"expected a worker's name, number or slice.*got 1\.5"):
        select(1.5, NAMES, least)
