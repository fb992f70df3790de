"""Back-off: how long to wait, with no clock and chosen randomness."""

import itertools
import math

import pytest

from gamenet.backoff import Backoff, delays_of


def test_ceilings_double_up_to_the_cap():
    assert list(Backoff(attempts=7).ceilings()) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert list(Backoff(base=0.5, cap=0.5, attempts=3).ceilings()) == [0.5, 0.5, 0.5]


def test_five_attempts_unless_it_is_said_otherwise():
    assert len(list(Backoff().ceilings())) == 5
    assert list(Backoff(attempts=0).ceilings()) == []


def test_none_is_for_ever_and_never_overflows():
    ceilings = itertools.islice(Backoff(attempts=None).ceilings(), 5000)
    assert list(ceilings)[-1] == 30.0


def test_the_whole_delay_is_drawn():
    assert list(Backoff(attempts=3).delays(lambda: 0.0)) == [0.0, 0.0, 0.0]
    assert list(Backoff(attempts=3).delays(lambda: 0.5)) == [0.5, 1.0, 2.0]


def test_full_jitter_is_uniform(rng):
    drawn = [next(Backoff(base=2.0).delays(rng.random)) for _ in range(4000)]
    assert min(drawn) >= 0
    assert max(drawn) < 2.0
    # the mean of 4,000 has a deviation of 0.0091; ten of them
    assert abs(sum(drawn) / len(drawn) - 1.0) < 0.091


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"base": 0}, "base 0 is no time above 0"),
        ({"base": math.nan}, "base nan"),
        ({"base": math.inf}, "base inf"),
        ({"base": 2, "cap": 1.5}, "cap 1.5 is not a time of at least the base of 2"),
        ({"cap": math.inf}, "cap inf"),
        ({"attempts": -1}, "attempts -1 is below 0"),
    ],
)
def test_what_cannot_be_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Backoff(**options)


def test_any_iterable_of_delays():
    assert list(delays_of([1, 2.5, 0], lambda: 0.1)) == [1, 2.5, 0]
    assert list(delays_of(iter((3,)), lambda: 0.1)) == [3]
    assert list(delays_of(Backoff(attempts=2), lambda: 0.25)) == [0.25, 0.5]


@pytest.mark.parametrize("seconds", [-0.1, math.nan, math.inf])
def test_a_delay_that_is_none(seconds):
    delays = delays_of([1, seconds], lambda: 0.1)
    assert next(delays) == 1
    with pytest.raises(ValueError, match=f"a delay of {seconds} s"):
        next(delays)
