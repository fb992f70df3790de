"""What a signal handler or a finalizer does in the middle of a call: one of ours, at each place where it may come."""

import itertools
import sys

from gamenet.errors import PoolExhaustedError


def at_each_place(make, operation, interruption):
    """Yields `(state, result)` of `operation(state)` with `interruption(state)` in between, each time further on.

    `state` is what `make()` gives. The interpreter looks for signals and garbage where a Python function begins and where
    a C function has returned; in extensions there are no such places, so they are interrupted at their end only.
    """
    for place in itertools.count():
        state = make()
        was_interrupted, result = _interrupted_at(place, state, operation, interruption)
        yield state, result
        if not was_interrupted:
            return


def _interrupted_at(place, state, operation, interruption):
    """Whether the operation has so many places, and what it returned."""
    places = itertools.count()
    was_interrupted = False

    def profile(frame, event, argument):
        nonlocal was_interrupted
        if event in ("call", "c_return") and next(places) == place:
            was_interrupted = True
            interruption(state)

    sys.setprofile(profile)
    try:
        result = operation(state)
    finally:
        sys.setprofile(None)
    return was_interrupted, result


# -- interruptions of `state`, a pool and the list of what it lent


def acquire_if_there_is_one(state):
    pool, lent = state
    try:
        lent.append(pool.acquire())
    except PoolExhaustedError:
        return


def acquire_and_release(state):
    acquire_if_there_is_one(state)
    if state[1]:
        state[1].pop().release()
