import itertools

from znb.progress import TqdmProgress, total_of


def test_the_total_is_that_of_the_shortest_sized_iterable():
    assert total_of(([1, 2, 3], range(2))) == 2
    assert total_of((itertools.count(), "abcd")) == 4
    assert total_of((itertools.count(), iter([1]))) is None


def test_a_bar_counts_results_failures_and_retries(capsys):
    bar = TqdmProgress("scoring", 4)
    bar.update(3, 1, 0)
    bar.update(1, 0, 2)
    bar.close()
    shown = capsys.readouterr().err
    assert "scoring: 100%" in shown
    assert "4/4" in shown
    assert "failed=1, retried=2" in shown


def test_without_a_terminal_a_bar_is_a_line_and_not_a_film(capsys):
    bar = TqdmProgress("long", 10_000)
    for _ in range(10_000):
        bar.update(1, 0, 0)
    bar.close()
    assert capsys.readouterr().err.count("\r") <= 3


def test_a_map_without_results_shows_no_bar(capsys):
    TqdmProgress("none", 0).close()
    assert capsys.readouterr().err == ""
