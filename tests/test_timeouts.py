"""Deadlines, with a clock that the test turns."""

import gc
import random
import weakref

import pytest

from gamenet import Deadline, TimeoutManager


class Peer:
    """Something that is active at times, and remembers when it was given up."""

    def __init__(self, manager, timeout, active=0.0):
        self.active = active
        self.expired_at = []
        self.now = lambda: None
        self.deadline = Deadline(timeout, lambda: self.active, lambda: self.expired_at.append(self.now()))
        manager.arm(self.deadline)


def run_to(manager, peers, time):
    for peer in peers:
        peer.now = lambda: time
    return manager.advance(time)


def test_silence_expires_once_and_not_early():
    manager = TimeoutManager()
    peer = Peer(manager, 30.0)
    assert manager.next_due == 30.0
    assert [run_to(manager, [peer], time) for time in (0.0, 29.999, 30.0, 31.0, 99.0)] == [0, 0, 1, 0, 0]
    assert (peer.expired_at, len(manager), manager.next_due) == ([30.0], 0, None)


def test_activity_moves_the_deadline_without_touching_the_heap():
    manager = TimeoutManager()
    peer = Peer(manager, 30.0)
    for second in range(1, 100):
        peer.active = float(second)
        assert manager.advance(float(second)) == 0
    assert manager.next_due <= 99.0 + 30.0
    assert run_to(manager, [peer], 128.999) == 0
    assert run_to(manager, [peer], 129.0) == 1


def test_equal_deadlines_fire_in_the_order_they_were_armed():
    manager, order = TimeoutManager(), []
    for number in range(50):
        manager.arm(Deadline(1.0, lambda: 0.0, lambda number=number: order.append(number)))
    assert manager.advance(1.0) == 50
    assert order == list(range(50))


def test_a_disarmed_deadline_is_silent_and_keeps_nothing_alive():
    manager = TimeoutManager()
    peer = Peer(manager, 30.0)
    alive = weakref.ref(peer)
    manager.disarm(peer.deadline)
    manager.disarm(peer.deadline)
    assert (len(manager), peer.deadline.is_armed) == (0, False)
    del peer
    gc.collect()
    assert alive() is None
    assert manager.advance(100.0) == 0


def test_many_that_come_and_go_leave_a_small_heap():
    manager = TimeoutManager()
    stays = Peer(manager, 30.0)
    for _ in range(10_000):
        manager.disarm(Peer(manager, 30.0).deadline)
    assert len(manager) == 1
    assert len(manager._heap) < 200
    assert run_to(manager, [stays], 30.0) == 1


def test_arming_twice_is_refused_and_arming_again_is_not():
    manager = TimeoutManager()
    peer = Peer(manager, 1.0)
    with pytest.raises(ValueError, match="armed already"):
        manager.arm(peer.deadline)
    run_to(manager, [peer], 1.0)
    peer.active = 5.0
    manager.arm(peer.deadline)
    assert run_to(manager, [peer], 6.0) == 1


def test_a_deadline_may_arm_and_disarm_others_when_it_fires():
    manager, fired = TimeoutManager(), []
    second = Deadline(1.0, lambda: 0.0, lambda: fired.append("second"))
    third = Deadline(1.0, lambda: 0.5, lambda: fired.append("third"))

    def first():
        fired.append("first")
        manager.disarm(second)
        manager.arm(third)

    manager.arm(Deadline(1.0, lambda: 0.0, first))
    manager.arm(second)
    assert manager.advance(1.0) == 1
    assert manager.advance(2.0) == 1
    assert fired == ["first", "third"]


@pytest.mark.parametrize(("looks", "first"), [(49, 49), (50, 50), (51, 50), (0, 0), (None, 50)])
def test_no_more_looks_than_it_is_told(looks, first):
    manager, order = TimeoutManager(), []
    for number in range(50):
        manager.arm(Deadline(1.0, lambda: 0.0, lambda number=number: order.append(number)))
    assert manager.advance(1.0, looks) == first
    assert (manager.next_due == 1.0) is (first < 50)
    assert manager.advance(1.0) == 50 - first
    assert order == list(range(50))


def test_a_look_at_one_that_was_active_counts_too():
    manager = TimeoutManager()
    peers = [Peer(manager, 1.0) for _ in range(10)]
    for peer in peers[:6]:
        peer.active = 0.5
    assert run_to(manager, peers, 1.0) == 4
    assert manager.next_due == 1.5
    for peer in peers[:6]:
        peer.active = 1.0
    assert manager.advance(1.5, 5) == 0
    assert manager.next_due == 1.5  # that of the sixth
    assert manager.advance(1.5, 5) == 0
    assert manager.next_due == 2.0


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_timeouts_that_cannot_be(timeout):
    with pytest.raises(ValueError, match="is not above 0"):
        Deadline(timeout, lambda: 0.0, lambda: None)


def test_against_a_simple_model():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    manager, time = TimeoutManager(), 0.0
    peers = [Peer(manager, rng.choice([1.0, 2.5, 7.0])) for _ in range(40)]
    for _ in range(400):
        time += rng.random() * 0.5
        for peer in rng.sample(peers, 5):
            peer.active = time
        run_to(manager, peers, time)
        for peer in peers:
            # expired, once, and only after a silence of its whole timeout; or not yet silent for that long
            assert len(peer.expired_at) <= 1
            if peer.deadline.is_armed:
                assert time < peer.active + peer.deadline.timeout
