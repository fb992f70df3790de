"""What a type checker sees of an object pool. Checked by mypy, never run."""

import asyncio
from typing import assert_type

from gamenet import Lease, ObjectPool


class Player:
    def __init__(self) -> None:
        self.name = ""

    def reset(self) -> None:
        self.name = ""


pool = ObjectPool(Player, max_objects=2, when_empty="wait", running_loop=asyncio.get_running_loop)
assert_type(pool, ObjectPool[Player])
assert_type(pool.acquire(), Lease[Player])
assert_type(pool.acquire().object, Player)
with pool.acquire() as player:
    assert_type(player, Player)


async def waits() -> None:
    async with pool.acquire_async() as player:
        assert_type(player, Player)
    assert_type(await pool.acquire_async(), Lease[Player])


lists = ObjectPool(list[int], reset=list.clear)
assert_type(lists.acquire().object, list[int])
ObjectPool(Player, reset=lambda player: player.nothing)  # type: ignore[attr-defined]
