"""Admission: who counts as whom, limits at, below and above, and the pace, with a plain number for the time."""

import pytest


@pytest.fixture
def admission(gamenet):
    return gamenet.admission


@pytest.mark.parametrize(
    ("peername", "network"),
    [
        (("192.0.2.7", 5000), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff:ffff:ffff:ffff", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:3::1", 5000, 0, 0), "2001:db8:1:3::/64"),
        (("::1", 5000, 0, 0), "::/64"),
        (("::ffff:192.0.2.7", 5000, 0, 0), "192.0.2.7"),
        (("::ffff:c000:207", 5000, 0, 0), "192.0.2.7"),
        (("fe80::1%2", 5000, 0, 2), "fe80::1%2"),
        (("fe80::2%2", 5000, 0, 2), "fe80::2%2"),
        (("no:address", 5000), ""),
        ("", ""),
        ("/run/socket", ""),
        (None, ""),
        ((), ""),
        ((1, 2), ""),
    ],
)
def test_what_a_peer_counts_as(admission, peername, network):
    assert admission.network_of(peername) == network


def test_the_prefix_is_the_one_that_the_constant_says(admission):
    assert admission.network_of(("2001:db8::1", 1, 0, 0)).endswith(f"/{admission.IPV6_PREFIX}")


def test_max_sessions_at_below_and_above(admission):
    door = admission.Admission(3)
    assert [door.admit(f"192.0.2.{n}") for n in range(3)] == [None] * 3
    assert (door.held, door.admit("192.0.2.9"), door.held) == (3, "server_full", 3)
    assert door.refused == {"server_full": 1}
    door.release("192.0.2.0")
    assert door.admit("192.0.2.9") is None
    assert door.held_by_network == {"192.0.2.1": 1, "192.0.2.2": 1, "192.0.2.9": 1}


def test_max_sessions_per_address_at_below_and_above(admission):
    door = admission.Admission(100, 2)
    assert [door.admit("a"), door.admit("a"), door.admit("a")] == [None, None, "address_full"]
    assert [door.admit("b"), door.admit("b"), door.admit("b")] == [None, None, "address_full"]
    assert (door.held, door.refused) == (4, {"address_full": 2})
    door.release("a")
    assert [door.admit("a"), door.admit("a")] == [None, "address_full"]
    assert [door.admit("") for _ in range(5)] == [None] * 5  # no address, no limit per address


def test_without_a_limit_per_address_one_may_have_all(admission):
    door = admission.Admission(50)
    assert [door.admit("a") for _ in range(51)] == [None] * 50 + ["server_full"]


def test_a_limit_may_be_changed_while_it_runs(admission):
    door = admission.Admission(2)
    assert [door.admit("a"), door.admit("a"), door.admit("a")] == [None, None, "server_full"]
    door.max_sessions, door.max_sessions_per_address = 4, 3
    assert [door.admit("a"), door.admit("a"), door.admit("b"), door.admit("b")] == [
        None, "address_full", None, "server_full",
    ]  # fmt: skip


def test_nothing_is_left_when_everybody_is_gone(admission):
    door = admission.Admission(10, 5)
    networks = ["a", "b", "a", "", "c", "a"]
    for network in networks:
        assert door.admit(network) is None
    for network in networks:
        door.release(network)
    assert (door.held, door.held_by_network) == (0, {})
    for network in ("a", ""):
        with pytest.raises(ValueError, match="nobody of"):
            door.release(network)


def test_nobody_is_refused_below_the_limits_and_nobody_admitted_above(admission, rng):
    door = admission.Admission(30, 5)
    inside = []
    for _ in range(5000):
        if inside and rng.random() < 0.48:
            door.release(inside.pop(rng.randrange(len(inside))))
            continue
        network = f"192.0.2.{rng.randrange(9)}"
        reason = door.admit(network)
        if len(inside) == 30:
            assert reason == "server_full"
        elif inside.count(network) == 5:
            assert reason == "address_full"
        else:
            assert reason is None
            inside.append(network)
    assert door.held == len(inside)
    assert door.held_by_network == {network: inside.count(network) for network in set(inside)}


# -- the pace


def passing(pace, now):
    """How many pass at `now`."""
    number = 0
    while not pace.delay(now):
        pace.take()
        number += 1
    return number


def test_the_pace_at_once_and_in_the_long_run(admission):
    pace = admission.Pace(10.0, 100.0)
    assert passing(pace, 100.0) == 10
    assert pace.delay(100.0) == pytest.approx(0.1)
    assert passing(pace, 100.09) == 0
    assert passing(pace, 100.11) == 1
    assert passing(pace, 101.11) == 10
    assert passing(pace, 5000.0) == 10  # a quiet hour is no credit for more than a second


def test_it_is_never_late_for_its_own_delay(admission):
    pace, now = admission.Pace(3.0, 0.0), 0.0
    assert passing(pace, now) == 3
    for _ in range(100):
        now += pace.delay(now) + 1e-9
        assert passing(pace, now) == 1


def test_less_than_one_a_second(admission):
    pace = admission.Pace(0.1, 0.0)
    assert passing(pace, 0.0) == 1
    assert pace.delay(0.0) == pytest.approx(10.0)
    assert (passing(pace, 9.9), passing(pace, 10.1)) == (0, 1)


def test_no_pace(admission):
    pace = admission.Pace(None, 0.0)
    for _ in range(1000):
        pace.take()
    assert pace.delay(0.0) == 0.0


def test_a_clock_that_goes_back_gives_nothing_away(admission):
    pace = admission.Pace(10.0, 100.0)
    assert passing(pace, 100.0) == 10
    assert passing(pace, 50.0) == 0
    assert passing(pace, 50.2) == 2
