"""Warming up ends when queries get neither faster nor slower, or with the time; it keeps nothing."""

from edgers.benchmark.warm_up import CHANGE, FEWEST, FIRST, SHORTEST_MS, Windows, warm_up
from tests.edgers.benchmarks import query

LONG = SHORTEST_MS / FEWEST  # of queries that fill a window in the fewest


class Scripted:
    """A scenario whose queries say that they took so long."""

    samples, batch_size = 1, 1

    def __init__(self, latencies):
        self.latencies, self.numbers = iter(latencies), []

    def ask(self, number, samples, keep):
        self.numbers.append(number)
        keep(query(0, next(self.latencies), samples=samples))


def windows(*latencies):
    found = Windows()
    for latency in latencies:
        found.add(query(0, latency))
    return found


def test_a_window_has_so_many_queries_and_lasts_so_long():
    assert windows(*[LONG] * (FEWEST - 1)).medians == []
    assert windows(*[LONG] * FEWEST).medians == [LONG]
    assert windows(*[10 * LONG] * (FEWEST - 1)).medians == []
    assert windows(*[LONG / 2] * FEWEST).medians == []
    assert windows(*[LONG / 2] * 2 * FEWEST).medians == [LONG / 2]


def test_it_is_steady_when_the_newest_window_is_not_much_faster_or_slower_than_the_one_before():
    slow, fell, rose = ([2 * LONG * (1 + change)] * FEWEST for change in (0, -2 * CHANGE, 2 * CHANGE))
    assert not windows(*slow).steady
    assert windows(*slow, *slow).steady
    assert not windows(*slow, *rose).steady
    assert windows(*slow, *rose, *rose).steady
    for change in (-CHANGE / 2, CHANGE / 2):
        assert windows(*slow, *[2 * LONG * (1 + change)] * FEWEST).steady
    assert not windows(*slow, *fell).steady
    assert windows(*slow, *fell, *fell).steady


def test_one_slow_query_does_not_move_a_windows_median():
    assert windows(*[LONG] * FEWEST, 100 * LONG, *[LONG] * (FEWEST - 1)).medians == [LONG, LONG]


def test_warming_up_goes_on_while_queries_get_faster_and_then_ends():
    faster = [LONG * (10 - i // FEWEST) for i in range(4 * FEWEST)]
    scripted = Scripted([*faster, *[LONG * 7] * 100])
    record, queries = warm_up(scripted, 1000.0)
    assert record.steady
    assert record.queries == len(queries) == 5 * FEWEST
    assert record.said.startswith("steady: ")


def test_warming_up_that_is_cut_short_says_that_nobody_knows():
    record, queries = warm_up(Scripted([LONG]), 0.0)
    assert (record.queries, len(queries), record.steady) == (1, 1, False)
    assert "not known to be steady" in record.said


def test_a_median_that_stayed_is_said_once():
    assert windows(*[17.0] * 60).said().startswith("steady: the median stayed at 17 ms between windows")


def test_a_warm_up_that_still_falls_is_not_called_steady():
    still = windows(*[2 * LONG] * FEWEST, *[LONG] * FEWEST)
    assert still.said().startswith("not steady, warm up longer: the median went from 200 to 100 ms")


def test_warming_up_goes_on_while_queries_get_slower():
    scripted = Scripted([*[LONG] * FEWEST, *[2 * LONG] * 100])
    record, queries = warm_up(scripted, 1000.0)
    assert (record.steady, len(queries)) == (True, 3 * FEWEST)


def test_a_warm_up_whose_queries_get_slower_says_so():
    throttled = windows(*[LONG] * FEWEST, *[1.2 * LONG] * FEWEST)
    assert throttled.said().startswith("not steady: queries get slower (the median went from 100 to 120 ms")


def test_what_warms_up_has_other_noise_than_what_is_measured():
    scripted = Scripted([LONG] * 100)
    warm_up(scripted, 1000.0)
    assert scripted.numbers == [*range(FIRST, FIRST + 2 * FEWEST)]
