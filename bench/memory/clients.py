"""The other end of every session: plain sockets, held by the measuring process.

What stays true: a client that was opened has said all that its state asks for, and has read all that it wants to.
"""

import socket
import ssl
from pathlib import Path
from typing import Any

from bench.memory.states import State
from bench.net.measure import HOST
from bench.net.processes import Failed

SECONDS = 60.0  # for which a client waits for the server
SMALL_BUFFER = 4096  # bytes, of a client that does not read


class NoCertificate(Exception):
    """Why TLS cannot be measured here."""


class Certificate:
    """A certificate for `HOST`, in a file for the server, and the context of clients that trust it."""

    def __init__(self, folder: Path) -> None:
        """`NoCertificate` if trustme is not installed."""
        try:
            import trustme
        except ModuleNotFoundError:
            raise NoCertificate("trustme is not installed") from None
        authority = trustme.CA()
        self.path = folder / "server.pem"
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(self.path)
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)


class Clients:
    """Connections in one state; a context that closes them."""

    def __init__(self, state: State, port: int, certificate: Certificate | None) -> None:
        self.state = state
        self.port = port
        self.certificate = certificate
        self.open: list[socket.socket] = []

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def enter(self, count: int) -> None:
        """Bring `count` more sessions into the state. `Failed` if the server does not answer."""
        for _ in range(count):
            try:
                self._enter_one()
            except OSError as error:
                raise Failed(f"client {len(self.open)}: {error}") from None

    def leave(self) -> None:
        """Close every connection."""
        for connection in self.open:
            connection.close()
        self.open.clear()

    def _enter_one(self) -> None:
        connection = self._connect()
        self.open.append(connection)
        if self.state.most_sessions is None:
            connection.sendall(self.state.sends)
        else:
            self._send_what_fits(connection)
        left = self.state.answer_size
        while left:
            received = len(connection.recv(left))
            if not received:
                raise ConnectionError("the server closed the connection")
            left -= received

    def _send_what_fits(self, connection: socket.socket) -> None:
        """One call that does not wait: a server that stops reading would never let it end."""
        connection.setblocking(False)
        connection.send(self.state.sends)

    def _connect(self) -> Any:
        plain = socket.socket()
        try:
            plain.settimeout(SECONDS)
            if self.state.small_buffers:  # before connecting: it bounds what the peer may send ahead
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            plain.connect((HOST, self.port))
            if self.state.tls and not self.state.is_silent:
                assert self.certificate is not None
                return self.certificate.context.wrap_socket(plain, server_hostname=HOST)
        except BaseException:
            plain.close()
            raise
        return plain
