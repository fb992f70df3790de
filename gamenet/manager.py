"""Groups of sessions: everybody, and rooms.

What stays true: a group holds only sessions that are not closed; members stand in an array, so a broadcast walks
memory in order and joining or leaving is one swap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from gamenet._core import HeaderCodec, RawPacket, broadcast
from gamenet.frames import frame_of
from gamenet.loop_mailbox import LoopMailbox, broadcast_to
from gamenet.session import Session

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class SessionGroup:
    """Sessions, set-like: `in`, `len()`, iteration (over those who are members when it starts), broadcast.

    Locking rule: the thread of the loop only, but for `broadcast_threadsafe()`.
    """

    def __init__(self, codec: HeaderCodec, mailbox: LoopMailbox | None = None) -> None:
        self._codec = codec
        self._mailbox = LoopMailbox() if mailbox is None else mailbox
        self._members: list[Session] = []
        self._places: dict[Session, int] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, session: object) -> bool:
        return session in self._places

    def __iter__(self) -> Iterator[Session]:
        return iter(self._members.copy())

    def add(self, session: Session) -> bool:
        """Add a session; True if it is a member now, False if it is closed already. Adding twice does nothing."""
        if session.is_closed:
            return False
        if session not in self._places:
            self._places[session] = len(self._members)
            self._members.append(session)
        return True

    def discard(self, session: Session) -> bool:
        """Remove a session; True if it was a member."""
        place = self._places.pop(session, None)
        if place is None:
            return False
        last = self._members.pop()
        if last is not session:
            self._members[place] = last
            self._places[last] = place
        return True

    def broadcast(
        self,
        packet: RawPacket | int,
        body: ReadableBuffer = b"",
        sequence: int = 0,
        *,
        exclude: Session | None = None,
    ) -> int:
        """Send one packet to every member but `exclude`; returns how many took it. It is encoded once.

        Arguments and errors as in `Session.send`, but the sequence number is 0 unless it is given, also for a packet
        that was received with one: to everybody else it answers nothing, and their requests must not take it for
        an answer.
        """
        return broadcast(self._members, self._codec, frame_of(self._codec, packet, body, sequence), exclude)

    def broadcast_threadsafe(
        self,
        packet: RawPacket | int,
        body: ReadableBuffer = b"",
        sequence: int = 0,
        *,
        exclude: Session | None = None,
    ) -> bool:
        """As `broadcast()`, from any thread: the bytes are taken now, and sent in the loop's thread to those who are
        members then.

        True if it was accepted; False, and counted, if the server does not run, or if `max_mailbox` calls and sends
        wait. Errors as `broadcast()`.
        """
        frame = frame_of(self._codec, packet, body, sequence)
        item = broadcast_to, (self._members, self._codec, frame, exclude)
        return self._mailbox.put(item) or self._mailbox.refuse()


class Room(SessionGroup):
    """A named group. Sessions leave their rooms by themselves when they close.

    Locking rule: the thread of the loop only, but for `broadcast_threadsafe()`.
    """

    def __init__(self, codec: HeaderCodec, name: str, mailbox: LoopMailbox | None = None) -> None:
        super().__init__(codec, mailbox)
        self.name = name

    def __repr__(self) -> str:
        return f"<Room {self.name!r} of {len(self)}>"

    def add(self, session: Session) -> bool:
        """Let a session in; True if it is a member now, False if it is closed already."""
        added = super().add(session)
        if added:
            session.entered(self)
        return added

    def discard(self, session: Session) -> bool:
        """Let a session out; True if it was a member."""
        session.left(self)
        return super().discard(session)


class SessionManager(SessionGroup):
    """Every session of a server, and its rooms. The server adds and removes them by itself.

    Locking rule: the thread of the loop only, but for `broadcast_threadsafe()`.
    """

    def __init__(self, codec: HeaderCodec, mailbox: LoopMailbox | None = None) -> None:
        super().__init__(codec, mailbox)
        self._by_id: dict[int, Session] = {}
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()

    def get(self, session_id: int) -> Session | None:
        """The session with this id, or None if it is not connected any more."""
        return self._by_id.get(session_id)

    def room(self, name: str) -> Room:
        """The room of this name; made on first use, gone when nobody is in it and nobody refers to it."""
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(self._codec, name, self._mailbox)
        return room

    def rooms(self) -> list[Room]:
        """The rooms that exist now."""
        return list(self._rooms.values())

    def add(self, session: Session) -> bool:
        """Called by the server when a session opened."""
        added = super().add(session)
        if added:
            self._by_id[session.id] = session
        return added

    def discard(self, session: Session) -> bool:
        """Called by the server when a session closed: it leaves every room too."""
        for room in session.rooms:
            room.discard(session)
        self._by_id.pop(session.id, None)
        return super().discard(session)
