"""Tests in virtual time."""

import asyncio


def run(gamenet, main):
    """What `main()` returns, on a loop of that twin on which waiting takes no time."""
    with asyncio.Runner(loop_factory=gamenet.testing.VirtualTimeLoop) as runner:
        return runner.run(main())


def names(states):
    """The names of a client's states."""
    return [type(state).__name__ for state in states]
