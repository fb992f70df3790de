"""What stands in for a connection that its peer has ended, while its session has packets left to dispatch.

What stays true: what is written to it goes nowhere; when it is ended it tells its session so, once, in a later turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


class GoneTransport(asyncio.Transport):
    """In place of `transport`, which tells what there is to know of the connection."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, protocol: asyncio.BaseProtocol
    ) -> None:
        super().__init__()
        self._loop = loop
        self._transport = transport
        self._protocol = protocol
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody is there to take it."""

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """The same."""

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """The same."""

    def is_reading(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol
