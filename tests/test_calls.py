"""Calls from other threads, carried out: `CallRunner` alone, with a clock that the test turns, on both twins."""

import math

import pytest


class Turned:
    """A clock; every look at it takes `tick` seconds."""

    def __init__(self, tick=0.0):
        self.now = 0.0
        self.tick = tick
        self.looks = 0

    def __call__(self):
        self.looks += 1
        self.now += self.tick
        return self.now


def runner_of(core, clock=None, budget=1.0, max_items=10_000):
    """A runner, its mailbox, and the list of what failed."""
    failures = []
    mailbox = core.Mailbox(lambda: None, max_items)
    failed = lambda function, error: failures.append((function, str(error)))  # noqa: E731
    return core.CallRunner(mailbox, clock or Turned(), budget, failed), mailbox, failures


def counts(runner):
    return runner.delivered, runner.discarded, runner.waiting


def test_calls_are_made_once_and_in_order(core):
    runner, mailbox, failures = runner_of(core)
    made = []
    for number in range(1000):
        mailbox.put((made.append, (number,)))
    assert counts(runner) == (0, 0, 1000)
    assert runner.run() is True
    assert made == list(range(1000))
    assert counts(runner) == (1000, 0, 0)
    assert failures == []
    assert runner.run() is True  # nothing to do


def test_what_raises_keeps_none_of_the_others(core):
    runner, mailbox, failures = runner_of(core)
    made = []
    mailbox.put((int, ("no number",)))
    mailbox.put((made.append, (1, 2)))
    mailbox.put((made.append, (3,)))
    assert runner.run() is True
    assert made == [3]
    assert [function for function, _ in failures] == [int, made.append]
    assert "no number" in failures[0][1]
    assert counts(runner) == (3, 0, 0)


async def a_coroutine():
    raise AssertionError("nobody awaits it")


def test_a_coroutine_function_is_refused(core, recwarn):
    runner, mailbox, failures = runner_of(core)
    mailbox.put((a_coroutine, ()))
    assert runner.run() is True
    assert failures == [(a_coroutine, "it is `async def`: call_soon() calls plain functions")]
    assert not recwarn.list  # no "was never awaited"


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_loses_no_call(core, ending):
    def end():
        raise ending

    runner, mailbox, failures = runner_of(core)
    made = []
    for call in ((made.append, (1,)), (end, ()), (made.append, (2,))):
        mailbox.put(call)
    with pytest.raises(ending):
        runner.run()
    assert made == [1]
    assert counts(runner) == (2, 0, 1)
    assert runner.run() is True
    assert made == [1, 2]
    assert failures == []


def test_a_turn_ends_when_its_time_is_over(core):
    clock = Turned()
    runner, mailbox, _ = runner_of(core, clock, budget=1.0)

    def wait(seconds):
        clock.now += seconds

    for _ in range(5):
        mailbox.put((wait, (0.6,)))
    assert runner.run() is False  # 0.6, 1.2
    assert counts(runner) == (2, 0, 3)
    assert runner.run() is False
    assert runner.run() is True
    assert counts(runner) == (5, 0, 0)


def test_without_a_budget_a_turn_takes_what_it_takes(core):
    runner, mailbox, _ = runner_of(core, Turned(tick=1000.0), budget=math.inf)
    for _ in range(600):
        mailbox.put((int, ()))
    assert runner.run() is True
    assert counts(runner) == (600, 0, 0)


def test_quick_calls_look_at_the_clock_seldom(core):
    clock = Turned()
    runner, mailbox, _ = runner_of(core, clock)
    for _ in range(1024):
        mailbox.put((int, ()))
    assert runner.run() is True
    assert clock.looks < 1024 / 16 + 4 * 6 + 6  # one in 16, those of the first few calls, two per batch


def test_a_call_may_bring_a_turn_of_its_own(core):
    runner, mailbox, failures = runner_of(core)
    made = []
    mailbox.put((made.append, (1,)))
    mailbox.put((runner.run, ()))
    mailbox.put((made.append, (2,)))
    mailbox.put((made.append, (3,)))
    assert runner.run() is True
    assert made == [1, 2, 3]
    assert counts(runner) == (4, 0, 0)
    assert failures == []


def test_what_is_given_up_is_counted(core):
    runner, mailbox, _ = runner_of(core)
    made = []

    def end():
        raise SystemExit

    for call in ((end, ()), (made.append, (1,))):
        mailbox.put(call)
    with pytest.raises(SystemExit):
        runner.run()
    mailbox.put((made.append, (2,)))
    assert runner.give_up() == 2  # one was taken already
    assert counts(runner) == (1, 2, 0)
    assert runner.give_up() == 0
    assert not mailbox.put((made.append, (3,)))
    assert made == []


def test_a_call_may_give_up_the_others(core):
    runner, mailbox, _ = runner_of(core)
    made = []
    mailbox.put((runner.give_up, ()))
    mailbox.put((made.append, (1,)))
    assert runner.run() is True
    assert counts(runner) == (1, 1, 0)
    assert made == []
