"""How the bytes of one direction become pieces: bytes and the time come in, pieces and the ending go out.

What stays true: bytes come out in the order they went in, none twice; where a split falls depends on the seed and
on the place in the stream alone; nothing comes out after the ending. Knows no loop, no socket and no clock.
"""

from __future__ import annotations

import math
from enum import Enum
from random import Random

from gamenet.testing.chaos import Chaos


class Ending(Enum):
    """How a direction ends."""

    EOF = "eof"
    RESET = "reset"


class Shaper:
    """One direction of a connection under a `Chaos`. `key` tells the directions of one seed apart.

    `feed()` it, and when `due()` has come, `take()` what is to be delivered.
    """

    def __init__(self, chaos: Chaos | None = None, key: str = "") -> None:
        self.chaos = Chaos() if chaos is None else chaos
        self.ending: Ending | None = None
        self.is_frozen = False
        self._rng = Random(f"{self.chaos.seed}/{key}")
        self._held = bytearray()
        self._fed_ending: Ending | None = None
        self._delivered = 0
        self._piece_left = 0  # of the piece that was begun
        self._glued = 0  # bytes at the front that have waited for others long enough
        self._oldest = 0.0  # when the first byte behind those came
        self._drip_left = 0
        self._drip_due = -math.inf  # when the next bytes may drip
        self._stalled_until: float | None = None

    @property
    def held(self) -> int:
        """Bytes that were fed and not delivered."""
        return len(self._held)

    @property
    def delivered(self) -> int:
        """Bytes that were taken so far."""
        return self._delivered

    @property
    def loses_all(self) -> bool:
        """Whether its end was reached or is fed already: what is fed now goes nowhere."""
        return self.ending is not None or self._fed_ending is not None

    def feed(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Bytes were sent. What follows an ending is lost."""
        if data and not self.loses_all:
            if len(self._held) == self._glued:
                self._oldest = now
            self._held += data

    def finish(self, ending: Ending) -> None:
        """The sender ended its direction; that comes out behind all that was fed. The first ending counts."""
        if self._fed_ending is None:
            self._fed_ending = ending

    def clear(self) -> int:
        """Lose what was not delivered; returns how many bytes that was."""
        lost = len(self._held)
        self._held.clear()
        self._glued = 0
        return lost

    def due(self, now: float) -> float | None:
        """When `take()` gives something: `now`, a later time, or None if only `feed()` or `thaw` can change that."""
        if self.is_frozen or self.ending is not None:
            return None
        due = self._due_without_stall(now)
        if due is None or self.chaos.stall is None or self._delivered < self.chaos.stall[0]:
            return due
        if self._stalled_until is None:  # something wants past it for the first time
            self._stalled_until = now + self.chaos.stall[1]
        return None if self._stalled_until == math.inf else max(due, self._stalled_until)

    def take(self, now: float, limit: int | None = None) -> bytes | Ending | None:
        """The next piece, of at most `limit` bytes, or the ending; None before `due()`."""
        due = self.due(now)
        if due is None or due > now:
            return None
        if self._is_cut_off() or not self._held:
            return self._end()
        self._glue(now)
        self._refill_drip(now)
        if not self._piece_left and self.chaos.split is not None:
            self._piece_left = self._rng.randint(*self.chaos.split)
        size = self._next_size(len(self._held) if limit is None else limit)
        piece = bytes(self._held[:size])
        del self._held[:size]
        self._count(size)
        return piece

    def _due_without_stall(self, now: float) -> float | None:
        if self._is_cut_off():
            return now
        if not self._held:
            return None if self._fed_ending is None else now
        due = now
        if self.chaos.coalesce is not None and not self._glued:
            size, seconds = self.chaos.coalesce
            if len(self._held) < size and self._fed_ending is None:
                due = max(due, self._oldest + seconds)
        if not self._drip_left:
            due = max(due, self._drip_due)
        return due

    def _is_cut_off(self) -> bool:
        """Whether chaos ends the direction here, whatever was fed."""
        return self._delivered in (self.chaos.reset, self.chaos.half_close)

    def _end(self) -> Ending:
        if self._delivered == self.chaos.reset:
            self.ending = Ending.RESET
        elif self._delivered == self.chaos.half_close:
            self.ending = Ending.EOF
        else:
            self.ending = self._fed_ending
        assert self.ending is not None
        self.clear()
        return self.ending

    def _glue(self, now: float) -> None:
        if self.chaos.coalesce is not None and not self._glued:
            self._glued = min(len(self._held), self.chaos.coalesce[0])
            self._oldest = now  # what stays behind begins to wait anew

    def _refill_drip(self, now: float) -> None:
        if self.chaos.drip is not None and now >= self._drip_due:
            self._drip_left, seconds = self.chaos.drip
            self._drip_due = now + seconds

    def _next_size(self, limit: int) -> int:
        """Bytes up to the nearest bound; never across a place where something happens."""
        bounds = [len(self._held), limit]
        if self.chaos.coalesce is not None:
            bounds.append(self._glued)
        if self.chaos.drip is not None:
            bounds.append(self._drip_left)
        if self.chaos.split is not None:
            bounds.append(self._piece_left)
        stall = None if self.chaos.stall is None else self.chaos.stall[0]
        for place in (stall, self.chaos.reset, self.chaos.half_close):
            if place is not None and place > self._delivered:
                bounds.append(place - self._delivered)
        return min(bounds)

    def _count(self, size: int) -> None:
        self._delivered += size
        if self.chaos.coalesce is not None:
            self._glued -= size
        if self.chaos.drip is not None:
            self._drip_left -= size
        if self.chaos.split is not None:
            self._piece_left -= size
