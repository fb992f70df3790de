"""The arena: who stands where, who hits whom. No networking; time and randomness are arguments.

What stays true: every position is finite and inside the arena, every player has 1 to `MAX_HIT_POINTS` hit points; a
refused action changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from gamenet.errors import ErrorCode, GameNetError

ARENA_SIZE = 100.0
"""Length of a side; positions go from 0 to this."""
MAX_HIT_POINTS = 100
MIN_DAMAGE, MAX_DAMAGE = 8, 15
ATTACK_RANGE = 10.0
ATTACK_COOLDOWN = 0.5
"""Seconds between two attacks of one player."""


class Refused(GameNetError):
    """The player may not do that now. `code` and the text go back to the client."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.INVALID_PACKET) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True, eq=False)
class Player:
    """One player in the arena. `may_attack_at` is a time of the caller's clock."""

    id: int
    name: str
    x: float
    y: float
    hit_points: int = MAX_HIT_POINTS
    may_attack_at: float = -math.inf

    def distance_to(self, other: Player) -> float:
        """How far away `other` stands."""
        return math.hypot(other.x - self.x, other.y - self.y)


@dataclass(frozen=True, slots=True)
class Hit:
    """What an attack did. `hit_points` are the target's after it; at 0 it stands somewhere else again, healed."""

    target: Player
    damage: int
    hit_points: int

    @property
    def is_knockout(self) -> bool:
        """Whether the target lost its last hit points."""
        return self.hit_points == 0


class World:
    """The arena and its players, by id."""

    def __init__(self, random: Random) -> None:
        self.players: dict[int, Player] = {}
        self._random = random

    def join(self, player_id: int, name: str) -> Player:
        """Put a player somewhere into the arena. `ValueError` if that id is in it."""
        if player_id in self.players:
            raise ValueError(f"player {player_id} is in the arena already")
        player = self.players[player_id] = Player(player_id, name, *self._free_place())
        return player

    def leave(self, player: Player) -> None:
        """Take a player out. `KeyError` if it is not in the arena."""
        del self.players[player.id]

    def move(self, player: Player, x: float, y: float) -> None:
        """Go to `x`, `y`, or to the nearest place inside the arena. `Refused` for what is no number."""
        if not (math.isfinite(x) and math.isfinite(y)):
            raise Refused("a position must be two finite numbers")
        player.x, player.y = _inside(x), _inside(y)

    def attack(self, attacker: Player, target_id: int, now: float) -> Hit:
        """Hit another player. `Refused` if it is not here, too far away, the attacker itself, or if it is too early."""
        target = self.players.get(target_id)
        if target is None:
            raise Refused("nobody of that id is here", ErrorCode.SESSION_NOT_FOUND)
        if target is attacker:
            raise Refused("nobody can attack himself")
        if attacker.distance_to(target) > ATTACK_RANGE:
            raise Refused("the target is out of range")
        if now < attacker.may_attack_at:
            raise Refused("too early for the next attack")
        attacker.may_attack_at = now + ATTACK_COOLDOWN
        return self._hit(target)

    def _hit(self, target: Player) -> Hit:
        damage = min(target.hit_points, self._random.randint(MIN_DAMAGE, MAX_DAMAGE))
        target.hit_points -= damage
        hit = Hit(target, damage, target.hit_points)
        if hit.is_knockout:
            target.x, target.y = self._free_place()
            target.hit_points = MAX_HIT_POINTS
        return hit

    def _free_place(self) -> tuple[float, float]:
        return self._random.uniform(0, ARENA_SIZE), self._random.uniform(0, ARENA_SIZE)


def _inside(value: float) -> float:
    return min(max(value, 0.0), ARENA_SIZE)
