"""How much the system still holds of what was sent.

A system may take megabytes and give no sign until a third of them is gone, and a TLS layer has a queue of its own: only
what the peer acknowledges tells whether it takes anything.
"""

from __future__ import annotations

import sys
from typing import Any

_SO_NWRITE = 0x1024  # <sys/socket.h> of macOS


def unacknowledged(sock: Any) -> int:
    """Bytes that were given to the system and not acknowledged by the peer; 0 where the system does not say.

    `TIOCOUTQ` on Linux (man 7 tcp), `SO_NWRITE` on macOS. On Windows the size of the transport's own queue must do.
    """
    try:
        return _asked(sock)
    except (OSError, ValueError):  # closed already
        return 0


if sys.platform == "linux":
    import fcntl
    import termios

    def _asked(sock: Any) -> int:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

elif sys.platform == "darwin":
    import socket

    def _asked(sock: Any) -> int:
        return int(sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE))

else:

    def _asked(sock: Any) -> int:
        return 0
