"""What `GAMENET_POOL_DEBUG` asks of a pool, so that faults around its blocks show themselves.

What stays true: the environment is read when a pool is made, and nothing here costs a pool that is not asked.
"""

from __future__ import annotations

import os
import sys

FILL = 0xDD
"""What free blocks are filled with: no pointer, no small number, no text."""

MODES = "fill, tag, noreuse, fail:n"

_NOT_WHO_ASKS = ("gamenet._pure.", "gamenet._compiled.", "gamenet.pool_debug", "gamenet.object_pool")


class PoolDebug:
    """What to do beside lending and taking back."""

    __slots__ = ("asked", "fails_every", "fills", "tags")

    def __init__(self, fills: bool = False, tags: bool = False, fails_every: int = 0) -> None:
        self.fills = fills
        """Fill what comes back, and look at it before it is lent again."""
        self.tags = tags
        """Record who has a block."""
        self.fails_every = fails_every
        """Refuse every so many-th request; 0: none."""
        self.asked = 0

    def fails_now(self) -> bool:
        """Count a request: whether it is one of those to be refused."""
        if not self.fails_every:
            return False
        self.asked += 1
        return self.asked % self.fails_every == 0


def debug_of_environment() -> PoolDebug | None:
    """What `GAMENET_POOL_DEBUG` says, a list of `fill`, `tag`, `noreuse` and `fail:n`; None if it asks for nothing
    beside `noreuse`. `ValueError` for anything else.
    """
    debug = PoolDebug()
    for mode in _modes():
        name, _, number = mode.partition(":")
        if mode == "fill":
            debug.fills = True
        elif mode == "tag":
            debug.tags = True
        elif name == "fail" and number.isascii() and number.isdigit() and int(number) > 0:
            debug.fails_every = int(number)
        elif mode != "noreuse":
            raise ValueError(f"GAMENET_POOL_DEBUG has {mode!r}, not one of {MODES}")
    return debug if debug.fills or debug.tags or debug.fails_every else None


def reuses_blocks() -> bool:
    """Whether pools lend again what came back: not under `GAMENET_POOL_DEBUG=noreuse` or `GAMENET_POOL_REUSE=0`."""
    return os.environ.get("GAMENET_POOL_REUSE") != "0" and "noreuse" not in _modes()


def who_asks(purpose: str | None = None) -> str:
    """Where the innermost frame outside the pools is, behind what the block is for, if that is known."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_NOT_WHO_ASKS):
        frame = frame.f_back
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return place if purpose is None else f"{purpose}, {place}"


def _modes() -> list[str]:
    return [mode.strip() for mode in os.environ.get("GAMENET_POOL_DEBUG", "").split(",") if mode.strip()]
