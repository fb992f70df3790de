"""A simulated player: logs in, walks, chats and fights until it is cancelled or its connection ends.

What stays true: a bot does nothing a player's client could not do; with the same seed it draws the same numbers.
"""

from __future__ import annotations

import asyncio
import math
from random import Random

from gamenet.client import Client, connect
from gamenet.demo.packets import FROM_SERVER, Attack, Chat, Joined, Left, Login, LoginReply, Move
from gamenet.demo.round_trips import RoundTrips
from gamenet.errors import AuthenticationError, ErrorCode, SessionClosedError
from gamenet.packets import Packet

STEP_SIZE = 6.0
LOGIN_TIMEOUT = 30.0
"""Seconds; a fleet logs in at once, and the server checks a few passwords at a time."""

_SAYINGS = ("hello", "who is next?", "well fought", "over here", "anybody near the middle?")


class Bot:
    """One simulated player, acting about every `interval` seconds."""

    def __init__(self, name: str, password: str, random: Random, round_trips: RoundTrips, interval: float) -> None:
        self.name = name
        self.player_id = 0
        self.is_playing = False
        self._password = password
        self._random = random
        self._round_trips = round_trips
        self._interval = interval
        self._places: dict[int, tuple[float, float]] = {}  # of every player, by id

    async def play(self, host: str, port: int) -> None:
        """Play until the connection ends, however it does; then raises why: `OSError`, `TimeoutError`,
        `AuthenticationError` or `SessionClosedError`.
        """
        async with connect(host, port, packets=FROM_SERVER) as client:
            both = [asyncio.create_task(self._act(client)), asyncio.create_task(self._watch(client))]
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.is_playing = False
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)
            for task in done:
                task.result()  # raises why it has ended, unless the server closed the connection in order
            raise SessionClosedError(f"the connection has ended: {client.close_reason}")

    async def _act(self, client: Client) -> None:
        await self._log_in(client)
        self.is_playing = True
        while True:
            await asyncio.sleep(self._interval * self._random.uniform(0.5, 1.5))
            await self._request(client, self._next_action())

    async def _log_in(self, client: Client) -> None:
        reply: LoginReply = await client.request(Login(self.name, self._password), timeout=LOGIN_TIMEOUT)
        if reply.code != ErrorCode.SUCCESS:
            raise AuthenticationError(f"login refused: {ErrorCode(reply.code).name}")
        self.player_id = reply.player_id

    async def _request(self, client: Client, packet: Packet) -> None:
        clock = self._round_trips.clock
        started = clock()
        answer = await client.request(packet)
        self._round_trips.add(clock() - started)
        self._see(answer)

    # -- what it sees

    async def _watch(self, client: Client) -> None:
        async for packet in client:
            self._see(packet)

    def _see(self, packet: Packet) -> None:
        if isinstance(packet, (Move, Joined)):
            self._places[packet.player_id] = packet.x, packet.y
        elif isinstance(packet, Left):
            self._places.pop(packet.player_id, None)

    # -- what it does

    def _next_action(self) -> Packet:
        chance = self._random.random()
        if chance < 0.1:
            return Chat(self._random.choice(_SAYINGS))
        target = self._nearest() if chance < 0.4 else None
        return self._step() if target is None else Attack(0, target, 0)

    def _step(self) -> Move:
        x, y = self._places.get(self.player_id, (0.0, 0.0))
        return Move(0, x + self._random.uniform(-STEP_SIZE, STEP_SIZE), y + self._random.uniform(-STEP_SIZE, STEP_SIZE))

    def _nearest(self) -> int | None:
        here = self._places.get(self.player_id, (0.0, 0.0))
        others = {player: place for player, place in self._places.items() if player != self.player_id}
        return min(others, key=lambda player: math.dist(here, others[player]), default=None)
