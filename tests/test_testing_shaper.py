"""How the bytes of one direction become pieces."""

import math
import random

import pytest

from gamenet.testing import Chaos, Ending, Shaper, chaos


def pieces(shaper, now=0.0, limit=None):
    """Everything that is due at `now`."""
    taken = []
    while (piece := shaper.take(now, limit)) is not None:
        taken.append(piece)
    return taken


def fed(data, now=0.0, key="", **settings):
    shaper = Shaper(chaos(**settings), key)
    shaper.feed(data, now)
    return shaper


def test_without_chaos_everything_comes_at_once():
    shaper = fed(b"abc")
    shaper.feed(b"def", 0.0)
    assert shaper.due(0.0) == 0.0
    assert (shaper.held, pieces(shaper), shaper.held, shaper.delivered) == (6, [b"abcdef"], 0, 6)
    assert shaper.due(0.0) is None
    shaper.finish(Ending.EOF)
    assert pieces(shaper) == [Ending.EOF]
    shaper.feed(b"late", 1.0)
    assert (pieces(shaper, 1.0), shaper.held, shaper.ending) == ([], 0, Ending.EOF)


def test_the_end_comes_behind_the_bytes_and_the_first_end_counts():
    shaper = fed(b"abc")
    shaper.finish(Ending.EOF)
    shaper.finish(Ending.RESET)
    shaper.feed(b"after the end", 0.0)
    assert pieces(shaper) == [b"abc", Ending.EOF]


def test_the_receiver_limits_a_piece():
    assert pieces(fed(b"abcdefg"), limit=3) == [b"abc", b"def", b"g"]


def test_split_byte_by_byte():
    assert pieces(fed(b"abcd", split=1)) == [b"a", b"b", b"c", b"d"]


def test_split_keeps_its_sizes():
    taken = pieces(fed(bytes(10_000), split=(3, 9)))
    assert {len(piece) for piece in taken[:-1]} == set(range(3, 10))
    assert sum(map(len, taken)) == 10_000
    assert [len(piece) for piece in pieces(fed(bytes(10), split=(4, 4)))] == [4, 4, 2]


def cuts(taken):
    places, at = set(), 0
    for piece in taken:
        at += len(piece)
        places.add(at)
    return places


def test_the_same_seed_cuts_at_the_same_places_whenever_the_bytes_come(rng):
    data = bytes(5000)
    at_once = pieces(fed(data, split=50, seed=7))
    assert pieces(fed(data, split=50, seed=7)) == at_once
    assert pieces(fed(data, split=50, seed=8)) != at_once
    assert pieces(fed(data, split=50, seed=7, key="other")) != at_once
    shaper, taken, position = Shaper(chaos(split=50, seed=7)), [], 0
    while position < len(data):
        size = rng.randrange(1, 90)
        shaper.feed(data[position : position + size], 0.0)
        taken += pieces(shaper, limit=rng.randrange(1, 100))
        position += size
    assert cuts(taken) >= cuts(at_once)


def test_coalesce_waits_for_the_time_or_the_size():
    shaper = fed(b"ab", now=1.0, coalesce=(5, 0.5))
    assert (shaper.due(1.0), shaper.take(1.4)) == (1.5, None)
    shaper.feed(b"c", 1.4)
    assert pieces(shaper, 1.5) == [b"abc"]
    shaper.feed(b"abcd", 2.0)
    assert shaper.due(2.1) == 2.5
    shaper.feed(b"efg", 2.1)
    assert pieces(shaper, 2.1) == [b"abcde"]
    assert shaper.due(2.1) == 2.6
    shaper.finish(Ending.EOF)
    assert pieces(shaper, 2.2) == [b"fg", Ending.EOF]


def test_what_was_glued_may_be_split_again():
    shaper = fed(b"ab", coalesce=(4, 1.0), split=(3, 3))
    assert pieces(shaper, 0.9) == []
    shaper.feed(b"cd", 0.9)
    assert pieces(shaper, 0.9) == [b"abc", b"d"]


def test_drip():
    shaper = fed(b"abcdefg", drip=(3, 0.1))
    assert pieces(shaper, 0.0) == [b"abc"]
    assert (shaper.due(0.05), pieces(shaper, 0.05)) == (0.1, [])
    assert pieces(shaper, 0.1) == [b"def"]
    assert pieces(shaper, 5.0) == [b"g"]
    shaper.feed(b"hijk", 5.0)
    assert pieces(shaper, 5.0) == [b"hi"]
    assert pieces(shaper, 5.1) == [b"jk"]


def test_a_drip_may_be_taken_in_parts():
    shaper = fed(b"abcdef", drip=(4, 1.0))
    assert pieces(shaper, 0.0, limit=3) == [b"abc", b"d"]
    assert pieces(shaper, 1.0, limit=3) == [b"ef"]


def test_a_stall_begins_when_something_wants_past_it():
    shaper = fed(b"abc", stall=(3, 2.0))
    assert pieces(shaper, 0.0) == [b"abc"]
    assert shaper.due(10.0) is None
    shaper.feed(b"d", 10.0)
    assert (shaper.due(10.0), pieces(shaper, 11.9), pieces(shaper, 12.0)) == (12.0, [], [b"d"])
    shaper.feed(b"e", 20.0)
    assert pieces(shaper, 20.0) == [b"e"]


def test_a_stall_for_ever_holds_the_end_back_too():
    shaper = fed(b"abcdef", stall=4)
    shaper.finish(Ending.EOF)
    assert pieces(shaper, 0.0) == [b"abcd"]
    assert (shaper.due(1e9), shaper.held) == (None, 2)


def test_a_stall_at_the_very_beginning():
    shaper = fed(b"a", now=3.0, stall=(0, 1.0))
    assert (shaper.due(3.0), pieces(shaper, 4.0)) == (4.0, [b"a"])


@pytest.mark.parametrize(("setting", "ending"), [("reset", Ending.RESET), ("half_close", Ending.EOF)])
def test_the_end_after_a_number_of_bytes(setting, ending):
    shaper = fed(b"abcdef", **{setting: 4})
    assert pieces(shaper) == [b"abcd", ending]
    assert shaper.held == 0
    shaper.feed(b"more", 0.0)
    assert (pieces(shaper), shaper.held) == ([], 0)


@pytest.mark.parametrize(("setting", "ending"), [("reset", Ending.RESET), ("half_close", Ending.EOF)])
def test_the_end_at_once(setting, ending):
    shaper = Shaper(chaos(**{setting: 0}))
    assert (shaper.due(0.0), pieces(shaper)) == (0.0, [ending])


def test_a_reset_behind_a_stall_waits_for_it():
    shaper = fed(b"abcdef", stall=(4, 1.0), reset=4)
    assert pieces(shaper, 0.0) == [b"abcd"]
    assert pieces(shaper, 1.0) == [Ending.RESET]


def test_frozen_nothing_is_due():
    shaper = fed(b"abc")
    shaper.is_frozen = True
    assert (shaper.due(0.0), shaper.take(0.0)) == (None, None)
    shaper.is_frozen = False
    assert pieces(shaper) == [b"abc"]


def test_everything_at_once_loses_and_swaps_no_byte(rng):
    for _ in range(50):
        data = rng.randbytes(rng.randrange(1, 3000))
        shaper = Shaper(
            chaos(split=rng.randrange(1, 40), coalesce=(rng.randrange(1, 60), 0.3), drip=(rng.randrange(1, 50), 0.1),
                  stall=(rng.randrange(len(data)), 0.7), seed=rng.randrange(1000))
        )
        taken, now, position = b"", 0.0, 0
        while shaper.ending is None:
            size = random.Random(position).randrange(1, 500)
            shaper.feed(data[position : position + size], now)
            position += size
            if position >= len(data):
                shaper.finish(Ending.EOF)
            taken += b"".join(piece for piece in pieces(shaper, now) if isinstance(piece, bytes))
            now = max(now, shaper.due(now) or now)
        assert taken == data


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": 0}, "split 0 is below 1"),
        ({"split": (0, 4)}, "split 0 is below 1"),
        ({"split": (5, 4)}, "split takes the smallest and the largest piece, got 5 and 4"),
        ({"coalesce": (0, 1.0)}, "coalesce 0 is below 1"),
        ({"coalesce": (1, 0)}, "coalesce: 0 s is no time above 0"),
        ({"drip": (1, -1.0)}, "drip: -1.0 s is no time above 0"),
        ({"drip": (1, math.inf)}, "drip: inf s is no time above 0"),
        ({"drip": (1, math.nan)}, "drip: nan s is no time above 0"),
        ({"stall": -1}, "stall -1 is below 0"),
        ({"stall": (1, 0)}, "stall: 0 s is not above 0"),
        ({"reset": -1}, "reset -1 is below 0"),
        ({"half_close": -1}, "half_close -1 is below 0"),
        ({"reset": 1, "half_close": 2}, "a direction ends once"),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        chaos(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "1"}, r"split takes a number of bytes, or \(lowest, highest\), got '1'"),
        ({"split": (1, 2.0)}, r"split takes a number of bytes, or \(lowest, highest\), got \(1, 2.0\)"),
        ({"drip": 5}, r"drip takes \(bytes, seconds\), got 5"),
        ({"coalesce": (1, 1.0, 1)}, r"coalesce takes \(bytes, seconds\), got \(1, 1.0, 1\)"),
        ({"stall": 0.5}, r"stall takes a number of bytes, or \(bytes, seconds\), got 0.5"),
        ({"reset": (1, 2)}, r"reset takes a number of bytes, got \(1, 2\)"),
        ({"half_close": 1.0}, r"half_close takes a number of bytes, got 1.0"),
    ],
)
def test_what_is_no_setting(settings, message):
    with pytest.raises(TypeError, match=message):
        chaos(**settings)


def test_the_smallest_that_can_be():
    settings = chaos(split=1, coalesce=(1, 1e-9), drip=(1, 1e-9), stall=0, reset=0)
    assert settings == Chaos(split=(1, 1), coalesce=(1, 1e-9), drip=(1, 1e-9), stall=(0, math.inf), reset=0)
