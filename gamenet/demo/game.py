"""The game: joins the world and the accounts to a `gamenet.Server`.

What stays true: `session.data` is the session's player exactly while it plays, else None; an account plays in one
session at most, and the newest login wins; every packet is answered to its sender; no password leaves `_login`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gamenet.demo.accounts import Accounts
from gamenet.demo.chat import chat_line
from gamenet.demo.packets import Attack, Chat, ErrorReply, Health, Joined, Left, Login, LoginReply, Move
from gamenet.demo.world import Player, Refused, World
from gamenet.errors import AuthenticationError, ErrorCode, GameNetError
from gamenet.logs import LimitedLogger
from gamenet.packets import Packet, packet_id_of
from gamenet.server import Server
from gamenet.session import Session

PacketT = TypeVar("PacketT", bound=Packet)

LOGIN_TIMEOUT = 20.0
"""Seconds a visitor has to log in before its session is closed, with reason "login_timeout"."""
MAX_FAILED_LOGINS = 5
"""Wrong passwords in one session before it is closed, with reason "failed_logins"."""


@dataclass(slots=True, eq=False)
class _Visitor:
    """A session before its login."""

    deadline: asyncio.TimerHandle
    failed_logins: int = 0


class Game:
    """Handlers on `server` for everything that players do. `clock()` gives seconds; `counts` says what happened."""

    def __init__(
        self, server: Server, accounts: Accounts, world: World, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.server = server
        self.accounts = accounts
        self.world = world
        self.counts: Counter[str] = Counter()
        self.arena = server.sessions.room("arena")
        self._clock = clock
        self._sessions: dict[int, Session] = {}  # by player id
        self._visitors: dict[Session, _Visitor] = {}
        self._log = LimitedLogger(logging.getLogger("gamenet.demo"), clock)
        self._register()

    def _register(self) -> None:
        self.server.on_opened(self._opened)
        self.server.on_closed(self._closed)
        self.server.on(Login)(self._login)
        self._on_playing(Chat, self._chat)
        self._on_playing(Move, self._move)
        self._on_playing(Attack, self._attack)

    def _on_playing(self, packet_type: type[PacketT], action: Callable[[Session, Player, PacketT], None]) -> None:
        """Call `action` for players; visitors, and what the rules refuse, get an error reply."""

        def handle(session: Session, packet: PacketT) -> None:
            try:
                if session.data is None:
                    raise Refused("log in first", ErrorCode.SESSION_NOT_FOUND)
                action(session, session.data, packet)
            except Refused as error:
                self._refuse(session, packet, error)

        self.server.on(packet_type)(handle)

    # -- coming and going

    def _opened(self, session: Session) -> None:
        self._visitors[session] = _Visitor(self._login_deadline(session))

    def _closed(self, session: Session, reason: str) -> None:
        self._forget_visitor(session)
        self._leave(session, reason)

    async def _login(self, session: Session, packet: Login) -> None:
        if session.data is not None:
            return self._refuse(session, packet, Refused("logged in already"))
        name = packet.user_id
        try:
            player_id = await self.accounts.check(name, packet.password)
        except GameNetError as error:
            return self._login_failed(session, packet, error)
        if session.is_open:  # else it was closed meanwhile
            self._enter(session, packet, player_id, name)

    def _login_failed(self, session: Session, packet: Login, error: GameNetError) -> None:
        self.counts["failed_logins"] += 1
        self._say(session, error.code.level, "login of %s failed: %s", repr(packet.user_id), str(error))
        session.reply(packet, LoginReply(error.code, 0))
        visitor = self._visitors.get(session)
        if visitor is not None and isinstance(error, AuthenticationError):
            visitor.failed_logins += 1
            if visitor.failed_logins >= MAX_FAILED_LOGINS:
                session.close("failed_logins")

    def _enter(self, session: Session, packet: Login, player_id: int, name: str) -> None:
        elder = self._sessions.get(player_id)
        if elder is not None:
            self._replace(elder)
        self._forget_visitor(session)
        self.counts["logins"] += 1
        self._say(session, logging.INFO, "%s logged in as player %d", name, player_id)
        session.data = self.world.join(player_id, name)
        self._sessions[player_id] = session
        session.reply(packet, LoginReply(ErrorCode.SUCCESS, player_id))
        self._introduce(session)

    def _introduce(self, session: Session) -> None:
        """Show everybody to the new player, and the new player to everybody."""
        for player in self.world.players.values():
            session.send(_joined(player))
        self.arena.broadcast(_joined(session.data))
        self.arena.add(session)

    def _replace(self, elder: Session) -> None:
        """The same account logs in once more: the player's old connection may hang without anybody knowing yet."""
        elder.send(ErrorReply(ErrorCode.SESSION_NOT_FOUND, packet_id_of(Login), "logged in elsewhere"))
        self._leave(elder, "logged_in_elsewhere")
        elder.close("logged_in_elsewhere")

    def _leave(self, session: Session, reason: str) -> None:
        player: Player | None = session.data
        if player is None:
            return
        session.data = None
        self.arena.discard(session)
        self.world.leave(player)
        del self._sessions[player.id]
        self.arena.broadcast(Left(player.id))
        self._say(session, logging.INFO, "%s left: %s", player.name, reason)

    def _say(self, session: Session, level: int, message: str, *values: object) -> None:
        extra = {"session_id": session.id, "peer": session.peername}
        self._log.log(level, "session %d: " + message, session.id, *values, extra=extra)

    # -- visitors

    def _login_deadline(self, session: Session) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(LOGIN_TIMEOUT, self._login_overdue, session)

    def _login_overdue(self, session: Session) -> None:
        if session.is_suspended:  # it waits for us: its password is being checked
            self._visitors[session].deadline = self._login_deadline(session)
        else:
            session.close("login_timeout")

    def _forget_visitor(self, session: Session) -> None:
        visitor = self._visitors.pop(session, None)
        if visitor is not None:
            visitor.deadline.cancel()

    # -- playing

    def _chat(self, session: Session, player: Player, packet: Chat) -> None:
        self._publish(session, packet, Chat(chat_line(player.name, packet.message)))

    def _move(self, session: Session, player: Player, packet: Move) -> None:
        self.world.move(player, packet.x, packet.y)
        self._publish(session, packet, Move(player.id, player.x, player.y))

    def _attack(self, session: Session, player: Player, packet: Attack) -> None:
        hit = self.world.attack(player, packet.target_id, self._clock())
        target = hit.target
        self._publish(session, packet, Attack(player.id, target.id, hit.damage))
        self.arena.broadcast(Health(target.id, hit.hit_points))
        if hit.is_knockout:
            self.counts["knockouts"] += 1
            self.arena.broadcast(Move(target.id, target.x, target.y))
            self.arena.broadcast(Health(target.id, target.hit_points))

    def _publish(self, session: Session, request: Packet, packet: Packet) -> None:
        """To all in the arena; the sender gets it as the answer to its request."""
        self.arena.broadcast(packet, exclude=session)
        session.reply(request, packet)

    def _refuse(self, session: Session, packet: Packet, error: Refused) -> None:
        self.counts[f"refused: {error}"] += 1
        session.reply(packet, ErrorReply(error.code, packet.packet_id, str(error)))


def _joined(player: Player) -> Joined:
    return Joined(player.id, player.x, player.y, player.hit_points, player.name)
