"""Accepted sockets whose connections are served by one epoll set.

What stays true: a session is connected when `connect()` returns; nothing is ever on its way.
"""

from __future__ import annotations

import asyncio
import socket

from gamenet.session import Session
from gamenet.transports.acceptors import Failed, Tls
from gamenet.transports.epoll import Poller


class EpollAcceptor:
    """One epoll set for all that are connected by it, closed with the last of them."""

    connecting = 0

    def __init__(self, loop: asyncio.AbstractEventLoop, failed: Failed, tls: Tls | None = None) -> None:
        if tls is not None:
            raise RuntimeError("the epoll transport serves plain TCP, not TLS")
        self.poller = Poller(loop)
        self._failed = failed

    def connect(self, sock: socket.socket, peername: object, session: Session) -> None:
        """Own a prepared socket from here on, and connect its session."""
        try:
            self.poller.connect(sock, peername, session)
        except Exception as error:  # before there was a transport: what the session raises is the transport's
            sock.close()
            self._failed(session, None, error)

    def close(self) -> None:
        """Nobody more will come; sessions go on."""
        self.poller.finish()

    async def wait_closed(self) -> None:
        """Returns at once."""
